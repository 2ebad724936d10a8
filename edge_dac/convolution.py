"""Vocabulary of the algebra: a layer, its factors, a factorization, a refusal. Only numpy.

A layer is a linear map over patches. Its weight is laid out ``[out, in/groups, *kernel]``: two kernel axes for a
2-D ``Conv``, one for a 1-D ``Conv``, none for a ``MatMul`` or ``Gemm`` with a constant matrix, so that one set of
formulas serves all three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating]
Int8Array: TypeAlias = npt.NDArray[np.int8]
Rank: TypeAlias = int | tuple[int, int]
SpatialSize: TypeAlias = tuple[int | None, ...]


class Reason(StrEnum):
    """Why a layer, or a scheme or lowering for a layer, does not apply."""

    WEIGHTS_NOT_CONSTANT = "weights_not_constant"
    UNSUPPORTED_OPERATOR = "unsupported_operator"
    UNSUPPORTED_TYPE = "unsupported_type"
    UNSUPPORTED_DIMENSIONS = "unsupported_dimensions"
    QUANTIZED = "quantized"
    DEPTHWISE = "depthwise"
    KERNEL_SHAPE = "kernel_shape"
    STRIDE = "stride"
    DILATION = "dilation"
    GROUPS = "groups"
    UNKNOWN_SPATIAL_SIZE = "unknown_spatial_size"
    NO_GAIN = "no_gain"
    UNOBSERVED = "unobserved"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The typed reason why something is left as it is."""

    subject: str
    """Name of the layer (or model) that is left alone."""
    reason: Reason
    message: str
    """One line for people: what was found, what was expected."""


