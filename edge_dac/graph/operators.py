"""Reading one node as a linear map with constant weights, or saying why it is none.

Conventions of ONNX: ``Conv`` holds ``[out, in/groups, *kernel]`` already; ``MatMul`` multiplies by ``[in, out]`` from
the right; ``Gemm`` is ``alpha * A' B' + beta * C`` with optional transposition of A and B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from edge_dac.convolution import ConvAttributes, FloatArray, Reason
from edge_dac.graph.scopes import Array, Scope, attributes, is_default_domain

_QUANTIZED: Final = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_UNSUPPORTED: Final = frozenset({"ConvTranspose", "DeformConv", "FusedConv", "FusedGemm", "FusedMatMul"})
_SUPPORTED_TYPES: Final = (np.dtype(np.float32), np.dtype(np.float16))
_SPATIAL_AXES: Final = (1, 2)


class NotALayerError(Exception):
    """Control flow inside this room: why a node is not a layer. Never leaves :mod:`edge_dac.graph`."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, eq=False)
class LinearNode:
    """What a node computes: those fields of a :class:`ConvLayer` that do not depend on input shapes."""

    weight: FloatArray
    bias: FloatArray | None
    attributes: ConvAttributes
    dtype: np.dtype[np.generic]


def read_linear(node: onnx.NodeProto, scope: Scope) -> LinearNode | None:
    """The node as a linear map; None for nodes of another kind, such as a product of two computed matrices.

    Raises:
        NotALayerError: a convolution or matrix product that must be left as it is.
    """
    if node.op_type in _QUANTIZED:
        raise NotALayerError(Reason.QUANTIZED, f"{node.op_type} computes with integers; expected floating point")
    if node.op_type in _UNSUPPORTED:
        raise NotALayerError(Reason.UNSUPPORTED_OPERATOR, f"{node.op_type} is not supported; expected Conv")
    reader = _READERS.get(node.op_type) if is_default_domain(node) else None
    if reader is None or (node.op_type == "MatMul" and _computes_both_operands(node, scope)):
        return None
    _refuse_dequantized(node, scope)
    return reader(node, scope)


def _computes_both_operands(node: onnx.NodeProto, scope: Scope) -> bool:
    return all(
        scope.constant(name) is None and (producer := scope.producer(name)) is not None and not _dequantizes(producer)
        for name in node.input
    )


