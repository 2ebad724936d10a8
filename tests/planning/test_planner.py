"""Which plans leave the file as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures.tiny import make_tiny_network
from onnx import helper, numpy_helper

from edge_dac.compression import Options, open_planner, plan_for
from edge_dac.planning import probing
from edge_dac.planning.budget import Budget, LayerRank
from edge_dac.planning.candidates import Candidate


def test_layers_left_alone_by_hand_leave_the_file_as_it_is(tiny_path: Path) -> None:
    planner = open_planner(tiny_path, Options())
    result = plan_for(planner, Budget(layer_ranks={"first": LayerRank("dense")}))
    assert not result.changed
    assert result.model == tiny_path.read_bytes()


def test_nothing_inexact_is_offered_where_the_outputs_tell_nothing(tmp_path: Path) -> None:
    model = make_tiny_network()
    output = model.graph.output[0].name
    (last,) = (node for node in model.graph.node if output in node.output)
    last.output[0] = "silenced"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.0), "nothing"))
    model.graph.node.append(helper.make_node("Mul", ["silenced", "nothing"], [output]))
    path = tmp_path / "silent.onnx"
    onnx.save(model, path)
    result = plan_for(open_planner(path), Budget(max_error=0.5))
    assert {choice.scheme for choice in result.plan.choices} == {"dense"}
    assert "no error can be predicted" in "".join(result.plan.warnings)


def test_outputs_of_few_numbers_are_judged_by_their_features_too(tiny_path: Path) -> None:
    planner = open_planner(tiny_path)
    assert planner.verifier.features
    proposal = planner.propose(planner.fastest_of_all())
    assert 0 < proposal.built.output_error <= proposal.built.error


def test_a_table_tells_what_conversions_cost_and_nothing_is_measured_again(tiny_path: Path, tmp_path: Path) -> None:
    table = tmp_path / "latency.json"
    options = Options(latency_table=table, work_threads=1)
    assert open_planner(tiny_path, options).all_options
    ratios = json.loads(table.read_text())["ratios"]
    (price,) = (value for key, value in ratios.items() if key.endswith("|conversions"))
    assert price >= 0
    assert open_planner(tiny_path, options).all_options
    assert json.loads(table.read_text())["ratios"] == ratios  # a second measurement would be averaged in


def test_low_rank_in_real_numbers_waits_where_integers_are_fast(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "FAST_INTEGERS", np.inf)
    planner = open_planner(tiny_path)
    layers = [layer for layer in planner.worthwhile if layer.axes]
    wanted = [(layer, Candidate("spatial_vh", rank, "direct")) for layer in layers for rank in range(1, 64)]

    def known() -> int:
        return sum(planner.estimator.latency_ms(layer, candidate) is not None for layer, candidate in wanted)

    assert planner.all_options
    assert known() == 0
    assert planner.look_further()
    assert planner.all_options
    assert known() > 0
    assert not planner.look_further()
