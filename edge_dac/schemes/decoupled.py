"""``decoupled``: pointwise, then depthwise; ``dac`` the other way round (Guo et al., "Network Decoupling: From Regular
to Depthwise Separable Convolutions", BMVC 2018).

The slice of every output channel ``o``, an ``in x taps`` matrix, is cut to rank ``r``: ``W[o] ~ A_o B_o``. The
pointwise factor computes ``r`` maps for every output, the second factor filters each by itself and adds them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FactorShape, FloatArray, Rank, Reason
from edge_dac.schemes.matrix_scheme import MatrixScheme
from edge_dac.schemes.metric import tap_metric
from edge_dac.schemes.scheme import lack_of_taps


class Decoupled(MatrixScheme):
    """1x1 to ``r`` maps an output, then one group an output. Map ``j`` of output ``o`` is channel ``o * r + j``."""

    name = "decoupled"
    every_rank = True

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        return lack_of_taps(layer)

    def full_rank(self, layer: ConvLayer) -> int:
        return min(math.prod(layer.kernel), layer.in_channels // layer.attributes.groups)

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        assert isinstance(rank, int)
        middle = layer.out_channels * rank
        pointwise = ConvAttributes.pointwise(layer.axes, layer.attributes.groups)
        return (
            FactorShape(middle, layer.in_channels, (1,) * layer.axes, pointwise),
            FactorShape(layer.out_channels, middle, layer.kernel, _per_output(layer)),
        )

    def matrices(self, kernels: FloatArray) -> FloatArray:
        return kernels.reshape(*kernels.shape[:3], -1)  # [g, n, c, taps]

    def metric(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray:
        groups, inputs = len(covariance), layer.in_channels // len(covariance)
        blocks = covariance.reshape(groups, inputs, -1, inputs, math.prod(layer.kernel))
        averaged: FloatArray = np.diagonal(blocks, axis1=2, axis2=4).mean(axis=-1)
        return averaged[:, None]  # [g, 1, c, c]

    def taps(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray:
        groups, inputs = len(covariance), layer.in_channels // len(covariance)
        taps = math.prod(layer.kernel)
        return tap_metric(covariance.reshape(groups, inputs, taps, inputs, taps))[:, None]  # [g, 1, taps, taps]

    def factors(self, layer: ConvLayer, left: FloatArray, right: FloatArray) -> tuple[Factor, Factor]:
        groups, outputs, inputs, rank = left.shape
        pointwise = np.swapaxes(left, -1, -2).reshape(groups * outputs * rank, inputs, *(1,) * layer.axes)
        filters = right.reshape(groups * outputs, rank, *layer.kernel)
        return (
            Factor(pointwise, ConvAttributes.pointwise(layer.axes, groups)),
            Factor(filters, _per_output(layer)),
        )


def _per_output(layer: ConvLayer) -> ConvAttributes:
    return replace(layer.attributes, groups=layer.out_channels)
