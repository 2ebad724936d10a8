"""Schemes that read a kernel as matrices and truncate their rank: all but ``dense`` and ``tucker``."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_dac.convolution import ConvLayer, Factor, Factorization, FloatArray, Rank
from edge_dac.errors import UsageError
from edge_dac.schemes.low_rank import LowRank, low_rank
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

    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        return range(1, self.full_rank(layer) + 1)

    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        below = self._ranks_below_dense(layer)
        if self.every_rank:
            return list(range(1, below + 1))
        nearest = {self._rank_near(layer, fraction * layer.macs, multiple) for fraction in fractions}
        return [rank for rank in sorted(nearest) if rank <= below]

    def _ranks_below_dense(self, layer: ConvLayer) -> int:
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
        if moments is not None:
            raise UsageError(f"{self.name}: no fit to moments yet")
        groups = layer.attributes.groups
        kernels = layer.weight.reshape(groups, layer.out_channels // groups, *layer.weight.shape[1:])
        low = low_rank(self.matrices(kernels.astype(np.float64)))
        dtype = layer.weight.dtype
        return _MatrixDecomposition(layer, self, LowRank(low.left.astype(dtype), low.right.astype(dtype), low.energy))


@dataclass(frozen=True, eq=False)
class _MatrixDecomposition(Decomposition):
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
