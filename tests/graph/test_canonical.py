"""Every fold gives the same outputs, happens only where it is exact, and leaves the rest alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from architectures.comparison import assert_same_outputs
from graph.small_models import conv, small_model, weights
from onnx import TensorProto, helper

from edge_dac.graph.canonical import canonicalize

SHAPES = {"x": (1, 4, 10, 12)}


def norm(source: str = "a", target: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        "BatchNormalization", [source, "s", "t", "m", "v"], [target], f"norm_{target}", **attributes
    )


def norm_constants(channels: int = 6, dtype: Any = np.float32) -> dict[str, Any]:
    generator = np.random.default_rng(3)
    return {
        "s": generator.uniform(-2, 2, channels).astype(dtype),
        "t": generator.normal(0, 1, channels).astype(dtype),
        "m": generator.normal(0, 1, channels).astype(dtype),
        "v": generator.uniform(0.1, 2, channels).astype(dtype),
    }


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("opset", [9, 13, 14, 15, 22])
@pytest.mark.parametrize("with_bias", [False, True])
def test_normalization_is_folded(opset: int, with_bias: bool) -> None:
    inputs = ["x", "w", "b"] if with_bias else ["x", "w"]
    nodes = [helper.make_node("Conv", inputs, ["a"], "conv"), norm(epsilon=1e-3)]
    constants = {"w": weights(6, 4, 3, 3), **norm_constants()}
    if with_bias:
        constants["b"] = weights(6)
    model = small_model(nodes, constants, opset=opset)
    folded = canonicalize(model)
    assert operators(folded) == ["Conv"]
    assert sorted(tensor.name for tensor in folded.graph.initializer) == ["conv/folded_bias", "conv/folded_weight"]
    assert_same_outputs(model, folded, SHAPES, 1e-5)


def test_two_normalizations_in_a_row_are_folded() -> None:
    nodes = [conv(target="a"), norm("a", "c"), norm("c", "y")]
    model = small_model(nodes, {"w": weights(6, 4, 3, 3), **norm_constants()})
    folded = canonicalize(model)
    assert operators(folded) == ["Conv"]
    assert len(folded.graph.initializer) == 2
    assert_same_outputs(model, folded, SHAPES, 1e-5)


def test_half_precision_stays_half_precision() -> None:
    constants = {"w": weights(6, 4, 3, 3, dtype=np.float16), **norm_constants(dtype=np.float16)}
    model = small_model([conv(target="a"), norm()], constants, element_type=TensorProto.FLOAT16)
    folded = canonicalize(model)
    assert {tensor.data_type for tensor in folded.graph.initializer} == {TensorProto.FLOAT16}
    assert_same_outputs(model, folded, SHAPES, 5e-3)


def test_weights_shared_with_another_node_stay() -> None:
    nodes = [
        conv(target="a"),
        norm("a", "c"),
        conv(target="d", name="other"),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    model = small_model(nodes, {"w": weights(6, 4, 3, 3), **norm_constants()})
    folded = canonicalize(model)
    assert operators(folded) == ["Conv", "Conv", "Add"]
    assert "w" in {tensor.name for tensor in folded.graph.initializer}
    assert_same_outputs(model, folded, SHAPES, 1e-5)


def test_an_old_ir_version_keeps_declaring_its_constants() -> None:
    model = small_model(
        [conv(target="a"), norm()], {"w": weights(6, 4, 3, 3), **norm_constants()}, opset=9, ir_version=3
    )
    folded = canonicalize(model)
    assert [value.name for value in folded.graph.input] == ["x", "conv/folded_weight", "conv/folded_bias"]
    assert_same_outputs(model, folded, SHAPES, 1e-5)


def _read_twice() -> onnx.ModelProto:
    nodes = [conv(target="a"), norm("a", "c"), helper.make_node("Add", ["a", "c"], ["y"])]
    return small_model(nodes, {"w": weights(6, 4, 3, 3), **norm_constants()})


def _is_an_output() -> onnx.ModelProto:
    model = small_model([conv(target="a"), norm()], {"w": weights(6, 4, 3, 3), **norm_constants()})
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    return model


def _training() -> onnx.ModelProto:
    return small_model([conv(target="a"), norm(training_mode=1)], {"w": weights(6, 4, 3, 3), **norm_constants()})


def _overridable_weight() -> onnx.ModelProto:
    model = small_model([conv(target="a"), norm()], {"w": weights(6, 4, 3, 3), **norm_constants()})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 4, 3, 3]))
    return model


def _not_finite() -> onnx.ModelProto:
    constants = {"w": weights(6, 4, 3, 3), **norm_constants(), "v": np.full(6, -1, np.float32)}
    return small_model([conv(target="a"), norm()], constants)


def _after_relu() -> onnx.ModelProto:
    nodes = [conv(target="r"), helper.make_node("Relu", ["r"], ["a"]), norm()]
    return small_model(nodes, {"w": weights(6, 4, 3, 3), **norm_constants()})


def _pad_model(padding: list[int], value: float = 0.0, mode: str = "constant", **attributes: Any) -> onnx.ModelProto:
    pad = helper.make_node("Pad", ["x", "pads", "value"], ["a"], "pad", mode=mode)
    constants = {"w": weights(6, 4, 3, 3), "pads": np.array(padding, np.int64), "value": np.float32(value)}
    return small_model([pad, conv("a", **attributes)], constants)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(_read_twice(), id="read twice"),
        pytest.param(_is_an_output(), id="is an output"),
        pytest.param(_training(), id="training mode"),
        pytest.param(_overridable_weight(), id="overridable weight"),
        pytest.param(_not_finite(), id="not finite"),
        pytest.param(_after_relu(), id="after relu"),
        pytest.param(_pad_model([0, 0, 1, 1, 0, 0, 1, 1], value=0.5), id="pad with another value"),
        pytest.param(_pad_model([0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"), id="pad by reflection"),
        pytest.param(_pad_model([0, 0, -1, 0, 0, 0, 0, 0]), id="negative pad"),
        pytest.param(_pad_model([0, 0, 1, 1, 0, 0, 1, 1], auto_pad="SAME_UPPER"), id="pad before auto_pad"),
    ],
)
def test_what_is_not_exact_stays(model: onnx.ModelProto) -> None:
    assert canonicalize(model) == model


def test_padding_of_channels_stays() -> None:
    pad = helper.make_node("Pad", ["x", "pads"], ["a"], "pad")
    model = small_model([pad, conv("a")], {"w": weights(6, 6, 3, 3), "pads": np.array([0, 1, 0, 0, 0, 1, 0, 0])})
    assert canonicalize(model) == model


def test_padding_is_added_to_the_pads_of_the_convolution() -> None:
    model = _pad_model([0, 0, 2, 1, 0, 0, 0, 3], pads=[1, 1, 0, 1], strides=[2, 1])
    folded = canonicalize(model)
    assert operators(folded) == ["Conv"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["w"]
    assert_same_outputs(model, folded, SHAPES, 1e-6)


def test_padding_before_valid_convolution_becomes_pads() -> None:
    model = _pad_model([0, 0, 1, 1, 0, 0, 1, 1], auto_pad="VALID")
    folded = canonicalize(model)
    assert operators(folded) == ["Conv"]
    assert_same_outputs(model, folded, SHAPES, 1e-6)


@pytest.mark.parametrize("opset", [9, 10])
def test_padding_by_attributes_is_folded(opset: int) -> None:
    pad = helper.make_node("Pad", ["x"], ["a"], "pad", pads=[0, 0, 1, 2, 0, 0, 3, 0])
    model = small_model([pad, conv("a")], {"w": weights(6, 4, 3, 3)}, opset=opset)
    folded = canonicalize(model)
    assert operators(folded) == ["Conv"]
    assert_same_outputs(model, folded, SHAPES, 1e-6)


def test_padding_of_named_axes_is_folded() -> None:
    pad = helper.make_node("Pad", ["x", "pads", "", "axes"], ["a"], "pad")
    constants = {"w": weights(6, 4, 3, 3), "pads": np.array([1, 2, 3, 0]), "axes": np.array([-1, 2])}
    model = small_model([pad, conv("a")], constants, opset=18)
    folded = canonicalize(model)
    assert operators(folded) == ["Conv"]
    assert_same_outputs(model, folded, SHAPES, 1e-6)


def test_padding_that_others_read_stays_for_them() -> None:
    model = _pad_model([0, 0, 1, 1, 0, 0, 1, 1])
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    folded = canonicalize(model)
    assert operators(folded) == ["Pad", "Conv"]
    assert folded.graph.node[1].input[0] == "x"
    assert_same_outputs(model, folded, SHAPES, 1e-6)


def test_padding_convolution_and_normalization_become_one() -> None:
    pad = helper.make_node("Pad", ["x", "pads"], ["p"], "pad")
    constants = {"w": weights(6, 4, 3, 3), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), **norm_constants()}
    model = small_model([pad, conv("p", "a"), norm()], constants)
    folded = canonicalize(model)
    assert operators(folded) == ["Conv"]
    assert_same_outputs(model, folded, SHAPES, 1e-5)


def test_folds_happen_inside_branches_too() -> None:
    branch = helper.make_graph(
        [conv(target="a"), norm("a", "branch_out")],
        "branch",
        [],
        [helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    constants = {"yes": np.array(True), "w": weights(6, 4, 3, 3), **norm_constants()}
    model = small_model(nodes, constants)
    folded = canonicalize(model)
    for attribute in folded.graph.node[0].attribute:
        assert [node.op_type for node in attribute.g.node] == ["Conv"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["yes"]
    assert_same_outputs(model, folded, SHAPES, 1e-5)
