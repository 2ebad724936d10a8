"""Schemes that read a kernel as matrices and truncate their rank: all but ``dense`` and ``tucker``."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from edge_dac.convolution import ConvLayer, Factor, Factorization, FloatArray, Rank
from edge_dac.schemes.error import with_corrected_bias
from edge_dac.schemes.least_squares import NormalEquations
from edge_dac.schemes.low_rank import LowRank, low_rank
from edge_dac.schemes.metric import check_moments, grouped_kernels, shrunk_covariance
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments, Scheme


class MatrixScheme(Scheme):
    """A kernel as a stack of matrices ``M ~ A B`` whose factors are the weights of two convolutions.

    A subclass says how the grouped kernel ``[g, n, c, *kernel]`` (``n`` outputs and ``c`` inputs a group) becomes
    matrices, and how their factors become convolutions.
    """

    every_rank: bool = False
    """Whether there are so few ranks that a planner should see all."""

    refits: bool = False
    """Whether the second factor is refitted by least squares: ``features``, ``rows`` and ``from_rows`` are defined."""

    @abstractmethod
    def full_rank(self, layer: ConvLayer) -> int:
        """Smallest rank that reproduces every kernel of the layer's shape."""

    @abstractmethod
    def matrices(self, kernels: FloatArray) -> FloatArray:
        """``[g, n, c, *kernel]`` as matrices ``[..., p, q]``."""

    @abstractmethod
    def factors(self, layer: ConvLayer, left: FloatArray, right: FloatArray) -> tuple[Factor, Factor]:
        """The convolutions of ``left [..., p, r]`` and ``right [..., r, q]``."""

    @abstractmethod
    def metric(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray:
        """Metric ``[..., p, p]`` of the matrices' rows: ``covariance [g, d, d]``, averaged over what ``q`` holds."""

    def taps(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray | None:
        """Metric ``[g, s, s]`` of the taps in the matrices' columns (their last ``s`` entries), where they hold any."""
        return None

    def features(self, layer: ConvLayer, left: FloatArray, patches: FloatArray) -> FloatArray:
        """What the first factor computes from ``patches [g, d, t]``: ``[g, r * s, t]``, rank by rank."""
        raise NotImplementedError

    def rows(self, layer: ConvLayer, right: FloatArray) -> FloatArray:
        """``right [..., r, q]`` as coefficients of the features, ``[g, r * s, n]``."""
        raise NotImplementedError

    def from_rows(self, layer: ConvLayer, rows: FloatArray) -> FloatArray:
        """Inverse of :meth:`rows`."""
        raise NotImplementedError

    def improved(
        self, layer: ConvLayer, left: FloatArray, right: FloatArray, covariance: FloatArray, response: FloatArray
    ) -> FloatArray | None:
        """A better ``left`` for the refitted ``right``, or None where that does not pay. ``response``: ``S W^T``."""
        return None

    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        return range(1, self.full_rank(layer) + 1)

    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        below = self.ranks_below_dense(layer)
        if self.every_rank:
            return list(range(1, below + 1))
        nearest = {self._rank_near(layer, fraction * layer.macs, multiple) for fraction in fractions}
        return [rank for rank in sorted(nearest) if rank <= below]

    def ranks_below_dense(self, layer: ConvLayer) -> int:
        """Largest rank with fewer multiply-accumulates than the dense layer; 0 if none. They grow with the rank."""
        full = self.full_rank(layer)
        return bisect_right(range(1, full + 1), layer.macs - 1, key=lambda rank: self.macs(layer, rank))

    def _rank_near(self, layer: ConvLayer, macs: float, multiple: int) -> int:
        exact = macs / self.macs(layer, 1)  # multiply-accumulates are proportional to the rank
        rounded = max(round(exact / multiple) * multiple, 1) if exact >= multiple else max(round(exact), 1)
        return min(rounded, self.full_rank(layer))

    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        if moments is None:
            low = low_rank(self.matrices(grouped_kernels(layer, np.float64)))
            return _MatrixDecomposition(layer, self, low.astype(layer.weight.dtype))
        check_moments(layer, moments)
        covariance = shrunk_covariance(moments, shrinkage)
        kernels = grouped_kernels(layer, covariance.dtype)
        low = low_rank(self.matrices(kernels), self.metric(covariance, layer), self.taps(covariance, layer))
        return _FittedDecomposition(layer, self, low.astype(covariance.dtype), covariance, moments)


@dataclass(frozen=True, eq=False)
class _MatrixDecomposition(Decomposition):
    """Slices of one truncated decomposition of the weights."""

    layer: ConvLayer
    scheme: MatrixScheme
    low: LowRank

    def at(self, rank: Rank) -> Factorization:
        self.scheme.check_rank(self.layer, rank)
        assert isinstance(rank, int)
        factors = self.scheme.factors(self.layer, self.low.left[..., :rank], self.low.right[..., :rank, :])
        return Factorization(self.scheme.name, rank, factors, self.layer.bias)

    def weight_error(self, rank: Rank) -> float:
        self.scheme.check_rank(self.layer, rank)
        assert isinstance(rank, int)
        return self.low.tail(rank)


class _FittedDecomposition(Decomposition):
    """A decomposition in the metric of the input; the second factor is refitted to the full covariance at each rank."""

    def __init__(
        self, layer: ConvLayer, scheme: MatrixScheme, low: LowRank, covariance: FloatArray, moments: Moments
    ) -> None:
        self.layer = layer
        self._scheme = scheme
        self._low = low
        self._covariance = covariance
        self._moments = moments
        self._equations_rank = 0
        self._equations: NormalEquations | None = None

    def at(self, rank: Rank) -> Factorization:
        self._scheme.check_rank(self.layer, rank)
        assert isinstance(rank, int)
        left, right = self._low.left[..., :rank], self._low.right[..., :rank, :]
        if rank < self._scheme.full_rank(self.layer):
            left, right = self._refitted(left, right, rank)
        dtype = self.layer.weight.dtype
        factors = self._scheme.factors(self.layer, left.astype(dtype), right.astype(dtype))
        plain = Factorization(self._scheme.name, rank, factors, self.layer.bias)
        return with_corrected_bias(self.layer, plain, self._moments)

    def _refitted(self, left: FloatArray, right: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
        layer, scheme = self.layer, self._scheme
        equations = self._equations_for(rank)
        if equations is None:
            return left, right
        rows = equations.refine(scheme.rows(layer, right))
        improved = scheme.improved(layer, left, scheme.from_rows(layer, rows), self._covariance, self._response)
        if improved is not None:
            left, rows = improved, self._make_equations(improved).refine(rows)
        return left, scheme.from_rows(layer, rows)

    @cached_property
    def _response(self) -> FloatArray:
        """``S W^T``, ``[g, d, n]``."""
        weight = grouped_kernels(self.layer, self._covariance.dtype)
        weight = weight.reshape(*weight.shape[:2], -1)
        return self._covariance @ weight.swapaxes(1, 2)

    def _equations_for(self, rank: int) -> NormalEquations | None:
        """Equations of this rank or more, made once if the largest rank is asked for first; None for no features."""
        if not self._scheme.refits:
            return None
        if self._equations is None or self._equations_rank < rank:
            self._equations_rank = rank
            self._equations = self._make_equations(self._low.left[..., :rank])
        return self._equations

    def _make_equations(self, left: FloatArray) -> NormalEquations:
        features = partial(self._scheme.features, self.layer, left)
        gram = features(features(self._covariance).swapaxes(1, 2))
        return NormalEquations(gram, features(self._response))
