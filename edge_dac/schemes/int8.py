"""``int8``: the kernel itself in 8-bit integers.

Weights are rounded to a grid of each output channel, activations to one of each tensor (Jacob et al., arXiv 1712.05877;
scales per channel as in Krishnamoorthi, arXiv 1806.08342). The multiply-accumulates stay; where the processor has integer
dot products each takes a quarter of the time. No low-rank structure is needed, and every layer loses about the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_dac.convolution import (
    Affine,
    ConvLayer,
    Factor,
    Factorization,
    FactorShape,
    FloatArray,
    Quantization,
    Rank,
    Reason,
    Refusal,
)
from edge_dac.errors import UsageError
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments, Ranges, Scheme

OLDEST_CONVOLUTION_OPSET, OLDEST_PRODUCT_OPSET = 10, 11
"""``QLinearConv`` and ``DynamicQuantizeLinear`` exist since these."""

LARGEST_BIAS = 2.0**30
"""A bias is added as a 32-bit integer; what it is added to needs the rest."""


class Int8(Scheme):
    """One factor with rounded weights; its rank is the number of bits of a weight.

    7 bits are for processors whose integer products of pairs are summed up in 16 bits that overflow (x86 without VNNI).
    """

    name = "int8"
    computes_integers = True

    def refuse(self, layer: ConvLayer) -> Refusal | None:
        """Applies to depthwise layers too, and saves no multiply-accumulates."""
        found = self.inapplicable(layer)
        return None if found is None else Refusal(layer.name, found[0], f"{layer.name}: {self.name}: {found[1]}")

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        oldest = OLDEST_CONVOLUTION_OPSET if layer.axes else OLDEST_PRODUCT_OPSET
        if layer.opset < oldest:
            return Reason.UNSUPPORTED_OPERATOR, f"needs operator set {oldest} or newer, the model has {layer.opset}"
        if np.dtype(layer.dtype) != np.float32:
            return Reason.UNSUPPORTED_TYPE, f"expected float32, got {np.dtype(layer.dtype)}"
        return None

    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        return (7, 8)

    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        return [7, 8]

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        return (layer.shape,)

    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        """Round the weights.

        Args:
            moments: for a convolution only their ranges count, and must be there; a matrix product finds its input's range
                anew in every run.

        Raises:
            UsageError: a convolution's ranges are not known.
        """
        if layer.axes == 0:
            return _Rounding(layer, None)
        ranges = None if moments is None else moments.ranges
        if ranges is None:
            raise UsageError(f"{layer.name}: int8: expected the ranges of its input and output, got none")
        return _Rounding(layer, ranges)


@dataclass(frozen=True, eq=False)
class _Rounding(Decomposition):
    layer: ConvLayer
    ranges: Ranges | None

    def at(self, rank: Rank) -> Factorization:
        Int8().check_rank(self.layer, rank)
        source = None if self.ranges is None else Affine.covering(*self.ranges.source)
        target = None if self.ranges is None else Affine.covering(*self.ranges.target)
        scales = _weight_scales(self.layer, int(np.max(rank)), source)
        columns = scales.reshape(-1, *(1,) * (self.layer.weight.ndim - 1))
        rounded = np.round(self.layer.weight / columns) * columns
        factors = (Factor(rounded, self.layer.attributes),)
        quantization = Quantization(scales, source, target)
        return Factorization("int8", rank, factors, self.layer.bias, quantization=quantization)


def _weight_scales(layer: ConvLayer, bits: int, source: Affine | None) -> FloatArray:
    """``[out]``, float32: the largest weight of each channel at the end of the grid, and the bias within 32 bits."""
    largest = np.abs(layer.weight).reshape(layer.out_channels, -1).max(axis=1)
    scales = np.maximum(largest / (2 ** (bits - 1) - 1), np.finfo(np.float32).tiny * 2**30)
    if source is not None and layer.bias is not None:
        scales = np.maximum(scales, np.abs(layer.bias) / (source.scale * LARGEST_BIAS))
    return np.asarray(scales, np.float32)
