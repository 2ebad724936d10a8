"""Drawn layers and chains, and one session that runs the plain convolution beside every lowering of a chain."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import strategies as st
from onnx import helper

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization, FloatArray
from edge_dac.lowerings import LOWERINGS

IR_VERSION = 8


@st.composite
def attributes(draw: st.DrawFn, axes: int, groups: int = 1) -> ConvAttributes:
    """Strides, dilations, and either asymmetric pads or SAME."""

    def per_axis(low: int, high: int, count: int = axes) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    dilations = per_axis(1, 2) if auto_pad == "NOTSET" else (1,) * axes
    pads = per_axis(0, 2, 2 * axes) if auto_pad == "NOTSET" else (0,) * (2 * axes)
    return ConvAttributes(per_axis(1, 3), pads, dilations, groups, auto_pad)


def make_layer(
    weight: FloatArray, bias: FloatArray | None, conv: ConvAttributes, size: tuple[int, ...], opset: int = 13
) -> ConvLayer:
    return ConvLayer("layer", weight, bias, conv, size, opset=opset)


def merge(factors: tuple[Factor, ...]) -> FloatArray:
    """The ungrouped kernel that the chain amounts to: factors never share a kernel axis above 1."""
    kernels = [np.moveaxis(_ungrouped(factor).astype(np.float64), (0, 1), (-2, -1)) for factor in factors]
    merged = functools.reduce(lambda total, kernel: kernel @ total, kernels)
    return np.moveaxis(merged, (-2, -1), (0, 1)).astype(np.float32)


def _ungrouped(factor: Factor) -> FloatArray:
    groups = factor.attributes.groups
    out, per_group, *kernel = factor.weight.shape
    full = np.zeros((out, per_group * groups, *kernel), factor.weight.dtype)
    rows = out // groups
    for group in range(groups):
        block = slice(group * rows, (group + 1) * rows)
        full[block, group * per_group : (group + 1) * per_group] = factor.weight[block]
    return full


def relative_errors(
    layer: ConvLayer, factorization: Factorization, x: FloatArray, dynamic_batch: bool = False
) -> dict[str, float]:
    """Largest deviation of each lowering that applies from the plain node, over the largest output.

    ``layer`` is the ungrouped layer that ``factorization`` equals. All run in one session at full optimisation.
    """
    dense = Factorization("dense", 1, (Factor(layer.weight, layer.attributes),), layer.bias)
    reference = LOWERINGS["direct"].lower(replace(layer, name="plain"), dense, "x", "plain_y")
    nodes, initializers, names = list(reference.nodes), list(reference.initializers), []
    for name, lowering in LOWERINGS.items():
        if lowering.refuse(layer, factorization.chain) is None:
            lowered = lowering.lower(replace(layer, name=name), factorization, "x", f"{name}_y")
            nodes += lowered.nodes
            initializers += lowered.initializers
            names.append(name)
    plain, *results = run_nodes(
        nodes, initializers, x, ["plain_y", *(f"{name}_y" for name in names)], layer.opset, dynamic_batch
    )
    # The inputs have variance 1, so this is the size of a typical output: a map of one output may cancel to nothing.
    typical = np.sqrt(np.square(layer.weight).sum(axis=tuple(range(1, layer.weight.ndim))).max())
    scale = max(np.abs(plain).max(), typical)
    for result in results:
        assert result.shape == plain.shape
        assert result.dtype == plain.dtype
    return {
        name: float(np.abs(result.astype(np.float64) - plain).max() / scale)
        for name, result in zip(names, results, strict=True)
    }


def run_nodes(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    x: FloatArray,
    outputs: list[str],
    opset: int,
    dynamic_batch: bool = False,
) -> list[FloatArray]:
    """Outputs of the nodes for the input ``x``, checked by onnx first."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    shape = ["batch" if dynamic_batch else x.shape[0], *x.shape[1:]]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, [None] * x.ndim) for name in outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in session.run(outputs, {"x": x})]


def random_array(rng: np.random.Generator, *shape: int) -> FloatArray:
    return rng.standard_normal(shape).astype(np.float32)


__all__ = ["attributes", "make_layer", "merge", "random_array", "relative_errors", "run_nodes"]
