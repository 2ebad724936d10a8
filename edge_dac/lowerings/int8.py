"""A quantized factorization in ONNX's own integer operators.

A convolution reads and writes 8-bit maps: ``QuantizeLinear``, ``QLinearConv``, ``DequantizeLinear``; between two such layers
``graph.quantizers`` takes the last and the first away. A matrix product takes the range of its input from each run
(``DynamicQuantizeLinear``), and sums up in real numbers: ONNX Runtime makes one node of it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edge_dac.convolution import (
    Affine,
    ConvLayer,
    Factorization,
    FactorShape,
    Quantization,
    Reason,
    Refusal,
)
from edge_dac.errors import UsageError
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.lowerings.writer import Writer, node_attributes
from edge_dac.schemes.int8 import Int8


class IntegerArithmetic:
    """The factors, computed in the integers of their quantization."""

    name = "int8"

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Applies to chains of convolutions whose first factor keeps the layer's groups, and to a product alone."""
        if layer.axes == 0 and len(chain) > 1:
            return Refusal(
                layer.name, Reason.UNSUPPORTED_DIMENSIONS, "a chain of matrix products has no grid between them"
            )
        if chain[0].attributes.groups != layer.attributes.groups:
            return Refusal(layer.name, Reason.GROUPS, "depthwise factors in integers are not offered")
        return Int8().refuse(layer)

    def lower(self, layer: ConvLayer, factorization: Factorization, input_name: str, output_name: str) -> LoweredLayer:
        """Write the factors.

        Raises:
            UsageError: the factorization has no quantization.
        """
        quantization = factorization.quantization
        if quantization is None:
            raise UsageError(f"{layer.name}: int8: expected a quantized factorization, got {factorization.scheme!r}")
        writer = Writer(layer)
        if quantization.grids:
            _write_convolutions(writer, factorization, quantization, input_name, output_name)
        else:
            _write_product(writer, factorization, input_name, output_name)
        return writer.finish()


def _write_convolutions(
    writer: Writer, factorization: Factorization, quantization: Quantization, input_name: str, output_name: str
) -> None:
    grids = [_grid(writer, f"grid{index}", grid) for index, grid in enumerate(quantization.grids)]
    current = writer.node("QuantizeLinear", "quantize", [input_name, *grids[0]])
    last = len(factorization.factors) - 1
    for index, factor in enumerate(factorization.factors):
        assert factor.steps is not None
        name, steps = f"factor{index}", factor.steps
        weights = [
            writer.values(f"{name}/weight", factor.values),
            writer.values(f"{name}/weight/scale", steps),
            writer.values(f"{name}/weight/zero", np.zeros(len(steps), np.int8)),
        ]
        inputs = [current, *grids[index], *weights, *grids[index + 1]]
        if index == last and factorization.bias is not None:
            source_step = np.float32(quantization.grids[index].scale)
            bias = np.round(factorization.bias / (steps.astype(np.float64) * source_step))
            inputs.append(writer.values(f"{name}/bias", bias.astype(np.int32)))
        attributes = node_attributes(factor.shape.kernel, factor.attributes)
        current = writer.node("QLinearConv", name, inputs, **attributes)
    writer.node("DequantizeLinear", "dequantize", [current, *grids[-1]], output_name)


def _grid(writer: Writer, suffix: str, affine: Affine) -> list[str]:
    """Scale and zero point as constants."""
    return [
        writer.values(f"{suffix}/scale", np.array(affine.scale, np.float32)),
        writer.values(f"{suffix}/zero", np.array(affine.zero_point, np.uint8)),
    ]


def _write_product(writer: Writer, factorization: Factorization, input_name: str, output_name: str) -> None:
    (factor,) = factorization.factors
    assert factor.steps is not None
    quantized, scale, zero = writer.quantize_dynamically("quantize", input_name)
    matrix = writer.values("weight", np.ascontiguousarray(factor.values.T))
    zeros = writer.values("weight/zero", np.zeros(len(factor.steps), np.int8))
    product = writer.node("MatMulInteger", "product", [quantized, matrix, zero, zeros])
    real = writer.node("Cast", "cast", [product], to=TensorProto.FLOAT)
    steps = writer.node("Mul", "steps", [scale, writer.values("weight/scale", factor.steps)])
    if factorization.bias is None:
        writer.node("Mul", "scale", [real, steps], output_name)
    else:
        scaled = writer.node("Mul", "scale", [real, steps])
        writer.add("add", scaled, writer.constant("bias", factorization.bias), output_name)
