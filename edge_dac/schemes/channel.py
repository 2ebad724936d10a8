"""``channel``: the layer with fewer outputs, then 1x1 (Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", TPAMI 2016, arXiv 1505.06798).

For 1x1 convolutions and matrix products this is the plain low-rank product of two matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FactorShape, FloatArray, Rank, Reason
from edge_dac.schemes.large_matrix import LargeDecomposition
from edge_dac.schemes.matrix_scheme import MatrixScheme
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments

LARGE_WEIGHT = 2**24
"""Numbers from which on a weight is decomposed without a copy of it in float64."""

LARGE_WEIGHT_SHARE = 0.53
"""Of the multiply-accumulates of a large weight, what planners are offered at most: beyond, little is gained for much time."""


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

    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        ranks = super().candidate_ranks(layer, fractions, multiple)
        if not _is_large(layer):
            return ranks
        most = _most_offered(layer)
        return [rank for rank in ranks if isinstance(rank, int) and rank <= most]

    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        if moments is None and _is_large(layer):
            return LargeDecomposition(layer, self, _most_offered(layer))
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


def _is_large(layer: ConvLayer) -> bool:
    return layer.attributes.groups == 1 and layer.weight.size >= LARGE_WEIGHT


def _most_offered(layer: ConvLayer) -> int:
    """The largest rank of a large weight that planners are offered."""
    return max(int(LARGE_WEIGHT_SHARE * layer.macs / Channel().macs(layer, 1)), 1)
