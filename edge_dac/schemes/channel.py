"""``channel``: the layer with fewer outputs, then 1x1 (Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", TPAMI 2016, arXiv 1505.06798).

For 1x1 convolutions and matrix products this is the plain low-rank product of two matrices.
"""

from __future__ import annotations

import math

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization, FactorShape, FloatArray, Rank, Reason
from edge_dac.schemes.low_rank import principal_axes
from edge_dac.schemes.matrix_scheme import MatrixScheme
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments

LARGE_WEIGHT = 2**24
"""Numbers from which on a weight is decomposed without a copy of it in float64."""


class Channel(MatrixScheme):
    """The full kernel to ``m`` maps a group, then 1x1: ``W^T [in * taps, out] ~ A B``."""

    name = "channel"

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        return None

    def full_rank(self, layer: ConvLayer) -> int:
        groups = layer.attributes.groups
        return min(layer.in_channels // groups * math.prod(layer.kernel), layer.out_channels // groups)

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        assert isinstance(rank, int)
        middle = layer.attributes.groups * rank
        pointwise = ConvAttributes.pointwise(layer.axes, layer.attributes.groups)
        return (
            FactorShape(middle, layer.in_channels, layer.kernel, layer.attributes),
            FactorShape(layer.out_channels, middle, (1,) * layer.axes, pointwise),
        )

    def matrices(self, kernels: FloatArray) -> FloatArray:
        return np.swapaxes(kernels.reshape(*kernels.shape[:2], -1), -1, -2)  # [g, c * taps, n]

    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        if moments is None and layer.attributes.groups == 1 and layer.weight.size >= LARGE_WEIGHT:
            return LargeDecomposition(layer)
        return super().decompose(layer, moments, shrinkage)

    def metric(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray:
        return covariance

    def factors(self, layer: ConvLayer, left: FloatArray, right: FloatArray) -> tuple[Factor, Factor]:
        groups, _, rank = left.shape
        spatial = np.swapaxes(left, -1, -2).reshape(groups * rank, -1, *layer.kernel)
        pointwise = np.swapaxes(right, -1, -2).reshape(layer.out_channels, rank, *(1,) * layer.axes)
        return (
            Factor(spatial, layer.attributes),
            Factor(pointwise, ConvAttributes.pointwise(layer.axes, groups)),
        )


class LargeDecomposition(Decomposition):
    """Of one large matrix ``W [n, d]`` by its weights alone, in little memory.

    The basis ``V`` is that of the Gram matrix of the smaller side, in the weight's own precision: ``W ~ V (V^T W)`` or
    ``(W V) V^T``, a projection in either case. The product is made for the largest rank that was asked for; smaller ones
    are views of it.
    """

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self._matrix = layer.weight.reshape(layer.out_channels, -1)
        outputs, inputs = self._matrix.shape
        self._by_outputs = outputs <= inputs
        gram = self._matrix @ self._matrix.T if self._by_outputs else self._matrix.T @ self._matrix
        self._energy, self._basis = principal_axes(gram)
        self._projected = self._matrix[:0]

    def at(self, rank: Rank) -> Factorization:
        channel = Channel()
        channel.check_rank(self.layer, rank)
        assert isinstance(rank, int)
        if len(self._projected) < rank:
            side = self._matrix if self._by_outputs else self._matrix.T
            self._projected = self._basis[:, :rank].T @ side
        basis, projected = self._basis[:, :rank], self._projected[:rank]
        first, second = (projected, basis) if self._by_outputs else (basis.T, projected.T)
        ones = (1,) * self.layer.axes
        factors = (
            Factor(first.reshape(rank, -1, *self.layer.kernel), self.layer.attributes),
            Factor(second.reshape(-1, rank, *ones), ConvAttributes.pointwise(self.layer.axes)),
        )
        return Factorization(channel.name, rank, factors, self.layer.bias)

    def weight_error(self, rank: Rank) -> float:
        Channel().check_rank(self.layer, rank)
        assert isinstance(rank, int)
        return float(self._energy[rank:].sum())