@dataclass(frozen=True, slots=True)
class ConvAttributes:
    """Attributes of an ONNX ``Conv``, complete (no defaults left open). Empty tuples for a matrix product."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    """ONNX order: begins of all axes, then ends. Zeros where ``auto_pad`` decides."""
    dilations: tuple[int, ...]
    groups: int = 1
    auto_pad: str = "NOTSET"
    """``NOTSET``, ``SAME_UPPER`` or ``SAME_LOWER``; ``VALID`` is written as zero pads."""

    @classmethod
    def pointwise(cls, axes: int, groups: int = 1) -> ConvAttributes:
        """Attributes of a 1x1 convolution over ``axes`` spatial axes."""
        return cls((1,) * axes, (0,) * (2 * axes), (1,) * axes, groups)

    def output_size(self, kernel: tuple[int, ...], size: SpatialSize) -> SpatialSize:
        """Spatial size after a convolution with this ``kernel`` over ``size``; ``None`` stays ``None``."""
        axes = len(kernel)
        result: list[int | None] = []
        for axis in range(axes):
            length = size[axis]
            if length is None:
                result.append(None)
            elif self.auto_pad != "NOTSET":
                result.append(-(-length // self.strides[axis]))
            else:
                padded = length + self.pads[axis] + self.pads[axis + axes]
                result.append((padded - self.dilations[axis] * (kernel[axis] - 1) - 1) // self.strides[axis] + 1)
        return tuple(result)

    def on_axis(self, axis: int) -> ConvAttributes:
        """The part of these attributes that acts on one axis; the other axes pass through."""
        axes = len(self.strides)

        def keep(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
            return tuple(value if index % axes == axis else neutral for index, value in enumerate(values))

        return replace(self, strides=keep(self.strides, 1), pads=keep(self.pads, 0), dilations=keep(self.dilations, 1))


@dataclass(frozen=True, slots=True)
class FactorShape:
    """Shape of one convolution of a chain: what latency and MACs depend on."""

    out_channels: int
    in_channels: int
    kernel: tuple[int, ...]
    attributes: ConvAttributes

    @property
    def macs_per_output_pixel(self) -> int:
        return self.out_channels * (self.in_channels // self.attributes.groups) * math.prod(self.kernel)


@dataclass(frozen=True, eq=False)
class Factor:
    """One convolution of a chain.

    Attributes:
        values: ``[out, in/groups, *kernel]``: the weight, or integers of 8 bits where it lies on a grid of ``steps``.
        steps: ``[out]``: what an integer of each output channel is worth.
    """

    values: FloatArray | Int8Array
    attributes: ConvAttributes
    steps: FloatArray | None = None

    @property
    def weight(self) -> FloatArray:
        """``[out, in/groups, *kernel]``, float32; made anew each time where it lies on a grid."""
        if self.steps is None:
            return cast(FloatArray, self.values)
        return np.asarray(self.values * self.steps.reshape(-1, *(1,) * (self.values.ndim - 1)), self.steps.dtype)

    @property
    def shape(self) -> FactorShape:
        out, per_group, *kernel = self.values.shape
        return FactorShape(out, per_group * self.attributes.groups, tuple(kernel), self.attributes)


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """One ``Conv``, ``Gemm`` or ``MatMul`` node with constant weights.

    Attributes:
        name: unique in the model; the node's name, or its output's where the node has none.
        weight: ``[out, in/groups, *kernel]`` as float32, whatever the model stores.
        bias: ``[out]`` as float32, or None.
        attributes: complete ``Conv`` attributes.
        input_size: spatial size of the input where known at the profiled input shape, else None per axis.
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        dtype: element type stored in the model (float32 or float16).
        positions: for ``Gemm``/``MatMul``, rows of the left operand at the profiled shape; 1 for ``Conv``.
        batch: leading axis of the input at the profiled shape; 1 where it is unknown, and for a matrix product.
        static_size: whether the model itself fixes ``input_size``; where not, it only holds at the profiled shape, and a
            rewrite that needs a size must refuse.
        opset: version of the default operator set that the model imports; new nodes must exist in it.
    """

    name: str
    weight: FloatArray
    bias: FloatArray | None
    attributes: ConvAttributes
    input_size: SpatialSize
    operator: str = "Conv"
    dtype: npt.DTypeLike = np.float32
    positions: int = 1
    batch: int = 1
    static_size: bool = True
    opset: int = 17

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[1]) * self.attributes.groups

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(int(extent) for extent in self.weight.shape[2:])

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return self.weight.ndim - 2

    @cached_property
    def shape(self) -> FactorShape:
        return FactorShape(self.out_channels, self.in_channels, self.kernel, self.attributes)

    @property
    def output_size(self) -> SpatialSize:
        return self.attributes.output_size(self.kernel, self.input_size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layer as it is, at the profiled shape (per output pixel if that is unknown)."""
        return self.chain_macs((self.shape,))

    def chain_macs(self, chain: tuple[FactorShape, ...]) -> int:
        """Multiply-accumulates of a chain of convolutions in this layer's place, at the profiled input shape."""
        total = 0
        size = tuple(self.input_size)
        known = None not in size
        for shape in chain:
            size = shape.attributes.output_size(shape.kernel, size)
            pixels = math.prod(extent for extent in size if extent is not None) if known else 1
            total += shape.macs_per_output_pixel * pixels
        return total * self.positions * self.batch


@dataclass(frozen=True, slots=True)
class Affine:
    """How 8 bits stand for real numbers: ``scale * (q - zero_point)`` for ``q`` from 0 to 255."""

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, low: float, high: float) -> Affine:
        """The finest one that reaches from ``low`` to ``high`` and holds zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, 1e-12)
        return cls(scale, int(np.clip(round(-low / scale), 0, 255)))


@dataclass(frozen=True, eq=False)
class Quantization:
    """In what integers the maps between factors are computed; the factors' weights lie on grids of their own.

    Attributes:
        grids: of the layer's input and of what each factor writes; empty where they are found anew in every run.
    """

    grids: tuple[Affine, ...] = ()


@dataclass(frozen=True, eq=False)
class Factorization:
    """Scheme + rank + factor arrays + bias for one layer.

    The layer's output is approximated by the factors applied in order; ``bias`` ``[out]`` is added after the last.
    """

    scheme: str
    rank: Rank
    factors: tuple[Factor, ...]
    bias: FloatArray | None
    details: dict[str, str] = field(default_factory=dict)
    """What a scheme wants to say of itself, for example the orientation that ``spatial`` took."""
    quantization: Quantization | None = None
    """Where the factors, all with ``steps``, are to be computed in integers."""

    @property
    def chain(self) -> tuple[FactorShape, ...]:
        return tuple(factor.shape for factor in self.factors)
