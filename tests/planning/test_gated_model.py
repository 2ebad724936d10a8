from __future__ import annotations

import numpy as np
import onnx
from architectures.tiny import TINY_SHAPE, make_tiny_network
from onnx import helper, numpy_helper

from edge_dac.device.probes import open_session, session_options
from edge_dac.graph.layers import find_layers
from edge_dac.graph.rewriting import replace_layers
from edge_dac.lowerings import LOWERINGS
from edge_dac.planning.gated_model import GatedModel
from edge_dac.schemes import SCHEMES


def test_a_gate_switches_its_layer_and_no_other() -> None:
    model = make_tiny_network()
    inventory = find_layers(model, {"x": TINY_SHAPE})
    feeds = {"x": np.random.default_rng(1).normal(size=TINY_SHAPE).astype(np.float32)}
    factorizations = {layer.name: SCHEMES["channel"].factorize(layer, 2) for layer in inventory.layers}
    gated = GatedModel(model, inventory, factorizations, ["out"], 1)
    original = open_session(model.SerializeToString(), session_options(1)).run(None, feeds)[0]
    np.testing.assert_allclose(gated.run(feeds)[0], original, rtol=1e-4, atol=1e-5)
    for name, factorization in factorizations.items():
        replaced = replace_layers(
            model,
            inventory,
            {name: lambda layer, i, o, f=factorization: LOWERINGS["direct"].lower(layer, f, i, o)},  # type: ignore[misc]
        )
        expected = open_session(replaced.SerializeToString(), session_options(1)).run(None, feeds)[0]
        got = gated.run(feeds, [name])[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(got - original).max() > 1e-3


def test_a_gate_inside_a_branch_can_be_opened() -> None:
    then_branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"], name="product")],
        "then",
        [],
        [onnx.ValueInfoProto(name="t")],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32), "w")],
    )
    else_branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "else", [], [onnx.ValueInfoProto(name="e")]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=then_branch, else_branch=else_branch)],
        "g",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 8]),
            helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inventory = find_layers(model, {"x": (2, 8), "c": ()})
    factorization = SCHEMES["channel"].factorize(inventory.layers[0], 2)
    gated = GatedModel(model, inventory, {"product": factorization}, ["y"], 1)
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32), "c": np.array(True)}
    exact = feeds["x"] @ numpy_helper.to_array(then_branch.initializer[0])
    np.testing.assert_allclose(gated.run(feeds)[0], exact, rtol=1e-4, atol=1e-5)
    assert np.abs(gated.run(feeds, ["product"])[0] - exact).max() > 1e-2
