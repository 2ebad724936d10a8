from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.planning.candidates import ORIGINAL, Candidate
from edge_dac.planning.selection import Limits, Option, cheapest_damage, fastest_within


def option(latency_ms: float, macs: int, size_bytes: int, damage: float) -> Option:
    candidate = ORIGINAL if damage == 0 else Candidate("dac", 1, "concat")
    return Option(candidate, latency_ms, macs, size_bytes, damage, damage)


@st.composite
def layers(draw: st.DrawFn) -> list[list[Option]]:
    entry = st.builds(
        option, st.floats(0.1, 9), st.integers(1, 90), st.integers(1, 90), st.floats(0.001, 1, allow_subnormal=False)
    )
    original = option(10, 100, 100, 0.0)
    return [[original, *draw(st.lists(entry, max_size=4))] for _ in range(draw(st.integers(1, 4)))]


@settings(max_examples=150, deadline=None)
@given(layers(), st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 1))
def test_every_limit_holds_and_none_is_missed_that_can_be_met(
    options: list[list[Option]], time: float, work: float, size: float
) -> None:
    count = len(options)
    limits = Limits(10 * count * time, 100 * count * work, 100 * count * size)
    chosen = cheapest_damage(options, limits)
    if chosen is None:
        return
    picked = [entry[index] for entry, index in zip(options, chosen, strict=True)]
    assert sum(o.latency_ms for o in picked) <= limits.latency_ms * (1 + 1e-6)  # type: ignore[operator]
    assert sum(o.macs for o in picked) <= limits.macs * (1 + 1e-6)  # type: ignore[operator]
    assert sum(o.size_bytes for o in picked) <= limits.size_bytes * (1 + 1e-6)  # type: ignore[operator]


@settings(max_examples=100, deadline=None)
@given(layers(), st.floats(0.05, 1), st.sampled_from([0.5, 1.0, 2.0]))
def test_one_limit_is_solved_exactly(options: list[list[Option]], share: float, exponent: float) -> None:
    limit = 10 * len(options) * share
    chosen = cheapest_damage(options, Limits(latency_ms=limit), exponent)
    feasible = [
        sum(o.damage**exponent for o in picked)
        for picked in itertools.product(*options)
        if sum(o.latency_ms for o in picked) <= limit
    ]
    if chosen is None:
        assert not feasible or min(sum(o.latency_ms for o in p) for p in itertools.product(*options)) > limit - 1e-9
    elif feasible:
        found = sum(options[layer][index].damage ** exponent for layer, index in enumerate(chosen))
        assert found <= min(feasible) + 1e-9


def test_without_limits_nothing_is_damaged() -> None:
    chosen = cheapest_damage([[option(10, 1, 1, 0.0), option(1, 1, 1, 0.5)]] * 3, Limits())
    assert chosen == [0, 0, 0]


def test_fastest_within_spends_what_is_allowed() -> None:
    entries = [[option(10, 1, 1, 0.0), option(4, 1, 1, 0.1), option(1, 1, 1, 0.3)]] * 2
    assert sorted(fastest_within(entries, 0.4)) == [1, 2]
    assert fastest_within(entries, 0.0) == [0, 0]
    assert np.isclose(sum(entries[0][index].damage for index in fastest_within(entries, 0.25)), 0.2)
