"""Cutting parts out of a model, and samples into feeds."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx.parser
import pytest

from edge_dac.errors import UsageError
from edge_dac.statistics.execution import extract, feeds, graph_inputs, needed, open_session

TEXT = """<ir_version: 8, opset_import: ["" : 13]>
g (float[1,4] x, float[1,4] z) => (float[1,4] y, float[1,4] other)
<float[4] w = {1, 2, 3, 4}, float[4] unused = {0, 0, 0, 0}>
{ a = Mul(x, w) b = Relu(a) y = Neg(b) other = Add(z, unused) }"""


def test_only_what_is_needed_is_taken() -> None:
    part = extract(onnx.parser.parse_model(TEXT), ["b", "b"])
    assert [node.op_type for node in part.graph.node] == ["Mul", "Relu"]
    assert [initializer.name for initializer in part.graph.initializer] == ["w"]
    assert [value.name for value in part.graph.input] == ["x"]
    (b,) = open_session(part, threads=1).run(None, {"x": np.array([[-1, 1, 1, 1]], np.float32)})
    np.testing.assert_array_equal(b, [[0, 2, 3, 4]])


def test_what_inner_graphs_read_is_needed_too() -> None:
    branch = {
        name: oh.make_graph([oh.make_node(op, ["a"], [name])], name, [], [onnx.ValueInfoProto(name=name)])
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    model = onnx.parser.parse_model(TEXT)
    model.graph.input.append(oh.make_tensor_value_info("gate", onnx.TensorProto.BOOL, []))
    model.graph.node.append(oh.make_node("If", ["gate"], ["chosen"], **branch))
    part = extract(model, ["chosen"])
    assert {node.op_type for node in part.graph.node} == {"Mul", "If"}
    (chosen,) = open_session(part, threads=1).run(None, {"x": np.ones((1, 4), np.float32), "gate": np.array(False)})
    np.testing.assert_array_equal(chosen, [[-1, -2, -3, -4]])


def test_a_part_starts_from_what_is_known() -> None:
    model = onnx.parser.parse_model(TEXT)
    assert needed(model, ["y"], {"x", "a"}) == ["a"]
    part = extract(model, ["y"], {"a": np.dtype(np.float32), "x": np.dtype(np.float32)})
    assert [node.op_type for node in part.graph.node] == ["Relu", "Neg"]
    assert [value.name for value in part.graph.input] == ["a"]
    (y,) = open_session(part, threads=1).run(None, {"a": np.array([[-1, 1, 2, 3]], np.float32)})
    np.testing.assert_array_equal(y, [[0, -1, -2, -3]])


def test_a_node_is_run_again_where_only_one_of_its_outputs_is_known() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[1,4] x) => (float[1,2] y) { a, b = Split<axis=1>(x) y = Sub(a, b) }"""
    part = extract(onnx.parser.parse_model(text), ["y"], {"a": np.dtype(np.float32)})
    assert [value.name for value in part.graph.input] == ["x"]
    (y,) = open_session(part, threads=1).run(None, {"x": np.array([[5, 6, 1, 2]], np.float32)})
    np.testing.assert_array_equal(y, [[4, 4]])


def test_a_tensor_that_is_not_computed_is_refused() -> None:
    with pytest.raises(UsageError, match="'nowhere'"):
        extract(onnx.parser.parse_model(TEXT), ["nowhere"])


def test_initializers_are_no_inputs() -> None:
    model = onnx.parser.parse_model(TEXT)
    model.graph.input.append(oh.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4]))
    assert [value.name for value in graph_inputs(model)] == ["x", "z"]


def test_feeds_have_whole_batches() -> None:
    samples = {"x": np.arange(5.0), "s": np.arange(5.0)}
    found = list(feeds(samples, {"x": (2,), "s": ()}, ["x", "s"]))
    assert [feed["x"].tolist() for feed in found] == [[0, 1], [2, 3], [4, 0]]
    assert [feed["s"].tolist() for feed in found] == [0, 2, 4]


def test_feeds_need_samples_for_every_input_and_one_count() -> None:
    with pytest.raises(UsageError, match="'z'"):
        list(feeds({"x": np.zeros(2)}, {"x": (1,), "z": (1,)}, ["x", "z"]))
    with pytest.raises(UsageError, match="one number of samples"):
        list(feeds({"x": np.zeros(2), "z": np.zeros(3)}, {"x": (1,), "z": (1,)}, ["x", "z"]))
