"""Resize by a whole number is said by scales, computes the same, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from architectures.comparison import assert_same_outputs
from graph.small_models import small_model
from onnx import helper

from edge_dac.graph.canonical import canonicalize

SHAPES = {"x": (1, 4, 10, 12)}
NO_FLOATS = np.empty(0, np.float32)


def resize(sizes: list[int], *, opset: int = 17, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"], "resize", **attributes)
    return small_model([node], {"none": NO_FLOATS, "sizes": np.array(sizes, np.int64)}, opset=opset)


def only_resize(model: onnx.ModelProto) -> tuple[onnx.NodeProto, dict[str, Any]]:
    (node,) = (node for node in model.graph.node if node.op_type == "Resize")
    return node, {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize("opset", [11, 13, 19])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("rule", ["pytorch_half_pixel", "half_pixel", "asymmetric", "align_corners"])
def test_sizes_become_scales(rule: str, mode: str, opset: int) -> None:
    model = resize([1, 4, 20, 36], opset=opset, mode=mode, coordinate_transformation_mode=rule)
    fixed = canonicalize(model)
    node, values = only_resize(fixed)
    assert list(node.input) == ["x", "none", "resize/scales"]
    assert values["coordinate_transformation_mode"] == rule.replace("pytorch_", "").encode()
    assert {tensor.name for tensor in fixed.graph.initializer} == {"none", "resize/scales"}
    assert_same_outputs(model, fixed, SHAPES, 1e-6)


def test_what_computed_the_sizes_goes_with_them() -> None:
    """The way in which PyTorch writes an enlargement to the size of another map."""
    nodes = [
        helper.make_node("MaxPool", ["x"], ["low"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "two", "four"], ["spatial"]),
        helper.make_node("Shape", ["low"], ["low_shape"]),
        helper.make_node("Slice", ["low_shape", "zero", "two"], ["leading"]),
        helper.make_node("Concat", ["leading", "spatial"], ["sizes"], axis=0),
        helper.make_node("Resize", ["low", "none", "none", "sizes"], ["high"], mode="linear"),
        helper.make_node("Add", ["x", "high"], ["y"]),
    ]
    constants = {"none": NO_FLOATS, **{n: np.array([i], np.int64) for n, i in (("zero", 0), ("two", 2), ("four", 4))}}
    model = small_model(nodes, constants)
    fixed = canonicalize(model)
    assert [node.op_type for node in fixed.graph.node] == ["MaxPool", "Resize", "Add"]
    assert {tensor.name for tensor in fixed.graph.initializer} == {"none", "high/scales"}
    assert_same_outputs(model, fixed, SHAPES, 1e-6)


@pytest.mark.parametrize(
    ("sizes", "attributes"),
    [
        ([1, 4, 15, 18], {"mode": "linear"}),  # one and a half times
        ([1, 4, 5, 6], {"mode": "linear"}),  # smaller
    ],
)
def test_other_resizes_stay(sizes: list[int], attributes: dict[str, Any]) -> None:
    model = resize(sizes, **attributes)
    assert canonicalize(model) == model


def test_sizes_that_the_model_does_not_fix_stay() -> None:
    node = helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"], mode="nearest")
    constants = {"none": NO_FLOATS, "sizes": np.array([1, 4, 20, 24], np.int64)}
    model = small_model([node], constants, (1, 4, "height", "width"))
    assert canonicalize(model) == model


def test_sizes_that_are_an_input_stay() -> None:
    node = helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"], mode="nearest")
    model = small_model([node], {"none": NO_FLOATS}, output_shape=[None] * 4)
    model.graph.input.append(helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, [4]))
    assert canonicalize(model) == model
