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
from edge_dac.schemes.error import with_corrected_bias
from edge_dac.schemes.least_squares import NormalEquations
from edge_dac.schemes.low_rank import LowRank, low_rank, principal_axes
from edge_dac.schemes.metric import check_moments, shrunk_covariance
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments, Scheme, lack_of_taps

STEP = 0.75
"""Each pass of orthogonal iteration aims at this share of the pair before it."""

LEAST = 4
"""Below this many axes on either side nothing is refined further."""

TILTS = (0.5, 1.0, 2.0)
"""Ratios ``(b / out) / (a / in)`` that a planner is offered."""


class Tucker(Scheme):
    """Ranks are pairs ``(a, b)``: maps a group after the first 1x1 and before the last. Any pair can be factorized."""

    name = "tucker"

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        return lack_of_taps(layer)

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
        if moments is None:
            return _TuckerDecomposition(layer)
        check_moments(layer, moments)
        covariance = shrunk_covariance(moments, shrinkage)
        groups, (inputs, outputs) = layer.attributes.groups, _channels(layer)
        kernels = layer.weight.reshape(groups, outputs, inputs, -1).astype(covariance.dtype)
        return _FittedTucker(layer, kernels, covariance, moments)


@dataclass(frozen=True, eq=False)
class _Basis:
    """Orthogonal axes of both sides, best first, and the kernel in them: a pair is a leading block.

    ``input_axes [g, c, c]``, ``core [g, n, c, taps]``, ``output_axes [g, n, n]``.
    """

    input_axes: FloatArray
    core: FloatArray
    output_axes: FloatArray

    @cached_property
    def _held(self) -> FloatArray:
        """``[n, c]``: squares in the block that ends here, of all groups."""
        squares = np.square(self.core, dtype=np.float64).sum(axis=(0, 3))
        held: FloatArray = squares.cumsum(axis=0).cumsum(axis=1)
        return held

    def held(self, a: int, b: int) -> float:
        """Squares of the kernel that the pair keeps."""
        return float(self._held[b - 1, a - 1])


class _TuckerDecomposition(Decomposition):
    """HOSVD, then HOOI (De Lathauwer et al., SIAM J. Matrix Anal. Appl. 21, 2000) for all pairs at once.

    A pass of orthogonal iteration for one pair turns axes within the block of a larger pair only, and so leaves the error
    of that one as it was. Passes for ever smaller pairs of one proportion give one basis whose leading blocks are all near
    their optimum. A pair takes the better of this basis and the start, which bounds its error by that of the HOSVD; the
    error never grows with the rank, because it does not in either. Arrays of work have the inputs last, ``[g, n, taps, c]``,
    so that products of either side are of whole matrices.
    """

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self._refined: dict[float, _Basis] = {}

    def at(self, rank: Rank) -> Factorization:
        a, b = self._checked(rank)
        basis = self._basis(a, b)
        return _factorization(
            self.layer, (a, b), basis.input_axes[..., :a], basis.core[:, :b, :a], basis.output_axes[..., :b]
        )

    def weight_error(self, rank: Rank) -> float:
        """What the block leaves out of the core; the axes are orthogonal."""
        a, b = self._checked(rank)
        core = self._basis(a, b).core
        return float(sum(np.square(rest, dtype=np.float64).sum() for rest in (core[:, b:], core[:, :b, a:])))

    def _checked(self, rank: Rank) -> tuple[int, int]:
        Tucker().check_rank(self.layer, rank)
        assert isinstance(rank, tuple)
        return rank

    def _basis(self, a: int, b: int) -> _Basis:
        """The start, or what was refined for the proportion nearest to that of the pair."""
        inputs, outputs = _channels(self.layer)
        tilt = min(TILTS, key=lambda tilt: abs(math.log(tilt * a * outputs / (b * inputs))))
        if tilt not in self._refined:
            self._refined[tilt] = self._refine(_path_down(inputs, outputs, tilt))
        return max(self._start, self._refined[tilt], key=lambda basis: basis.held(a, b))

    @cached_property
    def _kernels(self) -> FloatArray:
        inputs, outputs = _channels(self.layer)
        kernels = self.layer.weight.reshape(self.layer.attributes.groups, outputs, inputs, -1).swapaxes(2, 3)
        return np.ascontiguousarray(kernels)

    @cached_property
    def _start(self) -> _Basis:
        """HOSVD, in float64."""
        kernels = self._kernels.astype(np.float64)
        output_axes = _output_axes(kernels)
        block = _project_outputs(kernels, output_axes)
        input_axes = _input_axes(block)
        return self._as_stored(input_axes, _project_inputs(block, input_axes), output_axes)

    def _refine(self, pairs: Sequence[tuple[int, int]]) -> _Basis:
        """One pass of orthogonal iteration for each of the falling ``pairs``, within the block of the one before.

        In the precision of the weight: the axes that come out are orthogonal to it, whatever they are.
        """
        start = self._start
        block: FloatArray = np.ascontiguousarray(start.core.swapaxes(2, 3))
        input_axes, output_axes = start.input_axes.copy(), start.output_axes.copy()
        for a, b in pairs:
            turn = _input_axes(block[:, :b])
            input_axes[..., : turn.shape[2]] = input_axes[..., : turn.shape[2]] @ turn
            narrowed = _project_inputs(block, turn[..., :a])
            turn = _output_axes(narrowed)
            output_axes[..., : turn.shape[2]] = output_axes[..., : turn.shape[2]] @ turn
            block = _project_outputs(narrowed, turn[..., :b])
        core = _project_inputs(_project_outputs(self._kernels, output_axes), input_axes)
        return self._as_stored(input_axes, core, output_axes)

    def _as_stored(self, input_axes: FloatArray, core: FloatArray, output_axes: FloatArray) -> _Basis:
        dtype = self.layer.weight.dtype
        stored = np.ascontiguousarray(core.swapaxes(2, 3), dtype)
        return _Basis(input_axes.astype(dtype), stored, output_axes.astype(dtype))


