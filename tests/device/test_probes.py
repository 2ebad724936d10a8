from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from architectures.tiny import TINY_SHAPE, make_tiny_network
from onnx import TensorProto, helper, numpy_helper

from edge_dac.device.probes import (
    Comparison,
    ProfiledModel,
    compare,
    open_session,
    profile_models,
    session_options,
    undisturbed_ms,
)
from edge_dac.errors import ModelFormatError

FEEDS = {"x": np.ones(TINY_SHAPE, np.float32)}


def test_comparison_is_of_the_same_rounds() -> None:
    comparison = Comparison(*[np.array([[1.0, 2.0, 4.0], [0.5, 1.0, 2.0]])] * 2)
    assert comparison.ratio(1) == 0.5
    assert comparison.spread(1) == 0.0
    assert comparison.standard_error(1) == 0.0
    assert comparison.median_ms(0) == 2.0


def test_interruptions_do_not_bend_the_undisturbed_ratio() -> None:
    reference = np.full(20, 10.0)
    reference[::2] += 30.0  # a long run is interrupted half of the time
    comparison = Comparison(*[np.array([reference, np.full(20, 5.0)])] * 2)
    assert comparison.undisturbed_ratio(1) == 0.5
    assert comparison.ratio(1) < 0.5


def test_compare_runs_every_session_in_every_round() -> None:
    content = make_tiny_network().SerializeToString()
    sessions = [open_session(content, session_options(1)) for _ in range(2)]
    comparison = compare(sessions, FEEDS, threads=1, min_rounds=5, max_rounds=5)
    assert comparison.round_ms.shape == (2, 5)
    assert np.all(comparison.round_ms > 0)


def test_profile_lists_every_kernel_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (timing,) = profile_models([make_tiny_network().SerializeToString()], FEEDS, 1, rounds=3)
    assert sum("Conv" in name or "_nchwc" in name or name in ("first", "third") for name in timing.node_ms) >= 1
    assert timing.total_ms == pytest.approx(sum(timing.node_ms.values()))
    assert list(tmp_path.iterdir()) == []


def test_node_runs_are_one_row_a_run() -> None:
    with ProfiledModel(make_tiny_network().SerializeToString(), 1) as model:
        for _ in range(4):
            model.run(FEEDS)
        assert {row.shape for row in model.node_runs().values()} == {(4,)}


def test_what_runs_inside_a_branch_counts_once() -> None:
    kernel = numpy_helper.from_array(np.full((32, 32, 3, 3), 0.01, np.float32), "kernel")
    result = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    conv = helper.make_node("Conv", ["x", "kernel"], ["inner"], "conv", pads=[1, 1, 1, 1])
    branches = {
        "then_branch": helper.make_graph([conv], "then", [], result, [kernel]),
        "else_branch": helper.make_graph([helper.make_node("Identity", ["x"], ["inner"])], "else", [], result),
    }
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 64, 64]),
        helper.make_tensor_value_info("is_wanted", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        [helper.make_node("If", ["is_wanted"], ["y"], "choice", **branches)], "g", inputs, outputs
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with ProfiledModel(content, 1) as model:
        for _ in range(5):
            model.run({"x": np.ones((1, 32, 64, 64), np.float32), "is_wanted": np.array(True)})
        median_ms = {name: float(np.median(row)) for name, row in model.node_runs().items()}
    around = median_ms.pop("choice")
    assert 0.0 <= around < max(median_ms.values())


def test_what_the_runtime_does_not_accept_is_a_typed_error() -> None:
    with pytest.raises(ModelFormatError, match="does not accept"):
        open_session(b"no model", session_options(1))


def test_a_thread_that_shares_its_core_takes_no_longer() -> None:
    undisturbed = {"a": np.full(6, 2.0), "b": np.full(6, 6.0), "c": np.full(6, 1.0)}
    disturbed = {name: runs.copy() for name, runs in undisturbed.items()}
    disturbed["b"][:5] += 9.0  # in five of six runs something else takes as long as the whole run
    shares = [0.5] * 5 + [1.0]
    assert undisturbed_ms(undisturbed, [1.0] * 6) == pytest.approx({"a": 2.0, "b": 6.0, "c": 1.0})
    assert sum(undisturbed_ms(disturbed, shares).values()) == pytest.approx(9.0)


def test_a_few_interruptions_change_no_node() -> None:
    runs = {"a": np.full(6, 2.0), "b": np.array([6.0, 6.0, 15.0, 6.0, 6.0, 6.0])}
    assert undisturbed_ms(runs, [1.0, 1.0, 8.0 / 17.0, 1.0, 1.0, 1.0]) == pytest.approx({"a": 2.0, "b": 6.0})
