"""The low-rank product of one large matrix by its weights alone, in little time and memory."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization, FloatArray, Rank
from edge_dac.schemes.leading_axes import leading_axes
from edge_dac.schemes.low_rank import principal_axes
from edge_dac.schemes.scheme import Decomposition, Scheme

Axes = tuple[FloatArray, FloatArray]


class LargeDecomposition(Decomposition):
    """``W [n, d] ~ V (V^T W)`` or ``(W V) V^T``, a projection in either case, in the weight's own precision.

    ``V`` comes from the Gram matrix of the smaller side. Up to rank ``most_wanted`` it holds the leading directions only,
    nearly those of the truncated SVD; beyond, all of them. The product is made for the largest rank that was asked for;
    smaller ones are views of it.

    Args:
        layer: without groups.
        scheme: that asks; names the result and checks ranks.
        most_wanted: rank up to which the leading directions are enough.
    """

    def __init__(self, layer: ConvLayer, scheme: Scheme, most_wanted: int) -> None:
        self.layer = layer
        self._scheme = scheme
        self._most_wanted = most_wanted
        matrix = layer.weight.reshape(layer.out_channels, -1)
        self._by_outputs = matrix.shape[0] <= matrix.shape[1]
        self._side = matrix if self._by_outputs else matrix.T
        self._projected: dict[bool, FloatArray] = {}

    def at(self, rank: Rank) -> Factorization:
        rank = self._checked(rank)
        basis = self._axes(rank)[1][:, :rank]
        projected = self._project(rank)
        first, second = (projected, basis) if self._by_outputs else (basis.T, projected.T)
        ones = (1,) * self.layer.axes
        factors = (
            Factor(first.reshape(rank, -1, *self.layer.kernel), self.layer.attributes),
            Factor(second.reshape(-1, rank, *ones), ConvAttributes.pointwise(self.layer.axes)),
        )
        return Factorization(self._scheme.name, rank, factors, self.layer.bias)

    def weight_error(self, rank: Rank) -> float:
        """From the trace and what the directions hold of it: no product is made."""
        rank = self._checked(rank)
        energy = self._axes(rank)[0]
        if len(energy) == len(self._side):
            return float(energy[rank:].sum())
        return max(self._trace - float(energy[:rank].sum(dtype=np.float64)), 0.0)

    def _checked(self, rank: Rank) -> int:
        self._scheme.check_rank(self.layer, rank)
        assert isinstance(rank, int)
        return rank

    def _axes(self, rank: int) -> Axes:
        return self._leading if rank <= self._most_wanted else self._all

    def _project(self, rank: int) -> FloatArray:
        is_leading = rank <= self._most_wanted
        if is_leading not in self._projected or len(self._projected[is_leading]) < rank:
            self._projected.pop(is_leading, None)  # gone before the larger one is made
            self._projected[is_leading] = self._axes(rank)[1][:, :rank].T @ self._side
        return self._projected[is_leading][:rank]

    @cached_property
    def _leading(self) -> Axes:
        if self._most_wanted * 2 >= len(self._side):  # then all of them take hardly longer
            return self._all
        return leading_axes(self._gram(), self._most_wanted)

    @cached_property
    def _all(self) -> Axes:
        return principal_axes(self._gram())

    def _gram(self) -> FloatArray:
        return self._side @ self._side.T

    @cached_property
    def _trace(self) -> float:
        """Row by row: squares in float64 would take twice the memory of the weight."""
        return sum(float(np.vdot(row, row)) for row in self._side)
