"""The ranges are those of the maps as they are computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.layers import find_layers
from edge_dac.statistics.ranges import collect_ranges

SHAPES = {"x": (2, 3, 12, 12)}


def network(last: float = 1.0) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.standard_normal((8, 3, 3, 3)),
        "w2": rng.standard_normal((4, 8, 3, 3)),
        "w3": rng.standard_normal((4, 4, 1, 1)) * last,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["b"], "second"),
        helper.make_node("LeakyRelu", ["b"], ["l"]),
        helper.make_node("Conv", ["l", "w3"], ["y"], "third"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "xy"]
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_ranges_are_those_of_all_samples() -> None:
    model = network()
    samples = np.random.default_rng(1).standard_normal((6, 3, 12, 12)).astype(np.float32)
    ranges = collect_ranges(model, find_layers(model, SHAPES).layers, {"x": samples}, SHAPES)
    for name in ("r", "b", "l"):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, r, b, leaky = session.run(None, {"x": samples})
    expected = {"first": (samples, r), "second": (r, b), "third": (leaky, y)}
    assert set(ranges) == set(expected)
    for layer, (source, target) in expected.items():
        np.testing.assert_allclose(ranges[layer].source, (source.min(), source.max()), rtol=1e-5)
        np.testing.assert_allclose(ranges[layer].target[1], target.max(), rtol=0.01)
    assert ranges["first"].target[0] == 0.0
    np.testing.assert_allclose(ranges["third"].target[0], y.min(), rtol=1e-5)
    # Behind LeakyRelu a hundredth of a negative value is left: what lies far below zero need not be told apart.
    assert 0.3 * b.min() > ranges["second"].target[0] > b.min()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_layer_with_values_that_are_not_finite_is_left_out() -> None:
    model = network(last=float("inf"))
    samples = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)
    ranges = collect_ranges(model, find_layers(model, SHAPES).layers, {"x": samples}, SHAPES)
    assert set(ranges) == {"first", "second"}


def test_nothing_is_run_for_no_layers() -> None:
    assert collect_ranges(network(), [], {}, SHAPES) == {}


def test_layers_in_branches_have_ranges_of_the_samples_that_take_them() -> None:
    plain = network()
    nodes = list(plain.graph.node[3:])
    then_branch = helper.make_graph(
        nodes, "then", [], [onnx.ValueInfoProto(name="y")], list(plain.graph.initializer[1:])
    )
    idle = [
        helper.make_node("AveragePool", ["p"], ["q"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["q", "v"], ["z"]),
    ]
    else_branch = helper.make_graph(idle, "else", [], [onnx.ValueInfoProto(name="z")])
    else_branch.initializer.add().CopyFrom(numpy_helper.from_array(np.ones((4, 8, 3, 3), np.float32), "v"))
    model = network()
    del model.graph.node[3:]
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=then_branch, else_branch=else_branch))
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, [1]))
    shapes = {"x": (1, 3, 12, 12), "c": (1,)}
    inventory = find_layers(model, shapes, {"c": 1})
    x = np.random.default_rng(1).standard_normal((6, 3, 12, 12)).astype(np.float32)
    inputs = {"x": x, "c": np.arange(6) % 2 == 1}
    ranges = collect_ranges(model, inventory.layers, inputs, shapes, inventory.sites)
    expected = collect_ranges(
        plain, find_layers(plain, {"x": (1, 3, 12, 12)}).layers, {"x": x[1::2]}, {"x": (1, 3, 12, 12)}
    )
    assert ranges["second"].source == pytest.approx(expected["second"].source)
    assert ranges["third"].target == pytest.approx(expected["third"].target)
    assert ranges["second"].target[0] <= expected["second"].target[0]  # in a branch, what follows is not looked at
    assert ranges["third"].source == pytest.approx(expected["third"].source)
    never = collect_ranges(model, inventory.layers, {"x": x, "c": np.ones(6, bool)}, shapes, inventory.sites)
    assert never.keys() == {"first", "second", "third"}
