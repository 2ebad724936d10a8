"""Arranged transposes compute the same, in fewer passes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from architectures.comparison import assert_same_outputs
from graph.small_models import conv, small_model, weights
from onnx import helper

from edge_dac.graph import layouts
from edge_dac.graph.layouts import merge_layouts

SHAPES = {"x": (1, 4, 10, 12)}


def channels_last_model(*following: onnx.NodeProto) -> onnx.ModelProto:
    """A lowered layer's frame (what it does in between does not matter here), and what follows its output ``a``."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["last"], "in", perm=[0, 2, 3, 1]),
        helper.make_node("Neg", ["last"], ["negated"], "neg"),
        helper.make_node("Transpose", ["negated"], ["a"], "out", perm=[0, 3, 1, 2]),
        *following,
    ]
    return small_model(nodes, {"w": weights(4, 4, 3, 3)}, output_shape=[None] * 4)


def arranged(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    merge_layouts(result, {"a"})
    onnx.checker.check_model(result, full_check=True)
    assert_same_outputs(model, result, SHAPES, 0.0)
    return result


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh"])
def test_an_activation_moves_before_the_transpose(activation: str) -> None:
    model = channels_last_model(helper.make_node(activation, ["a"], ["b"]), conv("b", pads=[1] * 4))
    result = arranged(model)
    assert operators(result) == ["Transpose", "Neg", activation, "Transpose", "Conv"]
    assert result.graph.node[3].output[0] == "b"


def test_a_result_that_others_read_keeps_its_place() -> None:
    model = channels_last_model(
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sigmoid", ["a"], ["c"]),
        helper.make_node("Mul", ["b", "c"], ["y"]),
    )
    assert operators(arranged(model)) == ["Transpose", "Neg", "Transpose", "Relu", "Sigmoid", "Mul"]


def test_an_addition_gets_its_input_in_the_blocked_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    model = channels_last_model(helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["b", "x"], ["y"]))
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: True)
    assert operators(arranged(model)) == ["Transpose", "Neg", "Relu", "Transpose", "MaxPool", "Add"]
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: False)
    assert operators(arranged(model)) == ["Transpose", "Neg", "Relu", "Transpose", "Add"]


def test_a_convolution_needs_no_pooling_before_it() -> None:
    assert operators(arranged(channels_last_model(conv("a", pads=[1] * 4)))) == [
        "Transpose",
        "Neg",
        "Transpose",
        "Conv",
    ]


def strips_model(*following: onnx.NodeProto, biases: tuple[int, int] = (1, 1)) -> onnx.ModelProto:
    """A lowered layer in two strips, each with a bias repeated along its rows; what follows ``a`` reads ``w`` and ``x``."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["last"], "in", perm=[0, 2, 3, 1]),
        helper.make_node("Split", ["last"], ["top", "bottom"], "cut", axis=1),
        helper.make_node("Add", ["top", "bias0"], ["upper"], "add0"),
        helper.make_node("Add", ["bottom", "bias1"], ["lower"], "add1"),
        helper.make_node("Concat", ["upper", "lower"], ["joined"], "join", axis=1),
        helper.make_node("Transpose", ["joined"], ["a"], "out", perm=[0, 3, 1, 2]),
        *following,
    ]
    bias = np.array([0.5, -1.0, 2.0, -0.25], np.float32)
    rows = {f"bias{place}": np.tile(scale * bias, (12, 1)) for place, scale in enumerate(biases)}
    return small_model(nodes, {"w": weights(4, 4, 3, 3), **rows}, output_shape=[None] * 4)


STRIPS = ["Transpose", "Split", "Concat", "Transpose"]


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh"])
def test_a_bias_added_in_strips_becomes_that_of_a_convolution(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: True)
    model = strips_model(helper.make_node(activation, ["a"], ["b"]), helper.make_node("Add", ["b", "x"], ["y"]))
    result = arranged(model)
    assert operators(result) == [*STRIPS, "Conv", activation, "Add"]
    assert {"bias0", "bias1"}.isdisjoint(tensor.name for tensor in result.graph.initializer)


def test_a_bias_stays_before_a_next_layer_that_works_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: True)
    model = strips_model(
        helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Transpose", ["b"], ["y"], perm=[0, 2, 3, 1])
    )
    expected = ["Transpose", "Split", "Add", "Add", "Concat", "Relu", "Transpose", "Transpose"]
    assert operators(arranged(model)) == expected


@pytest.mark.parametrize(
    ("activation", "order"),
    [
        ("Relu", ["MaxPool", "Conv", "Relu"]),
        ("Tanh", ["MaxPool", "Conv", "Tanh"]),
        ("LeakyRelu", ["Conv", "LeakyRelu", "MaxPool"]),
        ("", ["MaxPool", "Conv"]),
    ],
)
def test_max_pooling_goes_before_bias_and_activation(
    activation: str, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: True)
    source = "b" if activation else "a"
    nodes = [helper.make_node(activation, ["a"], ["b"])] if activation else []
    pooling = helper.make_node("MaxPool", [source], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    result = arranged(strips_model(*nodes, pooling))
    assert operators(result) == [*STRIPS, *order]


def test_max_pooling_of_a_map_that_others_read_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: True)
    model = strips_model(
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], "pool", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Add", ["b", "c"], ["y"]),
    )
    assert operators(arranged(model)) == [*STRIPS, "Conv", "Relu", "MaxPool", "Add"]


def test_a_bias_stays_before_an_activation_that_no_convolution_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: True)
    model = strips_model(helper.make_node("Elu", ["a"], ["b"]), helper.make_node("Add", ["b", "x"], ["y"]))
    expected = ["Transpose", "Split", "Add", "Add", "Concat", "Elu", "Transpose", "MaxPool", "Add"]
    assert operators(arranged(model)) == expected


def test_strips_with_different_addends_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "runtime_has_blocked_layout", lambda: True)
    model = strips_model(helper.make_node("Add", ["a", "x"], ["y"]), biases=(1, 2))
    expected = ["Transpose", "Split", "Add", "Add", "Concat", "Transpose", "MaxPool", "Add"]
    assert operators(arranged(model)) == expected


def test_other_transposes_stay() -> None:
    model = channels_last_model(helper.make_node("Relu", ["a"], ["y"]))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    merge_layouts(result, {"other"})
    assert result == model