def _dequantizes(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


def _refuse_dequantized(node: onnx.NodeProto, scope: Scope) -> None:
    for role, name in zip(("input", "weight", "bias"), node.input, strict=False):
        if name and _dequantizes(scope.producer(name)):
            raise NotALayerError(Reason.QUANTIZED, f"its {role} {name!r} is quantized; expected floating point")


def _read_conv(node: onnx.NodeProto, scope: Scope) -> LinearNode:
    weight = _weight(node, scope)
    axes = weight.ndim - 2
    if axes not in _SPATIAL_AXES:
        raise NotALayerError(
            Reason.UNSUPPORTED_DIMENSIONS, f"expected 1 or 2 spatial axes, got {axes} (weight {list(weight.shape)})"
        )
    parsed = _conv_attributes(attributes(node), weight.shape[2:])
    out, per_group = weight.shape[:2]
    if parsed.groups < 1 or out % parsed.groups:
        raise NotALayerError(Reason.MALFORMED, f"expected groups that divide {out} channels, got {parsed.groups}")
    if parsed.groups > 1 and per_group == 1:
        raise NotALayerError(Reason.DEPTHWISE, "one input channel per group: there is nothing to factorize")
    bias = _bias(node, scope)
    if bias is not None and bias.shape != (out,):
        raise NotALayerError(Reason.MALFORMED, f"expected a bias of shape [{out}], got {list(bias.shape)}")
    return _linear(weight, bias, parsed, weight.dtype)


def _conv_attributes(values: Mapping[str, object], kernel: tuple[int, ...]) -> ConvAttributes:
    axes = len(kernel)
    auto_pad = values.get("auto_pad", b"NOTSET")
    mode = auto_pad.decode("ascii", "replace") if isinstance(auto_pad, bytes) else str(auto_pad)
    if mode not in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        raise NotALayerError(Reason.MALFORMED, f"unknown auto_pad {mode!r}")
    stated = _integers(values, "kernel_shape", kernel)
    strides = _integers(values, "strides", (1,) * axes)
    dilations = _integers(values, "dilations", (1,) * axes)
    pads = _integers(values, "pads", (0,) * (2 * axes)) if mode == "NOTSET" else (0,) * (2 * axes)
    if stated != kernel:
        raise NotALayerError(Reason.MALFORMED, f"kernel_shape {list(stated)} contradicts the weight's {list(kernel)}")
    if len(strides) != axes or len(dilations) != axes or len(pads) != 2 * axes:
        raise NotALayerError(Reason.MALFORMED, f"strides, dilations or pads do not fit {axes} spatial axes")
    if min(strides) < 1 or min(dilations) < 1 or min(pads) < 0:
        raise NotALayerError(Reason.MALFORMED, "expected positive strides and dilations, and pads of at least 0")
    groups = values.get("group", 1)
    return ConvAttributes(strides, pads, dilations, int(str(groups)), auto_pad="NOTSET" if mode == "VALID" else mode)


def _integers(values: Mapping[str, object], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    found = values.get(name)
    return tuple(int(value) for value in found) if isinstance(found, list) else default


def _read_matmul(node: onnx.NodeProto, scope: Scope) -> LinearNode:
    if scope.constant(node.input[1]) is None and scope.constant(node.input[0]) is not None:
        raise NotALayerError(Reason.UNSUPPORTED_DIMENSIONS, "its left operand is the constant; expected the right one")
    weight = _weight(node, scope)
    if weight.ndim != 2:
        raise NotALayerError(
            Reason.UNSUPPORTED_DIMENSIONS, f"expected a constant matrix, got a tensor of shape {list(weight.shape)}"
        )
    return _linear(weight.T, None, ConvAttributes((), (), ()), weight.dtype)


def _read_gemm(node: onnx.NodeProto, scope: Scope) -> LinearNode:
    weight = _weight(node, scope)
    values = attributes(node)
    if values.get("transA", 0):
        raise NotALayerError(Reason.UNSUPPORTED_DIMENSIONS, "its left operand is transposed; expected transA = 0")
    if weight.ndim != 2:
        raise NotALayerError(Reason.MALFORMED, f"expected a weight with 2 axes, got {weight.ndim}")
    alpha, beta = float(str(values.get("alpha", 1.0))), float(str(values.get("beta", 1.0)))
    oriented = np.asarray(weight if values.get("transB", 0) else weight.T, np.float32)
    bias = _bias(node, scope)
    if bias is not None:
        out = oriented.shape[0]
        if bias.size not in (1, out) or bias.shape[-1:] not in ((), (1,), (out,)) or bias.ndim > 2:
            raise NotALayerError(
                Reason.UNSUPPORTED_DIMENSIONS, f"expected a bias of {out} values, got shape {list(bias.shape)}"
            )
        bias = np.broadcast_to(bias.reshape(-1), (out,)).astype(np.float32) * np.float32(beta)
    scaled = oriented if alpha == 1.0 else oriented * np.float32(alpha)
    return _linear(scaled, bias, ConvAttributes((), (), ()), weight.dtype)


_READERS: Final[Mapping[str, Callable[[onnx.NodeProto, Scope], LinearNode]]] = {
    "Conv": _read_conv,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
}


def _weight(node: onnx.NodeProto, scope: Scope) -> Array:
    weight = scope.constant(node.input[1])
    if weight is None:
        raise NotALayerError(
            Reason.WEIGHTS_NOT_CONSTANT,
            f"its weight {node.input[1]!r} is computed or a graph input; expected a constant",
        )
    if weight.dtype not in _SUPPORTED_TYPES:
        raise NotALayerError(Reason.UNSUPPORTED_TYPE, f"expected float32 or float16 weights, got {weight.dtype}")
    if weight.size == 0 or not np.isfinite(weight).all():
        raise NotALayerError(Reason.MALFORMED, "its weight is empty, or holds NaN or infinity")
    return weight


def _bias(node: onnx.NodeProto, scope: Scope) -> Array | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    bias = scope.constant(node.input[2])
    if bias is None:
        raise NotALayerError(
            Reason.WEIGHTS_NOT_CONSTANT, f"its bias {node.input[2]!r} is computed or a graph input; expected a constant"
        )
    if not np.isfinite(bias).all():
        raise NotALayerError(Reason.MALFORMED, "its bias holds NaN or infinity")
    return bias


def _linear(weight: Array, bias: Array | None, parsed: ConvAttributes, dtype: np.dtype[np.generic]) -> LinearNode:
    return LinearNode(
        np.asarray(weight, np.float32), None if bias is None else np.asarray(bias, np.float32), parsed, dtype
    )
