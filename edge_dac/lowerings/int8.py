"""A factorization of ``int8`` in ONNX's own integer operators.

A convolution reads and writes 8-bit maps: ``QuantizeLinear``, ``QLinearConv``, ``DequantizeLinear``; between two such layers
``graph.quantizers`` takes the last and the first away. A matrix product takes the range of its input from each run
(``DynamicQuantizeLinear``), and sums up in real numbers: ONNX Runtime makes one node of it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edge_dac.convolution import Affine, ConvLayer, Factorization, FactorShape, FloatArray, Quantization, Refusal
from edge_dac.errors import UsageError
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.lowerings.writer import Writer, node_attributes


class IntegerArithmetic:
    """The one factor, computed in the integers of its quantization."""

    name = "int8"

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Applies to all that the scheme makes."""
        return None

    def lower(self, layer: ConvLayer, factorization: Factorization, input_name: str, output_name: str) -> LoweredLayer:
        """Write the factor.

        Raises:
            UsageError: the factorization has no quantization.
        """
        quantization = factorization.quantization
        if quantization is None:
            raise UsageError(f"{layer.name}: int8: expected a quantized factorization, got {factorization.scheme!r}")
        writer = Writer(layer)
        if quantization.source is None or quantization.target is None:
            _write_product(writer, factorization, quantization, input_name, output_name)
        else:
            ends = (quantization.source, quantization.target)
            _write_convolution(writer, factorization, quantization, ends, input_name, output_name)
        return writer.finish()


def _integers(factorization: Factorization, quantization: Quantization) -> FloatArray:
    """``[out, in/groups, *kernel]``, int8."""
    weight = factorization.factors[0].weight
    scales = quantization.weight_scales.reshape(-1, *(1,) * (weight.ndim - 1))
    integers: FloatArray = np.round(weight / scales).astype(np.int8)
    return integers


def _write_convolution(
    writer: Writer,
    factorization: Factorization,
    quantization: Quantization,
    ends: tuple[Affine, Affine],
    input_name: str,
    output_name: str,
) -> None:
    source, target = (_grid(writer, suffix, affine) for suffix, affine in zip(("source", "target"), ends, strict=True))
    scales = quantization.weight_scales
    weight = writer.values("weight", _integers(factorization, quantization))
    weights = [
        weight,
        writer.values("weight/scale", scales),
        writer.values("weight/zero", np.zeros(len(scales), np.int8)),
    ]
    factor = factorization.factors[0]
    quantized = writer.node("QuantizeLinear", "quantize", [input_name, *source])
    inputs = [quantized, *source, *weights, *target]
    if factorization.bias is not None:
        bias = np.round(factorization.bias / (scales.astype(np.float64) * np.float32(ends[0].scale)))
        inputs.append(writer.values("bias", bias.astype(np.int32)))
    attributes = node_attributes(factor.shape.kernel, factor.attributes)
    convolved = writer.node("QLinearConv", "convolution", inputs, **attributes)
    writer.node("DequantizeLinear", "dequantize", [convolved, *target], output_name)


def _grid(writer: Writer, suffix: str, affine: Affine) -> list[str]:
    """Scale and zero point as constants."""
    return [
        writer.values(f"{suffix}/scale", np.array(affine.scale, np.float32)),
        writer.values(f"{suffix}/zero", np.array(affine.zero_point, np.uint8)),
    ]


def _write_product(
    writer: Writer, factorization: Factorization, quantization: Quantization, input_name: str, output_name: str
) -> None:
    weight = _integers(factorization, quantization).T
    quantized, scale, zero = writer.quantize_dynamically("quantize", input_name)
    matrix = writer.values("weight", np.ascontiguousarray(weight))
    zeros = writer.values("weight/zero", np.zeros(len(quantization.weight_scales), np.int8))
    product = writer.node("MatMulInteger", "product", [quantized, matrix, zero, zeros])
    real = writer.node("Cast", "cast", [product], to=TensorProto.FLOAT)
    steps = writer.node("Mul", "steps", [scale, writer.values("weight/scale", quantization.weight_scales)])
    if factorization.bias is None:
        writer.node("Mul", "scale", [real, steps], output_name)
    else:
        scaled = writer.node("Mul", "scale", [real, steps])
        writer.add("add", scaled, writer.constant("bias", factorization.bias), output_name)
