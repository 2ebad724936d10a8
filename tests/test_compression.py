from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from architectures.tiny import TINY_SHAPE

from edge_dac.compression import Compressed, Options, compress, open_planner, plan_for
from edge_dac.device.latency_table import LatencyTable, candidate_key, layer_signature
from edge_dac.errors import BudgetError, BudgetUnreachableError, ModelNotFoundError
from edge_dac.graph.rewriting import PLAN_KEY
from edge_dac.planning.budget import Budget, LayerRank
from edge_dac.planning.plan import Plan
from edge_dac.progress import Progress


def answer(model: bytes, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": image})[0])


def image(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(batch, *TINY_SHAPE[1:])).astype(np.float32)


SPEEDUP = 1.3
HALF = Budget(mac_fraction=0.5)


Measured = tuple[Compressed, Options, list[Progress]]


@pytest.fixture(scope="module")
def measured(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The tiny network for a budget from a cold start, the tables that it leaves behind, and what was told meanwhile.

    The speed-up is well within what every processor so far reached (1.5x was missed by 3 % on one). Where too much else goes
    on to reach it, it is the best found.
    """
    folder = tmp_path_factory.mktemp("tables")
    # Threads of BLAS wait for each other without sleeping, for long where something else holds a core.
    tables = Options(work_threads=1, latency_table=folder / "latency.json", fidelity_table=folder / "fidelity.json")
    steps: list[Progress] = []
    try:
        result = compress(tiny_path, Budget(speedup=SPEEDUP), tables, progress=steps.append)
    except BudgetUnreachableError as error:
        result = error.best
    return result, tables, steps


@pytest.fixture(scope="module")
def faster(measured: Measured) -> Compressed:
    return measured[0]


@pytest.fixture(scope="module")
def tables(measured: Measured) -> Options:
    """What has been measured of the tiny network, so that a further budget takes little time."""
    return measured[1]


def test_a_budget_gives_a_faster_model_that_answers_nearly_the_same(faster: Compressed, tiny_path: Path) -> None:
    plan = faster.plan
    assert faster.changed
    assert plan.measured_ratio is not None
    assert plan.measured_ratio <= 1 / SPEEDUP * 1.02
    original = answer(tiny_path.read_bytes(), image())
    difference = np.abs(answer(faster.model, image()) - original).max()
    assert difference <= 0.2 * np.abs(original).max()


def test_names_types_and_shapes_stay(faster: Compressed, tiny_path: Path) -> None:
    before, after = onnx.load(tiny_path).graph, onnx.load_from_string(faster.model).graph
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)
    assert answer(faster.model, image(3)).shape == (3, 6, 1, 1)


def test_the_plan_is_recorded_in_the_model(faster: Compressed) -> None:
    recorded = {entry.key: entry.value for entry in onnx.load_from_string(faster.model).metadata_props}
    assert Plan.from_json(json.loads(recorded[PLAN_KEY])) == faster.plan


def test_without_a_budget_only_exact_rewrites_are_used(tiny_path: Path) -> None:
    result = compress(tiny_path, Budget())
    assert {choice.scheme for choice in result.plan.choices} == {"dense"}
    assert result.plan.predicted_error == 0.0
    np.testing.assert_allclose(
        answer(result.model, image()), answer(tiny_path.read_bytes(), image()), rtol=1e-4, atol=1e-4
    )


def test_full_rank_reproduces_the_original(tiny_path: Path) -> None:
    result = compress(tiny_path, Budget(uniform_rank=9))
    assert {c.layer: c.scheme for c in result.plan.choices} == {"first": "dac", "second": "dac", "third": "dense"}
    original = answer(tiny_path.read_bytes(), image())
    assert np.abs(answer(result.model, image()) - original).max() <= 1e-4 * np.abs(original).max()


def test_fixed_ranks_are_obeyed_and_slowness_is_told(tiny_path: Path) -> None:
    result = compress(tiny_path, Budget(layer_ranks={"second": LayerRank("dac", 99)}))
    choice = next(choice for choice in result.plan.choices if choice.layer == "second")
    assert (choice.scheme, choice.rank) == ("dac", 9)
    ratio = result.plan.measured_ratio
    assert ratio is not None
    assert bool(result.plan.warnings) == (ratio > 1)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"nobody": LayerRank("dac", 2)}, "nobody"),
        ({"second": LayerRank("fourier", 2)}, "fourier"),
        ({"second": LayerRank("dac", 0)}, "at least 1"),
        ({"second": LayerRank("dac")}, "got none"),
        ({"third": LayerRank("dac", 1)}, "third"),
    ],
)
def test_ranks_that_make_no_sense_are_named(tiny_path: Path, ranks: dict[str, LayerRank], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        compress(tiny_path, Budget(layer_ranks=ranks))


def test_an_impossible_budget_carries_the_best_found(tiny_path: Path, tables: Options) -> None:
    with pytest.raises(BudgetUnreachableError, match="cannot be met") as caught:
        compress(tiny_path, Budget(speedup=1000), tables)
    best = caught.value.best
    assert isinstance(best, Compressed)
    assert best.plan.measured_ratio is not None
    assert best.plan.measured_ratio < 1


def test_the_best_found_is_within_the_allowed_error_and_faster(tiny_path: Path, tables: Options) -> None:
    with pytest.raises(BudgetUnreachableError, match="cannot be met") as caught:
        compress(tiny_path, Budget(speedup=1000, max_error=0.01), tables)
    best = caught.value.best
    assert isinstance(best, Compressed)
    assert 0.0 < best.plan.predicted_error <= 0.01
    assert best.plan.measured_ratio is not None
    assert best.plan.measured_ratio < 1


def test_an_exact_budget_that_cannot_be_met_is_not_bought_with_error(tiny_path: Path) -> None:
    with pytest.raises(BudgetUnreachableError):
        compress(tiny_path, Budget(speedup=50, max_error=0.0))


def test_limits_hold_together(tiny_path: Path, tables: Options) -> None:
    result = compress(tiny_path, Budget(speedup=1.2, mac_fraction=0.6, max_error=0.5), tables)
    assert result.plan.macs <= 0.6 * result.plan.original_macs * (1 + 1e-9)
    assert result.plan.predicted_error <= 0.5


def test_where_nothing_is_faster_the_file_stays_as_it_is(tiny_path: Path) -> None:
    planner = open_planner(tiny_path, Options())
    table = LatencyTable(None, "")
    for layer in planner.layers.values():
        for lowering in ("direct", "winograd2", "winograd4", "winograd6", "concat", "multiplier", "branch_sum"):
            table.put(candidate_key(layer_signature(layer), "dense", None, lowering, 1), 3.0)
    planner.estimator.table = table
    planner.probe = lambda candidates: None  # type: ignore[method-assign]  # the table above is the measurement
    result = plan_for(planner, Budget())
    assert result.model == tiny_path.read_bytes()
    assert not result.changed
    assert any("stays as it is" in warning for warning in result.plan.warnings)


def test_same_seed_and_latency_table_give_the_same_plan(tiny_path: Path, tables: Options) -> None:
    options = replace(tables, fidelity_table=None, seed=5)
    choices = [[(c.layer, c.scheme, c.rank) for c in compress(tiny_path, HALF, options).plan.choices] for _ in range(2)]
    assert choices[0] == choices[1]


def test_tables_spare_a_further_budget_the_fits_and_give_the_same_factors(
    tiny_path: Path, tmp_path: Path, tables: Options
) -> None:
    options = replace(tables, fidelity_table=tmp_path / "fidelity.json")
    cold: list[Progress] = []
    warm: list[Progress] = []
    first = compress(tiny_path, HALF, options, progress=cold.append)
    again = compress(tiny_path, HALF, options, progress=warm.append)
    assert "sensitivity" in {step.phase for step in cold}
    assert "sensitivity" not in {step.phase for step in warm}
    assert [(c.layer, c.scheme, c.rank, c.error) for c in first.plan.choices] == [
        (c.layer, c.scheme, c.rank, c.error) for c in again.plan.choices
    ]
    np.testing.assert_allclose(answer(again.model, image()), answer(first.model, image()), rtol=1e-3, atol=1e-4)


def test_progress_is_told_in_order(measured: Measured) -> None:
    steps = measured[2]
    assert steps[0].phase == "load"
    assert {"probe", "verify"} <= {step.phase for step in steps}
    assert all(0.0 <= step.fraction <= 1.0 for step in steps)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nothing\.onnx"):
        compress(tmp_path / "nothing.onnx", Budget())
