"""``dac``: depthwise, then pointwise (Li et al., "DAC: Data-free Automatic Acceleration of Convolutional Networks",
WACV 2019, arXiv 1812.08374).

The slice of every input channel ``i``, a ``taps x out`` matrix, is cut to rank ``r``: ``W[:, i]^T ~ D_i P_i``. The
depthwise factor computes ``r`` maps of every channel, the pointwise factor mixes them all.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FactorShape, FloatArray, Rank, Reason
from edge_dac.schemes.alternating import better_filters
from edge_dac.schemes.matrix_scheme import RefittedScheme
from edge_dac.schemes.scheme import lack_of_taps

WORTH_ALTERNATING = 2048
"""Most maps of a group for which the filters are improved after the mixers; beyond, it takes more than a second."""


class Dac(RefittedScheme):
    """Depthwise with channel multiplier ``r``, then 1x1.

    Channels between the two are channel-major, as ONNX orders the outputs of a grouped convolution: map ``j`` of input
    channel ``i`` is channel ``i * r + j``.
    """

    name = "dac"
    every_rank = True

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        return lack_of_taps(layer)

    def full_rank(self, layer: ConvLayer) -> int:
        return min(math.prod(layer.kernel), layer.out_channels // layer.attributes.groups)

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        assert isinstance(rank, int)
        middle = layer.in_channels * rank
        pointwise = ConvAttributes.pointwise(layer.axes, layer.attributes.groups)
        return (
            FactorShape(middle, layer.in_channels, layer.kernel, _depthwise(layer)),
            FactorShape(layer.out_channels, middle, (1,) * layer.axes, pointwise),
        )

    def matrices(self, kernels: FloatArray) -> FloatArray:
        groups, outputs, inputs = kernels.shape[:3]
        return kernels.reshape(groups, outputs, inputs, -1).transpose(0, 2, 3, 1)  # [g, c, taps, n]

    def metric(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray:
        groups, inputs = len(covariance), layer.in_channels // len(covariance)
        blocks = covariance.reshape(groups, inputs, -1, inputs, math.prod(layer.kernel))
        return np.diagonal(blocks, axis1=1, axis2=3).transpose(0, 3, 1, 2)  # [g, c, taps, taps]

    def features(self, layer: ConvLayer, left: FloatArray, patches: FloatArray) -> FloatArray:
        groups, inputs, taps, rank = left.shape
        maps = np.swapaxes(left, -1, -2) @ patches.reshape(groups, inputs, taps, -1)  # [g, c, r, t]
        return maps.swapaxes(1, 2).reshape(groups, rank * inputs, -1)

    def rows(self, layer: ConvLayer, right: FloatArray) -> FloatArray:
        groups, inputs, rank, outputs = right.shape
        return right.swapaxes(1, 2).reshape(groups, rank * inputs, outputs)

    def from_rows(self, layer: ConvLayer, rows: FloatArray) -> FloatArray:
        groups, _, outputs = rows.shape
        return rows.reshape(groups, -1, layer.in_channels // groups, outputs).swapaxes(1, 2)

    def improved(
        self, layer: ConvLayer, left: FloatArray, right: FloatArray, covariance: FloatArray, response: FloatArray
    ) -> FloatArray | None:
        groups, inputs, taps, rank = left.shape
        if inputs * rank > WORTH_ALTERNATING:
            return None
        by_channel = response.reshape(groups, inputs, taps, -1)
        return np.stack([better_filters(*group) for group in zip(left, right, covariance, by_channel, strict=True)])

    def factors(self, layer: ConvLayer, left: FloatArray, right: FloatArray) -> tuple[Factor, Factor]:
        ones = (1,) * layer.axes
        depthwise = np.swapaxes(left, -1, -2).reshape(-1, 1, *layer.kernel)
        groups, inputs, rank, outputs = right.shape
        pointwise = right.transpose(0, 3, 1, 2).reshape(groups * outputs, inputs * rank, *ones)
        return (
            Factor(depthwise, _depthwise(layer)),
            Factor(pointwise, ConvAttributes.pointwise(layer.axes, groups)),
        )


def _depthwise(layer: ConvLayer) -> ConvAttributes:
    return replace(layer.attributes, groups=layer.in_channels)
