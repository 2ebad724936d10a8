"""Models of a few nodes for the tests of this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Extent = int | str

GENERATOR = np.random.default_rng(7)


def weights(*shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Normal values of about unit response."""
    return (GENERATOR.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))).astype(dtype)


def small_model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, npt.NDArray[Any]],
    shape: Sequence[Extent] = (1, 4, 10, 12),
    *,
    opset: int = 17,
    ir_version: int = 8,
    element_type: int = TensorProto.FLOAT,
    output_type: int | None = None,
    output_shape: Sequence[Extent | None] | None = None,
    output: str = "y",
) -> onnx.ModelProto:
    """``x`` of ``shape`` to ``output``; ``constants`` become initializers, and graph inputs too before IR version 4."""
    x = helper.make_tensor_value_info("x", element_type, list(shape))
    y = helper.make_tensor_value_info(output, output_type or element_type, output_shape)
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "small", [x], [y], initializers)
    if ir_version < 4:
        graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in initializers
        )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def conv(
    source: str = "x", target: str = "y", name: str = "conv", weight: str = "w", **attributes: Any
) -> onnx.NodeProto:
    """A ``Conv`` node without bias."""
    return helper.make_node("Conv", [source, weight], [target], name, **attributes)


def if_model() -> onnx.ModelProto:
    """One branch takes its weight from the outer graph, the other has its own; both use the same inner names."""
    result = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None] * 4)]
    own = numpy_helper.from_array(weights(4, 4, 3, 3), "own")
    then_branch = helper.make_graph([conv("a", "inner", "conv", pads=[1] * 4)], "then", [], result)
    else_branch = helper.make_graph([conv("a", "inner", "conv", "own", pads=[1] * 4)], "else", [], result, [own])
    nodes = [
        conv("x", "a", "first", pads=[1] * 4),
        helper.make_node("ReduceMax", ["a"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], "branches", then_branch=then_branch, else_branch=else_branch),
    ]
    return small_model(nodes, {"w": weights(4, 4, 3, 3), "zero": np.float32(0)}, output_shape=[None] * 4)


def loop_model() -> onnx.ModelProto:
    """Three times a convolution of what the last time gave."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["still"]), conv("state", "next", "inside", pads=[1] * 4)],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [None] * 4),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [None] * 4),
        ],
    )
    node = helper.make_node("Loop", ["times", "yes", "x"], ["y"], "loop", body=body)
    constants = {"w": weights(4, 4, 3, 3), "times": np.array(3), "yes": np.array(True)}
    return small_model([node], constants, output_shape=[None] * 4)
