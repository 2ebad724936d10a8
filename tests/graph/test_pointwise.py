"""Where a map's pointwise functions end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.pointwise import leading_to_layers, pointwise_end
from edge_dac.graph.scopes import Scope

NODES = {
    "silu": [("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "e")],
    "hard swish": [
        ("Add", ["x", "three"], "a"),
        ("Clip", ["a", "zero", "six"], "c"),
        ("Mul", ["x", "c"], "m"),
        ("Div", ["m", "six"], "e"),
    ],
    "leaky": [("LeakyRelu", ["x"], "e")],
    "bias of each channel": [("Add", ["x", "row"], "e")],
    "read twice": [("Sigmoid", ["x"], "s"), ("Conv", ["x", "row"], "q"), ("Conv", ["s", "row"], "e")],
    "two maps": [("Sigmoid", ["x"], "s"), ("Mul", ["other", "s"], "e")],
}


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("silu", "e"),
        ("hard swish", "e"),
        ("leaky", "e"),
        ("bias of each channel", "x"),
        ("read twice", "x"),
        ("two maps", "s"),
    ],
)
def test_the_end_is_what_others_read(name: str, end: str) -> None:
    nodes = [helper.make_node(op, inputs, [output]) for op, inputs, output in NODES[name]]
    constants = {"zero": 0.0, "three": 3.0, "six": 6.0, "row": np.ones(4)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, [1, 4]) for given in ("x", "other")],
        [onnx.ValueInfoProto(name="e")],
        [numpy_helper.from_array(np.asarray(value, np.float32), key) for key, value in constants.items()],
    )
    assert pointwise_end(Scope(graph, 8), "x") == end


def test_what_only_ends_in_outputs_leads_to_no_layer() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["y"]),
    ]
    assert leading_to_layers(helper.make_graph(nodes, "graph", [], [])) == {"x", "r", "w"}


def test_what_a_branch_reads_is_read() -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "branch", [], [onnx.ValueInfoProto(name="n")])
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["e"]),
        helper.make_node("If", ["which"], ["i"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "graph", [], [onnx.ValueInfoProto(name=name) for name in ("e", "i")])
    assert pointwise_end(Scope(graph, 8), "x") == "x"