def _path_down(inputs: int, outputs: int, tilt: float) -> list[tuple[int, int]]:
    """Pairs to aim at, ever smaller, with ``(b / outputs) / (a / inputs) = tilt``."""
    pairs: list[tuple[int, int]] = []
    share = STEP
    while True:
        a, b = round(inputs * share / max(tilt, 1.0)), round(outputs * share / max(1.0 / tilt, 1.0))
        if min(a, b) < LEAST:
            return pairs
        pairs.append((a, b))
        share *= STEP


class _FittedTucker(Decomposition):
    """Fit to the covariance of the input: input axes in the metric, then the exact optimum of all the rest.

    Given the first factor, the other two are a reduced-rank regression: least squares for their product, then its
    principal output directions. ``kernels [g, n, c, taps]``, ``covariance [g, d, d]``.
    """

    def __init__(self, layer: ConvLayer, kernels: FloatArray, covariance: FloatArray, moments: Moments) -> None:
        self.layer = layer
        self.kernels = kernels
        self.covariance = covariance
        self.moments = moments
        self._equations_rank = 0
        self._equations: NormalEquations | None = None

    @cached_property
    def _by_input(self) -> LowRank:
        """The kernel as ``[c, taps * n]`` in the metric of the input channels, averaged over taps."""
        groups, outputs, inputs, taps = self.kernels.shape
        blocks = self.covariance.reshape(groups, inputs, taps, inputs, taps)
        metric: FloatArray = np.diagonal(blocks, axis1=2, axis2=4).mean(axis=-1)
        return low_rank(self.kernels.transpose(0, 2, 3, 1).reshape(groups, inputs, taps * outputs), metric)

    def _equations_for(self, rank: int) -> NormalEquations:
        """Least squares for the rest of the chain, given ``rank`` maps of the first factor or more."""
        if self._equations is None or self._equations_rank < rank:
            response = self._features(self.covariance, rank)
            weight = self.kernels.reshape(*self.kernels.shape[:2], -1)
            gram = self._features(response.swapaxes(1, 2), rank)
            self._equations, self._equations_rank = NormalEquations(gram, response @ weight.swapaxes(1, 2)), rank
        return self._equations

    def _features(self, patches: FloatArray, rank: int) -> FloatArray:
        """What the first factor computes from ``[g, c * taps, t]``: ``[g, rank * taps, t]``."""
        left = self._by_input.left[..., :rank].astype(patches.dtype)
        groups, inputs, _ = left.shape
        maps = left.swapaxes(1, 2) @ patches.reshape(groups, inputs, -1)
        return maps.reshape(groups, rank * self.kernels.shape[3], -1)

    def at(self, rank: Rank) -> Factorization:
        Tucker().check_rank(self.layer, rank)
        assert isinstance(rank, tuple)
        groups, outputs, inputs, taps = self.kernels.shape
        low = self._by_input
        a = min(rank[0], low.left.shape[2])
        equations = self._equations_for(a)
        rows = low.right[:, :a].reshape(groups, a * taps, outputs).astype(self.kernels.dtype)
        if a < inputs:
            rows = equations.refine(rows)
        explained = rows.swapaxes(1, 2) @ equations.cross[:, : a * taps]
        axes = principal_axes(explained)[1][..., : rank[1]].astype(rows.dtype)
        core = (rows @ axes).swapaxes(1, 2).reshape(groups, rank[1], a, taps)
        padding = rank[0] - a  # more maps than the kernel has dimensions: the others carry nothing
        left = np.pad(low.left[..., :a], ((0, 0), (0, 0), (0, padding)))
        core = np.pad(core, ((0, 0), (0, 0), (0, padding), (0, 0)))
        return with_corrected_bias(self.layer, _factorization(self.layer, rank, left, core, axes), self.moments)


