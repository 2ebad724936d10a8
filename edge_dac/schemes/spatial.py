"""``spatial_vh`` and ``spatial_hv``: a column kernel and a row kernel (Jaderberg et al., "Speeding up Convolutional
Neural Networks with Low Rank Expansions", BMVC 2014; joint over channels as in Tai et al., arXiv 1511.06067, 2016).

The two orders are schemes of their own, because they differ in error and in latency.
"""

from __future__ import annotations

import numpy as np

from edge_dac.convolution import ConvLayer, Factor, FactorShape, FloatArray, Rank, Reason
from edge_dac.schemes.matrix_scheme import RefittedScheme
from edge_dac.schemes.metric import tap_metric


class Spatial(RefittedScheme):
    """One kernel axis to ``m`` maps a group, then the other: ``[in * k1, out * k2] ~ A B``.

    Stride, padding and dilation of an axis go with its kernel.

    Args:
        name: name of the scheme.
        first_axis: 0 for vertical first (``kh x 1``, then ``1 x kw``), 1 for horizontal first.
    """

    def __init__(self, name: str, first_axis: int) -> None:
        self.name = name
        self._first = first_axis
        self._second = 1 - first_axis

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        if layer.axes != 2:
            return Reason.UNSUPPORTED_DIMENSIONS, f"expected 2 kernel axes, found {layer.axes}"
        if min(layer.kernel) == 1:
            return Reason.KERNEL_SHAPE, f"expected both kernel axes longer than 1, found {layer.kernel}"
        return None

    def full_rank(self, layer: ConvLayer) -> int:
        groups = layer.attributes.groups
        return min(
            layer.in_channels // groups * layer.kernel[self._first],
            layer.out_channels // groups * layer.kernel[self._second],
        )

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        assert isinstance(rank, int)
        middle = layer.attributes.groups * rank
        first, second = self._kernel_part(layer, self._first), self._kernel_part(layer, self._second)
        return (
            FactorShape(middle, layer.in_channels, first, layer.attributes.on_axis(self._first)),
            FactorShape(layer.out_channels, middle, second, layer.attributes.on_axis(self._second)),
        )

    def matrices(self, kernels: FloatArray) -> FloatArray:
        groups, outputs, inputs = kernels.shape[:3]
        first, second = kernels.shape[3 + self._first], kernels.shape[3 + self._second]
        ordered = kernels.transpose(0, 2, 3 + self._first, 1, 3 + self._second)  # [g, c, k1, n, k2]
        return ordered.reshape(groups, inputs * first, outputs * second)

    def metric(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray:
        groups, inputs = len(covariance), layer.in_channels // len(covariance)
        size = inputs * layer.kernel[self._first]
        blocks = covariance.reshape(groups, inputs, *layer.kernel, inputs, *layer.kernel)
        averaged: FloatArray = np.diagonal(blocks, axis1=2 + self._second, axis2=5 + self._second).mean(axis=-1)
        return averaged.reshape(groups, size, size)

    def taps(self, covariance: FloatArray, layer: ConvLayer) -> FloatArray:
        groups, inputs, extent = len(covariance), layer.in_channels // len(covariance), layer.kernel[self._second]
        blocks = covariance.reshape(groups, inputs, *layer.kernel, inputs, *layer.kernel)
        if self._second == 0:
            blocks = blocks.transpose(0, 1, 3, 2, 4, 6, 5)
        rows = inputs * layer.kernel[self._first]
        return tap_metric(blocks.reshape(groups, rows, extent, rows, extent))

    def features(self, layer: ConvLayer, left: FloatArray, patches: FloatArray) -> FloatArray:
        groups, size, rank = left.shape
        by_axis = patches.reshape(groups, layer.in_channels // groups, *layer.kernel, -1)
        if self._first == 1:
            by_axis = by_axis.swapaxes(2, 3)
        maps = np.swapaxes(left, -1, -2) @ by_axis.reshape(groups, size, -1)  # [g, r, k2 * t]
        return maps.reshape(groups, rank * layer.kernel[self._second], -1)

    def rows(self, layer: ConvLayer, right: FloatArray) -> FloatArray:
        groups, rank, _ = right.shape
        outputs, extent = layer.out_channels // groups, layer.kernel[self._second]
        return right.reshape(groups, rank, outputs, extent).swapaxes(2, 3).reshape(groups, rank * extent, outputs)

    def from_rows(self, layer: ConvLayer, rows: FloatArray) -> FloatArray:
        groups, _, outputs = rows.shape
        extent = layer.kernel[self._second]
        return rows.reshape(groups, -1, extent, outputs).swapaxes(2, 3).reshape(groups, -1, outputs * extent)

    def factors(self, layer: ConvLayer, left: FloatArray, right: FloatArray) -> tuple[Factor, Factor]:
        groups, _, rank = left.shape
        inputs, outputs = layer.in_channels // groups, layer.out_channels // groups
        first, second = self._kernel_part(layer, self._first), self._kernel_part(layer, self._second)
        inner = np.swapaxes(left, -1, -2).reshape(groups * rank, inputs, *first)
        by_output = right.reshape(groups, rank, outputs, layer.kernel[self._second]).swapaxes(1, 2)
        outer = by_output.reshape(groups * outputs, rank, *second)
        return (
            Factor(inner, layer.attributes.on_axis(self._first)),
            Factor(outer, layer.attributes.on_axis(self._second)),
        )

    @staticmethod
    def _kernel_part(layer: ConvLayer, axis: int) -> tuple[int, int]:
        extent = layer.kernel[axis]
        return (extent, 1) if axis == 0 else (1, extent)
