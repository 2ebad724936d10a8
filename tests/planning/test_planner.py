"""When a measured plan counts as faster, and which plans leave the file as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures.tiny import make_tiny_network
from onnx import helper, numpy_helper

from edge_dac.compression import Options, open_planner, plan_for
from edge_dac.device.probes import Comparison
from edge_dac.planning.budget import Budget, LayerRank
from edge_dac.planning.building import Built
from edge_dac.planning.candidates import ORIGINAL, Candidate
from edge_dac.planning.planner import Proposal
from edge_dac.planning.selection import Option


def _proposal(candidate: Candidate, ratio: float, scatter: float = 0.0) -> Proposal:
    rounds = np.ones((2, 100))
    rounds[1] = ratio * (1 + scatter * np.linspace(-1, 1, 100))
    return Proposal({"conv": Option(candidate, 1.0, 1, 1, 0.0, 0.0)}, 1.0, Built(1, 0.0, Comparison(rounds, rounds)))


@pytest.mark.parametrize(
    ("candidate", "ratio", "scatter", "faster"),
    [
        (Candidate("dense", None, "winograd4"), 0.99, 0.0, True),
        (Candidate("dense", None, "winograd4"), 0.99, 0.3, False),
        (Candidate("dense", None, "winograd4"), 1.01, 0.0, False),
        (ORIGINAL, 0.99, 0.0, False),
        (ORIGINAL, 0.9, 0.0, True),
    ],
)
def test_faster_is_what_the_measurement_can_tell(
    candidate: Candidate, ratio: float, scatter: float, faster: bool
) -> None:
    assert _proposal(candidate, ratio, scatter).is_faster is faster


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
