"""``tucker``: 1x1, a small kernel, 1x1 (Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low
Power Mobile Applications", ICLR 2016, arXiv 1511.06530).

Both channel axes are cut, the kernel axes are kept: ``W[n, c, t] ~ sum_ab B[n, b] core[b, a, t] A[c, a]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization, FactorShape, FloatArray, Rank, Reason
from edge_dac.errors import UsageError
from edge_dac.schemes.low_rank import principal_axes
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments, Scheme

PASSES = 2
"""Passes of orthogonal iteration after the start; more change the error by less than a percent."""

TILTS = (0.5, 1.0, 2.0)
"""Ratios ``(b / out) / (a / in)`` that a planner is offered."""


class Tucker(Scheme):
    """Ranks are pairs ``(a, b)``: maps a group after the first 1x1 and before the last. Any pair can be factorized."""

    name = "tucker"

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        if math.prod(layer.kernel) == 1:
            return Reason.KERNEL_SHAPE, "expected a kernel of more than one tap"
        return None

    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        """Pairs in proportion to the channels; other pairs can be factorized too."""
        inputs, outputs = _channels(layer)
        steps = min(inputs, outputs)
        return [(-(-inputs * step // steps), -(-outputs * step // steps)) for step in range(1, steps + 1)]

    def offers(self, layer: ConvLayer, rank: Rank) -> bool:
        inputs, outputs = _channels(layer)
        return isinstance(rank, tuple) and len(rank) == 2 and 1 <= rank[0] <= inputs and 1 <= rank[1] <= outputs

    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        found: set[Rank] = set()
        for tilt in TILTS:
            path = _tilted_path(layer, tilt, multiple)
            shares = np.array([self.macs(layer, rank) for rank in path]) / layer.macs
            found.update(path[np.abs(shares - fraction).argmin()] for fraction in fractions)
        below = [rank for rank in found if self.macs(layer, rank) < layer.macs]
        return sorted(below, key=lambda rank: self.macs(layer, rank))

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        assert isinstance(rank, tuple)
        groups, ones = layer.attributes.groups, (1,) * layer.axes
        pointwise = ConvAttributes.pointwise(layer.axes, groups)
        first, second = groups * rank[0], groups * rank[1]
        return (
            FactorShape(first, layer.in_channels, ones, pointwise),
            FactorShape(second, first, layer.kernel, layer.attributes),
            FactorShape(layer.out_channels, second, ones, pointwise),
        )

    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        if moments is not None:
            raise UsageError(f"{self.name}: no fit to moments yet")
        inputs, outputs = _channels(layer)
        kernels = layer.weight.reshape(layer.attributes.groups, outputs, inputs, -1).astype(np.float64)
        return _TuckerDecomposition(layer, kernels)


@dataclass(frozen=True, eq=False)
class _TuckerDecomposition(Decomposition):
    """``kernels``: ``[g, n, c, taps]`` in float64."""

    layer: ConvLayer
    kernels: FloatArray

    @cached_property
    def _output_axes(self) -> FloatArray:
        """Principal output directions of the whole kernel, ``[g, n, n]``: the start of every pair (HOSVD)."""
        return _axes_of(self.kernels)

    def at(self, rank: Rank) -> Factorization:
        Tucker().check_rank(self.layer, rank)
        assert isinstance(rank, tuple)
        output_axes = self._output_axes[..., : rank[1]]
        for _ in range(PASSES):
            input_axes = _axes_of(_project(self.kernels, output_axes).swapaxes(1, 2))[..., : rank[0]]
            narrowed = _project(self.kernels.swapaxes(1, 2), input_axes).swapaxes(1, 2)  # [g, n, a, taps]
            output_axes = _axes_of(narrowed)[..., : rank[1]]
        core = _project(narrowed, output_axes)
        return Factorization("tucker", rank, self._factors(input_axes, core, output_axes), self.layer.bias)

    def _factors(self, input_axes: FloatArray, core: FloatArray, output_axes: FloatArray) -> tuple[Factor, ...]:
        """From ``[g, c, a]``, ``[g, b, a, taps]``, ``[g, n, b]``."""
        layer, groups = self.layer, self.layer.attributes.groups
        pointwise = ConvAttributes.pointwise(layer.axes, groups)
        ones, dtype = (1,) * layer.axes, layer.weight.dtype
        inputs, a = input_axes.shape[1:]
        outputs, b = output_axes.shape[1:]
        first = input_axes.swapaxes(1, 2).reshape(groups * a, inputs, *ones)
        last = output_axes.reshape(groups * outputs, b, *ones)
        return (
            Factor(first.astype(dtype), pointwise),
            Factor(core.reshape(groups * b, a, *layer.kernel).astype(dtype), layer.attributes),
            Factor(last.astype(dtype), pointwise),
        )


def _channels(layer: ConvLayer) -> tuple[int, int]:
    """Input and output channels of one group."""
    groups = layer.attributes.groups
    return layer.in_channels // groups, layer.out_channels // groups


def _tilted_path(layer: ConvLayer, tilt: float, multiple: int) -> list[tuple[int, int]]:
    """Pairs of multiples of ``multiple`` with ``(b / out) / (a / in)`` near ``tilt``, from small to large."""
    inputs, outputs = _channels(layer)
    steps = max(inputs, outputs)
    shares = [(step / steps / max(tilt, 1.0), step / steps / max(1.0 / tilt, 1.0)) for step in range(1, steps + 1)]
    pairs = {(_rounded(a * inputs, multiple, inputs), _rounded(b * outputs, multiple, outputs)) for a, b in shares}
    return sorted(pairs)


def _rounded(size: float, multiple: int, largest: int) -> int:
    rounded = round(size / multiple) * multiple if size >= multiple else round(size)
    return min(max(rounded, 1), largest)


def _axes_of(tensor: FloatArray) -> FloatArray:
    """Principal directions of the second axis of ``[g, n, ...]``: orthogonal ``[g, n, n]``, most energy first."""
    matrix = tensor.reshape(*tensor.shape[:2], -1)
    return principal_axes(matrix @ matrix.swapaxes(1, 2))[1]


def _project(tensor: FloatArray, axes: FloatArray) -> FloatArray:
    """``[g, n, ...]`` onto ``axes [g, n, b]``: ``[g, b, ...]``."""
    matrix = tensor.reshape(*tensor.shape[:2], -1)
    return (axes.swapaxes(1, 2) @ matrix).reshape(tensor.shape[0], axes.shape[2], *tensor.shape[2:])
