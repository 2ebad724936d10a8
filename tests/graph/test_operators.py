"""Reading nodes: what a layer is, and the reason where a node is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graph.small_models import conv, small_model, weights
from onnx import TensorProto, helper, numpy_helper

from edge_dac.convolution import ConvAttributes, ConvLayer, Reason, Refusal
from edge_dac.graph.layers import find_layers


def only_layer(model: onnx.ModelProto, *shape: int) -> ConvLayer:
    inventory = find_layers(model, {"x": shape or (1, 4, 10, 12)})
    assert not inventory.refusals
    (layer,) = inventory.layers
    return layer


def only_refusal(model: onnx.ModelProto, *shape: int) -> Refusal:
    inventory = find_layers(model, {"x": shape or (1, 4, 10, 12)})
    assert not inventory.layers
    (refusal,) = inventory.refusals
    assert "\n" not in refusal.message
    return refusal


def test_defaults_of_a_convolution_are_completed() -> None:
    weight = weights(6, 4, 3, 5)
    layer = only_layer(small_model([conv()], {"w": weight}))
    np.testing.assert_array_equal(layer.weight, weight)
    assert layer.bias is None
    assert layer.attributes == ConvAttributes((1, 1), (0, 0, 0, 0), (1, 1))
    assert (layer.name, layer.operator, layer.input_size, layer.static_size) == ("conv", "Conv", (10, 12), True)
    assert layer.macs == 6 * 4 * 15 * 8 * 8


def test_attributes_of_a_convolution_are_read() -> None:
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        group=2,
        strides=[2, 1],
        dilations=[1, 2],
        pads=[0, 1, 2, 3],
        kernel_shape=[3, 3],
    )
    bias = weights(6)
    layer = only_layer(small_model([node], {"w": weights(6, 2, 3, 3), "b": bias}, opset=11))
    assert layer.attributes == ConvAttributes((2, 1), (0, 1, 2, 3), (1, 2), groups=2)
    assert (layer.name, layer.opset, layer.in_channels) == ("y", 11, 4)
    np.testing.assert_array_equal(layer.bias, bias)


@pytest.mark.parametrize(
    ("given", "kept"), [("VALID", "NOTSET"), ("SAME_UPPER", "SAME_UPPER"), ("SAME_LOWER", "SAME_LOWER")]
)
def test_auto_pad(given: str, kept: str) -> None:
    layer = only_layer(small_model([conv(auto_pad=given)], {"w": weights(6, 4, 3, 3)}))
    assert (layer.attributes.auto_pad, layer.attributes.pads) == (kept, (0, 0, 0, 0))


def test_a_convolution_over_one_axis() -> None:
    layer = only_layer(small_model([conv(pads=[1, 1])], {"w": weights(6, 4, 3)}, (2, 4, 20)), 2, 4, 20)
    assert (layer.kernel, layer.input_size, layer.batch, layer.macs) == ((3,), (20,), 2, 2 * 6 * 4 * 3 * 20)


def test_half_precision_is_read_as_single() -> None:
    model = small_model([conv()], {"w": weights(6, 4, 3, 3, dtype=np.float16)}, element_type=TensorProto.FLOAT16)
    layer = only_layer(model)
    assert layer.dtype == np.float16
    assert layer.weight.dtype == np.float32


def test_weights_in_constant_nodes_and_behind_identity_and_cast() -> None:
    stored = weights(6, 4, 3, 3, dtype=np.float16)
    nodes = [
        helper.make_node("Constant", [], ["stored"], value=numpy_helper.from_array(stored)),
        helper.make_node("Identity", ["stored"], ["same"]),
        helper.make_node("Cast", ["same"], ["w"], to=TensorProto.FLOAT),
        conv(),
    ]
    layer = only_layer(small_model(nodes, {}))
    assert layer.dtype == np.float32
    np.testing.assert_array_equal(layer.weight, stored.astype(np.float32))


def test_a_matrix_product_is_a_convolution_without_axes() -> None:
    matrix = weights(12, 7)
    layer = only_layer(small_model([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": matrix}))
    np.testing.assert_array_equal(layer.weight, matrix.T)
    assert (layer.operator, layer.axes, layer.input_size) == ("MatMul", 0, ())
    assert (layer.positions, layer.batch, layer.macs) == (40, 1, 40 * 12 * 7)


def test_a_matrix_behind_a_transposition() -> None:
    matrix = weights(7, 12)
    nodes = [
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    np.testing.assert_array_equal(only_layer(small_model(nodes, {"w": matrix})).weight, matrix)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias_shape", [(), (1,), (7,), (1, 7), (1, 1)])
def test_gemm_scales_are_part_of_weight_and_bias(transposed: int, bias_shape: tuple[int, ...]) -> None:
    matrix, bias = weights(7, 12), np.full(bias_shape, 3, np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed, alpha=0.5, beta=2.0)
    layer = only_layer(small_model([node], {"w": matrix if transposed else matrix.T, "b": bias}, (5, 12)), 5, 12)
    np.testing.assert_allclose(layer.weight, matrix * 0.5, rtol=1e-7)
    np.testing.assert_array_equal(layer.bias, np.full(7, 6, np.float32))
    assert (layer.operator, layer.positions) == ("Gemm", 5)


def _weight_is_input(**attributes: Any) -> onnx.ModelProto:
    model = small_model([conv(**attributes)], {})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 4, 3, 3]))
    return model


def _weight_can_be_overridden() -> onnx.ModelProto:
    model = _weight_is_input()
    model.graph.initializer.append(numpy_helper.from_array(weights(6, 4, 3, 3), "w"))
    return model


def _dequantized(place: str) -> onnx.ModelProto:
    scale, zero = np.float32(0.1), np.int8(0)
    constants: dict[str, Any] = {"scale": scale, "zero": zero, "w": weights(6, 4, 3, 3)}
    if place == "weight":
        constants["w8"] = np.ones((6, 4, 3, 3), np.int8)
        nodes = [helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["wd"]), conv(weight="wd")]
    else:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
            helper.make_node("DequantizeLinear", ["x8", "scale", "zero"], ["xd"]),
            conv("xd"),
        ]
    return small_model(nodes, constants)


def _integers() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x8", "scale", "zero"]),
        helper.make_node("ConvInteger", ["x8", "w"], ["y"]),
    ]
    return small_model(nodes, {"w": np.ones((6, 4, 3, 3), np.int8)}, output_type=TensorProto.INT32)


def _bias_is_computed() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["b"], axes=[0, 2, 3], keepdims=0),
        helper.make_node("Conv", ["x", "w", "b"], ["y"]),
    ]
    return small_model(nodes, {"w": weights(4, 4, 3, 3)})


def _transposed_convolution() -> onnx.ModelProto:
    return small_model([helper.make_node("ConvTranspose", ["x", "w"], ["y"])], {"w": weights(4, 6, 2, 2)})


def _left_constant() -> onnx.ModelProto:
    return small_model([helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": weights(7, 10)})


def _transposed_left_operand() -> onnx.ModelProto:
    return small_model([helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)], {"w": weights(4, 6)}, (4, 5))


def _gemm_bias_by_row() -> onnx.ModelProto:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    return small_model([node], {"w": weights(4, 6), "b": weights(5, 1)}, (5, 4))


def _double() -> onnx.ModelProto:
    return small_model([conv()], {"w": weights(6, 4, 3, 3, dtype=np.float64)}, element_type=TensorProto.DOUBLE)


REFUSED = {
    "weight is a graph input": (_weight_is_input(), Reason.WEIGHTS_NOT_CONSTANT),
    "weight is an input with a default": (_weight_can_be_overridden(), Reason.WEIGHTS_NOT_CONSTANT),
    "bias is computed": (_bias_is_computed(), Reason.WEIGHTS_NOT_CONSTANT),
    "weight is dequantized": (_dequantized("weight"), Reason.QUANTIZED),
    "input is dequantized": (_dequantized("input"), Reason.QUANTIZED),
    "integers": (_integers(), Reason.QUANTIZED),
    "transposed convolution": (_transposed_convolution(), Reason.UNSUPPORTED_OPERATOR),
    "double precision": (_double(), Reason.UNSUPPORTED_TYPE),
    "depthwise": (small_model([conv(group=4)], {"w": weights(4, 1, 3, 3)}), Reason.DEPTHWISE),
    "depthwise with multiplier": (small_model([conv(group=4)], {"w": weights(8, 1, 3, 3)}), Reason.DEPTHWISE),
    "not a number": (small_model([conv()], {"w": np.full((6, 4, 3, 3), np.nan, np.float32)}), Reason.MALFORMED),
    "other kernel shape": (small_model([conv(kernel_shape=[5, 5])], {"w": weights(6, 4, 3, 3)}), Reason.MALFORMED),
    "too few strides": (small_model([conv(strides=[1])], {"w": weights(6, 4, 3, 3)}), Reason.MALFORMED),
    "negative pads": (small_model([conv(pads=[0, -1, 0, 0])], {"w": weights(6, 4, 3, 3)}), Reason.MALFORMED),
    "groups that do not divide": (small_model([conv(group=4)], {"w": weights(6, 1, 3, 3)}), Reason.MALFORMED),
    "unknown auto_pad": (small_model([conv(auto_pad="SAME")], {"w": weights(6, 4, 3, 3)}), Reason.MALFORMED),
    "constant on the left": (_left_constant(), Reason.UNSUPPORTED_DIMENSIONS),
    "left operand transposed": (_transposed_left_operand(), Reason.UNSUPPORTED_DIMENSIONS),
    "gemm bias by row": (_gemm_bias_by_row(), Reason.UNSUPPORTED_DIMENSIONS),
    "old operator set": (small_model([conv()], {"w": weights(6, 4, 3, 3)}, opset=8), Reason.UNSUPPORTED_OPERATOR),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_is_typed(name: str) -> None:
    model, reason = REFUSED[name]
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert only_refusal(model, *shape).reason == reason


def test_three_spatial_axes_are_refused() -> None:
    model = small_model([conv()], {"w": weights(6, 4, 3, 3, 3)}, (1, 4, 8, 8, 8))
    assert only_refusal(model, 1, 4, 8, 8, 8).reason == Reason.UNSUPPORTED_DIMENSIONS


def test_stacked_matrices_are_refused() -> None:
    model = small_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(4, 12, 7)})
    assert only_refusal(model).reason == Reason.UNSUPPORTED_DIMENSIONS


def test_products_of_computed_matrices_and_foreign_operators_are_not_listed() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Transpose", ["x"], ["b"], perm=[0, 1, 3, 2]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["a", "c"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["y"], domain="custom"),
    ]
    inventory = find_layers(small_model(nodes, {"w": weights(4, 4, 3, 3)}), {"x": (1, 4, 10, 12)})
    assert (inventory.layers, inventory.refusals) == ((), ())
