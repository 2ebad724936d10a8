"""Nodes out of order are sorted, as ONNX Runtime does; whatever is in order stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graph.small_models import conv, if_model, small_model, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edge_dac.errors import ModelFormatError
from edge_dac.graph.loading import load_model
from edge_dac.graph.ordering import sort_nodes


def chain() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        conv("a", "b", "first"),
        helper.make_node("Add", ["a", "a"], ["c"], "twice"),
        helper.make_node("Shape", ["b"], ["s"], "size"),
        helper.make_node("Resize", ["c", "", "", "s"], ["d"], "resize"),
        helper.make_node("Add", ["b", "d"], ["y"], "sum"),
    ]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)))
def test_any_order_is_brought_in_order(order: list[int]) -> None:
    model = small_model([chain()[index] for index in order], {"w": weights(4, 4, 3, 3)}, output_shape=[None] * 4)
    before = [node.name for node in model.graph.node]
    moved = sort_nodes(model)
    assert moved is (before != [node.name for node in model.graph.node])
    assert sorted(before) == sorted(node.name for node in model.graph.node)
    onnx.checker.check_model(model)
    assert sort_nodes(model) is False


def test_a_file_out_of_order_is_read(tmp_path: Path) -> None:
    constants = {"w": weights(4, 4, 3, 3)}
    model = small_model(chain()[::-1], constants, output_shape=[None] * 4)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    loaded = load_model(path)
    x = np.random.default_rng(0).normal(size=(1, 4, 10, 12)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (loaded, small_model(chain(), constants, output_shape=[None] * 4))
    ]
    assert (answers[0] == answers[1]).all()


def test_what_a_branch_reads_comes_before_it() -> None:
    model = if_model()
    names = [node.output[0] for node in model.graph.node]
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    sort_nodes(model)
    onnx.checker.check_model(model)
    assert sorted(node.output[0] for node in model.graph.node) == sorted(names)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    model = small_model([*nodes, helper.make_node("Relu", ["b"], ["y"])], {}, output_shape=[None] * 4)
    assert sort_nodes(model) is False
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFormatError, match="not a valid ONNX model"):
        load_model(path)
