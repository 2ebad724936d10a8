from __future__ import annotations

import json
import math

import pytest

from edge_dac.errors import BudgetError
from edge_dac.planning.budget import Budget, LayerRank


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"latency_ms": 0}, "latency_ms"),
        ({"latency_ms": -1.0}, "latency_ms"),
        ({"latency_ms": math.nan}, "latency_ms"),
        ({"speedup": math.inf}, "speedup"),
        ({"speedup": 0}, "speedup"),
        ({"max_error": -0.1}, "max_error"),
        ({"mac_fraction": 1.5}, "mac_fraction"),
        ({"mac_fraction": 0}, "mac_fraction"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"uniform_rank": 0}, "uniform_rank"),
        ({"latency_ms": 1, "percentile": 0}, "percentile"),
        ({"latency_ms": 1, "percentile": 100}, "percentile"),
        ({"latency_ms": 1, "speedup": 2}, "speedup"),
    ],
)
def test_unusable_limits_are_named(limits: dict[str, float], named: str) -> None:
    with pytest.raises(BudgetError, match=named):
        Budget(**limits)  # type: ignore[arg-type]


def test_json_round_trip_keeps_everything() -> None:
    budget = Budget(
        latency_ms=12.5,
        percentile=95,
        max_error=0.1,
        layer_ranks={"a": LayerRank("tucker", (8, 16)), "b": LayerRank("dense"), "c": LayerRank("dac", 3)},
    )
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget


def test_json_without_limits_is_empty() -> None:
    assert Budget().to_json() == {}
    assert Budget.from_json({}) == Budget()


def test_json_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(BudgetError, match="latncy"):
        Budget.from_json({"latncy": 3})


def test_fixed_ranks_are_told_apart() -> None:
    assert Budget(uniform_rank=2).fixes_ranks
    assert Budget(layer_ranks={"a": LayerRank("dac", 1)}).fixes_ranks
    assert not Budget(speedup=2).fixes_ranks
