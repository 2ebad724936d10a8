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
        return self._fitted(layer, moments, shrunk_covariance(moments, shrinkage))

    def _fitted(self, layer: ConvLayer, moments: Moments, covariance: FloatArray) -> Decomposition:
        return _FittedDecomposition(layer, self, self._in_metric(layer, covariance), moments)

    def _in_metric(self, layer: ConvLayer, covariance: FloatArray) -> LowRank:
        kernels = self.matrices(grouped_kernels(layer, covariance.dtype))
        low = low_rank(kernels, self.metric(covariance, layer), self.taps(covariance, layer))
        return low.astype(covariance.dtype)


class RefittedScheme(MatrixScheme):
    """A matrix scheme whose second factor is refitted by least squares to what the first one computes.

    The output is linear in the second factor, given the features that the first factor makes of a patch.
    """

    @abstractmethod
    def features(self, layer: ConvLayer, left: FloatArray, patches: FloatArray) -> FloatArray:
        """What the first factor computes from ``patches [g, d, t]``: ``[g, r * s, t]``, rank by rank."""

    @abstractmethod
    def rows(self, layer: ConvLayer, right: FloatArray) -> FloatArray:
        """``right [..., r, q]`` as coefficients of the features, ``[g, r * s, n]``."""

    @abstractmethod
    def from_rows(self, layer: ConvLayer, rows: FloatArray) -> FloatArray:
        """Inverse of :meth:`rows`."""

    def improved(
        self, layer: ConvLayer, left: FloatArray, right: FloatArray, covariance: FloatArray, response: FloatArray
    ) -> FloatArray | None:
        """A better ``left`` for the refitted ``right``, or None where that does not pay. ``response``: ``S W^T``."""
        return None

    def _fitted(self, layer: ConvLayer, moments: Moments, covariance: FloatArray) -> Decomposition:
        return _RefittedDecomposition(layer, self, self._in_metric(layer, covariance), moments, covariance)


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
    """A decomposition in the metric of the input, with the bias corrected."""

    def __init__(self, layer: ConvLayer, scheme: MatrixScheme, low: LowRank, moments: Moments) -> None:
        self.layer = layer
        self._low = low
        self._scheme = scheme
        self._moments = moments

    def at(self, rank: Rank) -> Factorization:
        scheme = self._scheme
        scheme.check_rank(self.layer, rank)
        assert isinstance(rank, int)
        left, right = self._low.left[..., :rank], self._low.right[..., :rank, :]
        if rank < scheme.full_rank(self.layer):
            left, right = self._refitted(left, right, rank)
        dtype = self.layer.weight.dtype
        factors = scheme.factors(self.layer, left.astype(dtype), right.astype(dtype))
        plain = Factorization(scheme.name, rank, factors, self.layer.bias)
        return with_corrected_bias(self.layer, plain, self._moments)

    def _refitted(self, left: FloatArray, right: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
        return left, right


class _RefittedDecomposition(_FittedDecomposition):
    """At each rank the second factor is refitted to the full covariance."""

    _scheme: RefittedScheme

    def __init__(
        self, layer: ConvLayer, scheme: RefittedScheme, low: LowRank, moments: Moments, covariance: FloatArray
    ) -> None:
        super().__init__(layer, scheme, low, moments)
        self._covariance = covariance
        self._equations_rank = 0
        self._equations: NormalEquations | None = None

    def _refitted(self, left: FloatArray, right: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
        layer, scheme = self.layer, self._scheme
        rows = self._equations_for(rank).refine(scheme.rows(layer, right))
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

    def _equations_for(self, rank: int) -> NormalEquations:
        """Equations of this rank or more, made once if the largest rank is asked for first."""
        if self._equations is None or self._equations_rank < rank:
            self._equations_rank = rank
            self._equations = self._make_equations(self._low.left[..., :rank])
        return self._equations

    def _make_equations(self, left: FloatArray) -> NormalEquations:
        features = partial(self._scheme.features, self.layer, left)
        gram = features(features(self._covariance).swapaxes(1, 2))
        return NormalEquations(gram, features(self._response))
