"""``channel``: the layer with fewer outputs, then 1x1 (Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", TPAMI 2016, arXiv 1505.06798).

For 1x1 convolutions and matrix products this is the plain low-rank product of two matrices.
"""

from __future__ import annotations

import math

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FactorShape, FloatArray, Rank, Reason
from edge_dac.schemes.matrix_scheme import MatrixScheme


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
