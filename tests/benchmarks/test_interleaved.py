"""The shared timing harness."""

from __future__ import annotations

import pytest

from benchmarks.interleaved import time_interleaved


def test_each_round_runs_everything_once_in_rotating_order() -> None:
    order: list[str] = []
    callables = {name: (lambda name=name: order.append(name)) for name in "abc"}
    time_interleaved(callables, rounds=3, warmup=0)
    assert [order[start : start + 3] for start in (0, 3, 6)] == [list("abc"), list("bca"), list("cab")]


def test_warmup_rounds_are_not_counted() -> None:
    calls: list[int] = []
    timings = time_interleaved({"only": lambda: calls.append(1)}, rounds=4, warmup=2)
    assert len(calls) == 6
    assert timings["only"].rounds == 4
    assert timings["only"].ratio == 1.0


def test_ratio_is_to_the_first_callable() -> None:
    now = [0.0]

    def advance(seconds: float) -> None:
        now[0] += seconds

    timings = time_interleaved(
        {"first": lambda: advance(0.002), "second": lambda: advance(0.001)}, rounds=7, clock=lambda: now[0]
    )
    assert timings["first"].median_ms == pytest.approx(2.0)
    assert timings["second"].ratio == timings["second"].ratio_low == pytest.approx(0.5)


def test_limit_stops_after_five_rounds() -> None:
    assert time_interleaved({"only": lambda: None}, rounds=100, limit_s=0.0)["only"].rounds == 5
