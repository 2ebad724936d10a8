"""Replacing layers changes them and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from architectures.comparison import Written, assert_same_outputs, same_layer
from graph.small_models import conv, if_model, loop_model, small_model, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge_dac.convolution import ConvLayer
from edge_dac.errors import VerificationError
from edge_dac.graph.layers import find_layers
from edge_dac.graph.rewriting import PLAN_KEY, replace_layers

SHAPES = {"x": (1, 4, 10, 12)}


def replace_all(model: onnx.ModelProto, shapes: Any = SHAPES, **options: Any) -> onnx.ModelProto:
    inventory = find_layers(model, shapes)
    assert inventory.layers
    return replace_layers(model, inventory, {layer.name: same_layer for layer in inventory.layers}, **options)


def initializer_names(model: onnx.ModelProto) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A model of one drawn convolution, and the shape of its input."""
    axes = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, out_per_group = draw(st.integers(2, 4)), draw(st.integers(1, 4))
    kernel = draw(st.tuples(*[st.integers(1, 4)] * axes))
    attributes: dict[str, Any] = {
        "group": groups,
        "strides": draw(st.tuples(*[st.integers(1, 3)] * axes)),
        "dilations": draw(st.tuples(*[st.integers(1, 2)] * axes)),
    }
    auto_pad = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto_pad == "NOTSET":
        attributes["pads"] = draw(st.tuples(*[st.integers(0, 2)] * (2 * axes)))
    else:
        attributes["auto_pad"] = auto_pad
        attributes["dilations"] = (1,) * axes
    constants = {"w": weights(groups * out_per_group, per_group, *kernel)}
    inputs = ["x", "w"]
    if draw(st.booleans()):
        constants["b"] = weights(groups * out_per_group)
        inputs.append("b")
    shape = (draw(st.integers(1, 2)), groups * per_group, *draw(st.tuples(*[st.integers(8, 12)] * axes)))
    opset = draw(st.sampled_from([9, 11, 13, 17, 21]))
    return small_model([helper.make_node("Conv", inputs, ["y"], **attributes)], constants, shape, opset=opset), shape


@settings(max_examples=200, deadline=None)
@given(convolutions())
def test_any_convolution_is_read_completely(drawn: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    model, shape = drawn
    assert_same_outputs(model, replace_all(model, {"x": shape}), {"x": shape}, 1e-5)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("bias_shape", [None, (), (7,), (1, 7)])
def test_any_gemm_is_read_completely(transposed: int, alpha: float, bias_shape: tuple[int, ...] | None) -> None:
    constants: dict[str, Any] = {"w": weights(7, 12) if transposed else weights(12, 7)}
    if bias_shape is not None:
        constants["b"] = np.asarray(weights(*bias_shape), np.float32)
    node = helper.make_node("Gemm", ["x", *constants], ["y"], transB=transposed, alpha=alpha, beta=0.3)
    model = small_model([node], constants, (5, 12))
    assert_same_outputs(model, replace_all(model, {"x": (5, 12)}), {"x": (5, 12)}, 1e-6)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 5, 12)])
def test_any_matrix_product_is_read_completely(shape: tuple[int, ...]) -> None:
    model = small_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(12, 7)}, shape)
    assert_same_outputs(model, replace_all(model, {"x": shape}), {"x": shape}, 1e-6)


def test_half_precision_stays_half_precision() -> None:
    constants = {"w": weights(6, 4, 3, 3, dtype=np.float16)}
    model = small_model([conv()], constants, element_type=TensorProto.FLOAT16)
    replaced = replace_all(model)
    assert {tensor.data_type for tensor in replaced.graph.initializer} == {TensorProto.FLOAT16}
    assert_same_outputs(model, replaced, SHAPES, 1e-3)


@pytest.mark.parametrize("model", [if_model(), loop_model()], ids=["if", "loop"])
def test_layers_in_inner_graphs_are_replaced(model: onnx.ModelProto) -> None:
    replaced = replace_all(model)
    assert "w" not in initializer_names(replaced)
    onnx.checker.check_model(replaced)
    assert_same_outputs(model, replaced, SHAPES, 1e-5)


def test_the_original_is_not_changed() -> None:
    model = if_model()
    before = model.SerializeToString(deterministic=True)
    replace_all(model)
    assert model.SerializeToString(deterministic=True) == before


def test_everything_else_survives() -> None:
    nodes = [conv(target="a"), helper.make_node("Unknown", ["a"], ["y"], "own", domain="custom", doc_string="node")]
    model = small_model(nodes, {"w": weights(6, 4, 3, 3), "unused": weights(3)}, ("batch", 4, "h", "w"))
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    model.doc_string, model.producer_name, model.model_version = "what it does", "somebody", 7
    model.graph.doc_string = "a graph"
    model.metadata_props.add(key="author", value="somebody")
    model.metadata_props.add(key=PLAN_KEY, value="old")
    replaced = replace_all(model, metadata={PLAN_KEY: "new", "other": "1"})
    assert {entry.key: entry.value for entry in replaced.metadata_props} == {
        "author": "somebody",
        PLAN_KEY: "new",
        "other": "1",
    }
    assert "unused" in initializer_names(replaced)
    assert replaced.graph.node[-1] == model.graph.node[-1]
    for field in ("doc_string", "producer_name", "model_version", "ir_version", "opset_import"):
        assert getattr(replaced, field) == getattr(model, field)
    for field in ("name", "doc_string", "input", "output", "value_info"):
        assert getattr(replaced.graph, field) == getattr(model.graph, field)


