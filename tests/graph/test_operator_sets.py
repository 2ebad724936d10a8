"""A newer operator set is declared where nothing changes by it, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph.small_models import conv, small_model, weights
from onnx import helper

from edge_dac.graph.operator_sets import raise_operator_set
from edge_dac.graph.scopes import default_opset


def model_of(*nodes: onnx.NodeProto, opset: int = 9) -> onnx.ModelProto:
    constants = {"w": weights(4, 4, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    return small_model(nodes, constants, opset=opset, output_shape=[None] * 4)


def answer(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 4, 10, 12)).astype(np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


def test_operators_that_stay_the_same_are_declared_newer() -> None:
    nodes = [conv("x", "a"), helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2])]
    model = model_of(*nodes, helper.make_node("Dropout", ["b"], ["c"]), helper.make_node("Relu", ["c"], ["y"]))
    before = answer(model)
    raise_operator_set(model)
    assert default_opset(model) == 10
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(answer(model), before)


@pytest.mark.parametrize(
    "changed",
    [
        helper.make_node("Slice", ["x"], ["y"], starts=[0], ends=[2], axes=[1]),
        helper.make_node("Upsample", ["x", "scales"], ["y"]),
        helper.make_node("Dropout", ["x"], ["y", "mask"]),
        helper.make_node("NoSuchOperator", ["x"], ["y"]),
    ],
)
def test_an_operator_that_changed_keeps_the_old_one(changed: onnx.NodeProto) -> None:
    model = model_of(changed)
    raise_operator_set(model)
    assert default_opset(model) == 9


@pytest.mark.parametrize("opset", [8, 10, 13])
def test_other_operator_sets_stay(opset: int) -> None:
    model = model_of(conv("x", "y"), opset=opset)
    raise_operator_set(model)
    assert default_opset(model) == opset
