"""Ranks that the user chose."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edge_dac.compression import Options, open_planner, plan_for
from edge_dac.errors import BudgetError, BudgetUnreachableError, UsageError
from edge_dac.planning.budget import Budget, LayerRank
from edge_dac.planning.plan import Plan
from edge_dac.planning.planner import Planner
from edge_dac.schemes import SCHEMES


@pytest.fixture(scope="module")
def planner(tiny_path: Path) -> Planner:
    return open_planner(tiny_path, Options(work_threads=1))


def _ranks(planner: Planner, plan: Plan) -> dict[str, int]:
    """DAC ranks of the layers that can take one; left alone they count in full."""
    dac = SCHEMES["dac"]
    full = {n: dac.ranks(layer)[-1] for n, layer in planner.layers.items() if dac.refuse(layer) is None}
    return {c.layer: c.rank if isinstance(c.rank, int) else full[c.layer] for c in plan.choices if c.layer in full}  # type: ignore[misc]


def test_a_total_is_shared_out_where_it_loses_least(planner: Planner) -> None:
    errors = []
    for total in (2, 6, 12, 18):
        plan = plan_for(planner, Budget(total_rank=total)).plan
        assert {c.scheme for c in plan.choices} <= {"dac", "dense"}
        assert sum(_ranks(planner, plan).values()) <= total
        errors.append(plan.predicted_error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0.0


def test_a_total_below_one_rank_a_layer_is_refused(planner: Planner) -> None:
    with pytest.raises(BudgetError, match="total_rank: expected at least 1 for each of 2 layers, got 1"):
        plan_for(planner, Budget(total_rank=1))


def test_a_layer_that_must_not_be_touched_stays_and_the_others_meet_the_limit(planner: Planner) -> None:
    free = plan_for(planner, Budget(mac_fraction=0.6)).plan
    held = plan_for(planner, Budget(mac_fraction=0.6, layer_ranks={"first": LayerRank("dense")})).plan
    choice = next(choice for choice in held.choices if choice.layer == "first")
    assert (choice.scheme, choice.lowering) == ("dense", "direct")
    assert held.macs <= 0.6 * held.original_macs * (1 + 1e-9)
    assert plan_for(planner, Budget(mac_fraction=0.6)).plan.choices == free.choices


def test_a_held_rank_stays_within_a_plan_for_a_speedup(planner: Planner) -> None:
    plan = plan_for(planner, Budget(speedup=1.3, layer_ranks={"first": LayerRank("dac", 4)})).plan
    choice = next(choice for choice in plan.choices if choice.layer == "first")
    assert (choice.scheme, choice.rank) == ("dac", 4)
    assert plan.measured_ratio is not None
    assert plan.measured_ratio <= 1 / 1.3 * 1.02


def test_fixed_ranks_that_miss_another_limit_say_so(planner: Planner) -> None:
    with pytest.raises(BudgetUnreachableError, match=r"of the MACs where 0\.01 is allowed") as caught:
        plan_for(planner, Budget(uniform_rank=8, mac_fraction=0.01))
    assert caught.value.best is not None


def test_a_rank_above_the_full_one_is_the_full_one(planner: Planner) -> None:
    plan = plan_for(planner, Budget(layer_ranks={"second": LayerRank("dac", 99)})).plan
    assert next(c.rank for c in plan.choices if c.layer == "second") == 9


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"nowhere": LayerRank("dac", 1)}, "expected one of the model's 3 layers, got 'nowhere'"),
        ({"first": LayerRank("magic", 1)}, "expected a scheme of .*, got 'magic'"),
        ({"first": LayerRank("dac", None)}, "expected a rank for scheme 'dac', got none"),
        ({"first": LayerRank("dac", 0)}, "expected a rank of at least 1, got 0"),
    ],
)
def test_a_choice_that_cannot_be_is_named(planner: Planner, choice: dict[str, LayerRank], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        plan_for(planner, Budget(layer_ranks=choice))


def test_layers_can_be_held_in_integers(planner: Planner) -> None:
    held = {name: LayerRank("int8", 8) for name in ("first", "second", "third")}
    result = plan_for(planner, Budget(layer_ranks=held))
    assert {(c.scheme, c.rank, c.lowering) for c in result.plan.choices} == {("int8", 8, "int8")}
    assert 0.0 < result.plan.predicted_error < 1e-2
    operators = [node.op_type for node in onnx.load_from_string(result.model).graph.node]
    assert operators.count("QLinearConv") == 3
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1


def test_bits_that_no_layer_has_are_refused(planner: Planner) -> None:
    with pytest.raises(UsageError, match="int8: expected a rank from 7 to 8, got 3"):
        plan_for(planner, Budget(layer_ranks={"first": LayerRank("int8", 3)}))