def test_without_replacements_the_model_is_equal() -> None:
    model = if_model()
    assert replace_layers(model, find_layers(model, SHAPES), {}) == model


def test_only_named_layers_are_replaced() -> None:
    nodes = [conv("x", "a", "first"), conv("a", "y", "second")]
    model = small_model(nodes, {"w": weights(4, 4, 3, 3)})
    replaced = replace_layers(model, find_layers(model, SHAPES), {"second": same_layer})
    assert [node.name for node in replaced.graph.node] == ["first", "second/conv"]
    assert initializer_names(replaced) == ["w", "second/weight", "second/bias"]
    assert_same_outputs(model, replaced, SHAPES, 1e-6)


def test_a_weight_goes_with_its_last_reader_and_what_made_it() -> None:
    stored = onnx.numpy_helper.from_array(weights(4, 4, 3, 3, dtype=np.float16))
    nodes = [
        helper.make_node("Constant", [], ["stored"], value=stored),
        helper.make_node("Cast", ["stored"], ["w"], to=TensorProto.FLOAT),
        conv("x", "a", "first"),
        conv("a", "y", "second"),
    ]
    model = small_model(nodes, {})
    replaced = replace_all(model)
    assert [node.op_type for node in replaced.graph.node] == ["Conv", "Conv"]
    assert_same_outputs(model, replaced, SHAPES, 1e-5)


def test_names_that_are_taken_get_a_number() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["conv/weight"], "conv/conv"),
        conv("conv/weight", "y", "conv"),
    ]
    model = small_model(nodes, {"w": weights(4, 4, 3, 3)})
    replaced = replace_all(model)
    assert initializer_names(replaced) == ["conv/weight_2", "conv/bias"]
    assert [node.name for node in replaced.graph.node] == ["conv/conv", "conv/conv_2"]
    assert_same_outputs(model, replaced, SHAPES, 1e-6)


def test_an_old_ir_version_keeps_declaring_its_constants() -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)}, opset=9, ir_version=3)
    replaced = replace_all(model)
    assert [value.name for value in replaced.graph.input] == ["x", "conv/weight", "conv/bias"]
    assert_same_outputs(model, replaced, SHAPES, 1e-6)


def test_a_replacement_of_several_nodes_stands_in_order() -> None:
    def twice_negated(layer: ConvLayer, input_name: str, output_name: str) -> Written:
        inner = same_layer(layer, input_name, "c/negative")
        negations = [
            helper.make_node("Neg", ["c/negative"], ["c/positive"], "c/one"),
            helper.make_node("Neg", ["c/positive"], [output_name], "c/two"),
        ]
        return Written([*inner.nodes, *negations], inner.initializers)

    nodes = [conv("x", "a", "c"), helper.make_node("Relu", ["a"], ["y"], "after")]
    model = small_model(nodes, {"w": weights(4, 4, 3, 3)})
    replaced = replace_layers(model, find_layers(model, SHAPES), {"c": twice_negated})
    assert [node.name for node in replaced.graph.node] == ["c/conv", "c/one", "c/two", "after"]
    assert_same_outputs(model, replaced, SHAPES, 1e-6)


def test_a_replacement_may_read_the_input_from_an_inner_graph() -> None:
    def gated(layer: ConvLayer, input_name: str, output_name: str) -> Written:
        branches = {}
        initializers = [onnx.numpy_helper.from_array(np.array(False), "conv/gate")]
        for branch in ("then_branch", "else_branch"):
            inner = same_layer(layer, input_name, branch)
            result = helper.make_tensor_value_info(branch, TensorProto.FLOAT, [None] * 4)
            branches[branch] = helper.make_graph(inner.nodes, branch, [], [result], inner.initializers)
        return Written([helper.make_node("If", ["conv/gate"], [output_name], "conv/if", **branches)], initializers)

    model = small_model([conv()], {"w": weights(4, 4, 3, 3)})
    replaced = replace_layers(model, find_layers(model, SHAPES), {"conv": gated})
    assert_same_outputs(model, replaced, SHAPES, 1e-6)


def _writes_elsewhere(layer: ConvLayer, input_name: str, output_name: str) -> Written:
    return Written([helper.make_node("Relu", [input_name], ["elsewhere"])], [])


def _reads_elsewhere(layer: ConvLayer, input_name: str, output_name: str) -> Written:
    return Written([helper.make_node("Relu", ["elsewhere"], [output_name])], [])


def _writes_nothing(layer: ConvLayer, input_name: str, output_name: str) -> Written:
    return Written([], [])


@pytest.mark.parametrize("make", [_writes_elsewhere, _reads_elsewhere, _writes_nothing])
def test_a_replacement_that_does_not_fit_is_an_error(make: Any) -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)})
    with pytest.raises(VerificationError, match="'conv'"):
        replace_layers(model, find_layers(model, SHAPES), {"conv": make})


def test_an_unknown_layer_is_an_error() -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)})
    with pytest.raises(VerificationError, match="'other'"):
        replace_layers(model, find_layers(model, SHAPES), {"other": same_layer})