def _factorization(
    layer: ConvLayer, rank: tuple[int, int], input_axes: FloatArray, core: FloatArray, output_axes: FloatArray
) -> Factorization:
    """From ``[g, c, a]``, ``[g, b, a, taps]``, ``[g, n, b]``."""
    groups, (a, b), (inputs, outputs) = layer.attributes.groups, rank, _channels(layer)
    pointwise = ConvAttributes.pointwise(layer.axes, groups)
    ones, dtype = (1,) * layer.axes, layer.weight.dtype
    first = input_axes.swapaxes(1, 2).reshape(groups * a, inputs, *ones)
    last = output_axes.reshape(groups * outputs, b, *ones)
    factors = (
        Factor(first.astype(dtype, copy=False), pointwise),
        Factor(core.reshape(groups * b, a, *layer.kernel).astype(dtype, copy=False), layer.attributes),
        Factor(last.astype(dtype, copy=False), pointwise),
    )
    return Factorization("tucker", rank, factors, layer.bias)


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


def _output_axes(tensor: FloatArray) -> FloatArray:
    """Principal directions of the outputs of ``[g, n, taps, c]``: orthogonal ``[g, n, n]``, most energy first."""
    matrix = tensor.reshape(*tensor.shape[:2], -1)
    return principal_axes(matrix @ matrix.swapaxes(1, 2))[1]


def _input_axes(tensor: FloatArray) -> FloatArray:
    """Principal directions of the inputs of ``[g, n, taps, c]``: orthogonal ``[g, c, c]``, most energy first."""
    matrix = tensor.reshape(tensor.shape[0], -1, tensor.shape[3])
    return principal_axes(matrix.swapaxes(1, 2) @ matrix)[1]


def _project_outputs(tensor: FloatArray, axes: FloatArray) -> FloatArray:
    """``[g, n, taps, c]`` onto ``axes [g, n, b]``: ``[g, b, taps, c]``."""
    matrix = tensor.reshape(*tensor.shape[:2], -1)
    return (axes.swapaxes(1, 2) @ matrix).reshape(tensor.shape[0], axes.shape[2], *tensor.shape[2:])


def _project_inputs(tensor: FloatArray, axes: FloatArray) -> FloatArray:
    """``[g, n, taps, c]`` onto ``axes [g, c, a]``: ``[g, n, taps, a]``."""
    matrix = tensor.reshape(tensor.shape[0], -1, tensor.shape[3])
    return (matrix @ axes).reshape(*tensor.shape[:3], axes.shape[2])
