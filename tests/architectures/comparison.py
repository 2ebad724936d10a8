"""Comparing models by what they compute, and a replacement that computes what the layer did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edge_dac.convolution import ConvLayer, FloatArray
from edge_dac.graph.shapes import tensor_shapes


@dataclass(frozen=True)
class Written:
    """Nodes and constants in a layer's place."""

    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto]


def same_layer(layer: ConvLayer, input_name: str, output_name: str) -> Written:
    """The layer again, written from what was read of it."""
    dtype = np.dtype(layer.dtype)
    bias = np.zeros(layer.out_channels, dtype) if layer.bias is None else layer.bias.astype(dtype)
    weight = layer.weight.astype(dtype) if layer.operator == "Conv" else layer.weight.T.astype(dtype)
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(weight), f"{layer.name}/weight"),
        numpy_helper.from_array(bias, f"{layer.name}/bias"),
    ]
    names = [tensor.name for tensor in initializers]
    if layer.operator != "Conv":
        product = f"{layer.name}/product"
        nodes = [
            helper.make_node("MatMul", [input_name, names[0]], [product], f"{layer.name}/matmul"),
            helper.make_node("Add", [product, names[1]], [output_name], f"{layer.name}/add"),
        ]
        return Written(nodes, initializers)
    attributes = layer.attributes
    padding: dict[str, Any] = (
        {"pads": attributes.pads} if attributes.auto_pad == "NOTSET" else {"auto_pad": attributes.auto_pad}
    )
    node = helper.make_node(
        "Conv",
        [input_name, *names],
        [output_name],
        f"{layer.name}/conv",
        strides=attributes.strides,
        dilations=attributes.dilations,
        group=attributes.groups,
        **padding,
    )
    return Written([node], initializers)


def count_macs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """Multiply-accumulates of all ``Conv``, ``Gemm`` and ``MatMul`` nodes of the main graph, counted from their shapes.

    Knows nothing of layers: each output element costs one column of the weight.
    """
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = tuple(node.attribute[0].t.dims)
    macs = 0
    sizes = tensor_shapes(model, shapes)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight = constants[node.input[1]]
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            per_output = math.prod(weight[1:]) if node.op_type == "Conv" or transposed else weight[0]
            macs += per_output * math.prod(extent or 0 for extent in sizes[node.output[0]])
    return macs


def run(
    model: onnx.ModelProto, inputs: Mapping[str, FloatArray], *, optimize: bool = False
) -> list[np.ndarray[Any, Any]]:
    """The model's outputs on one thread; by default as written, without the runtime's own rewrites."""
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def random_inputs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, FloatArray]:
    """Uniform values from -1 to 1."""
    generator = np.random.default_rng(seed)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {
        name: generator.uniform(-1, 1, tuple(shape)).astype(helper.tensor_dtype_to_np_dtype(types[name]))
        for name, shape in shapes.items()
    }


def assert_same_outputs(
    expected: onnx.ModelProto, found: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], tolerance: float = 1e-4
) -> None:
    """Both models give the same outputs, relative to the largest value of each output."""
    inputs = random_inputs(expected, shapes)
    assert [value.name for value in found.graph.output] == [value.name for value in expected.graph.output]
    for before, after in zip(run(expected, inputs), run(found, inputs), strict=True):
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        np.testing.assert_allclose(after, before, rtol=0, atol=tolerance * max(float(np.abs(before).max()), 1e-6))
