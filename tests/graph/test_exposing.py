"""Tensors of branches become readable in the main graph, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from graph.small_models import weights
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.exposing import Exposure, layer_nodes, only_branches
from edge_dac.graph.layers import find_layers
from edge_dac.graph.scopes import walk

SHAPES = {"x": (1, 4, 10, 12), "c": ()}


def branch(name: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], output: str) -> onnx.GraphProto:
    initializers = [numpy_helper.from_array(value, constant) for constant, value in constants.items()]
    return helper.make_graph(
        nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], initializers
    )


def branching_model() -> onnx.ModelProto:
    """Where ``c``: two convolutions, the second once more inside an ``If``; else one of another kind."""
    inner = branch(
        "inner", [helper.make_node("Conv", ["m", "w2"], ["i"], name="deep")], {"w2": weights(4, 6, 1, 1)}, "i"
    )
    plain = branch(
        "plain", [helper.make_node("Conv", ["m", "w3"], ["p"], name="idle")], {"w3": weights(4, 6, 1, 1)}, "p"
    )
    then_branch = branch(
        "then",
        [
            helper.make_node("Conv", ["a", "w1"], ["m"], name="taken"),
            helper.make_node("If", ["c"], ["t"], then_branch=inner, else_branch=plain),
        ],
        {"w1": weights(6, 4, 3, 3)},
        "t",
    )
    else_branch = branch(
        "else", [helper.make_node("Conv", ["a", "w4"], ["e"], name="other")], {"w4": weights(4, 4, 3, 3)}, "e"
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then_branch, else_branch=else_branch),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 10, 12]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def looping_model() -> onnx.ModelProto:
    """A product that is repeated three times."""
    nodes = [
        helper.make_node("MatMul", ["v", "w"], ["n"], name="again"),
        helper.make_node("Identity", ["go"], ["go_on"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 16]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("n", TensorProto.FLOAT, [1, 16]),
        ],
        [numpy_helper.from_array(weights(16, 16), "w")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(np.array(3), "turns")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, condition: bool, outputs: list[str]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(5).normal(size=(1, 4, 10, 12)).astype(np.float32)
    return session.run(outputs, {"x": x, "c": np.array(condition)})


def test_what_branches_compute_is_seen_where_they_are_taken() -> None:
    model = branching_model()
    scopes = {node.name: (scope, node) for scope in walk(model) for node in scope.graph.node if node.name}
    exposure = Exposure(model)
    names = {}
    for layer in ("taken", "deep", "idle", "other"):
        scope, node = scopes[layer]
        names[f"{layer} reads"] = exposure.name_of(scope, node.input[0], np.dtype(np.float32))
        names[f"{layer} writes"] = exposure.name_of(scope, node.output[0], np.dtype(np.float32))
    assert names["taken reads"] == names["other reads"] == "a"
    assert names["taken writes"] == names["deep reads"] == names["idle reads"]
    assert len(model.graph.node[1].output) == 1  # not changed
    for name in {*names.values()} - {"a"}:
        exposure.model.graph.output.append(onnx.ValueInfoProto(name=name))
    for condition in (True, False):
        wanted = ["y", *({*names.values()} - {"a"})]
        values = dict(zip(wanted, run(exposure.model, condition, wanted), strict=True))
        assert (values["y"] == run(model, condition, ["y"])[0]).all()
        shown = values[names["deep writes"] if condition else names["other writes"]]
        assert (shown == values["y"]).all()
        assert (values[names["taken writes"]].size > 0) is condition
        assert values[names["idle writes"]].size == 0
        assert values[names["other writes" if condition else "deep writes"]].size == 0


def test_a_model_of_which_nothing_is_hidden_is_not_copied() -> None:
    model = branching_model()
    exposure = Exposure(model)
    assert exposure.name_of(next(walk(model)), "a", np.float32) == "a"
    assert exposure.model is model


def test_layers_in_branches_are_found_and_those_in_loops_are_not() -> None:
    model = branching_model()
    inventory = find_layers(model, SHAPES, {"c": 1})
    nodes = layer_nodes(model, inventory.layers, inventory.sites)
    assert {name: node.name for name, (_, node) in nodes.items()} == {n: n for n in ("taken", "deep", "idle", "other")}
    assert not inventory.unobserved
    assert {layer.name: layer.input_size for layer in inventory.layers}["deep"] == (8, 10)
    loop = looping_model()
    inventory = find_layers(loop, {"x": (1, 16)})
    assert inventory.unobserved == {"again"}
    assert layer_nodes(loop, inventory.layers, inventory.sites) == {}
    assert not only_branches(loop, inventory.sites["again"].path)
