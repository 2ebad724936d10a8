"""Seeded layers and a slow, plain convolution to compare with."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FloatArray

MakeLayer = Callable[..., ConvLayer]


@pytest.fixture(scope="session")
def make_layer() -> MakeLayer:
    """A float64 layer with seeded weights: ``make_layer(out, in, kernel, groups=1, seed=0)``."""

    def make(out_channels: int, in_channels: int, kernel: tuple[int, ...], groups: int = 1, seed: int = 0) -> ConvLayer:
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((out_channels, in_channels // groups, *kernel))
        axes = len(kernel)
        attributes = ConvAttributes((1,) * axes, tuple(extent // 2 for extent in kernel) * 2, (1,) * axes, groups)
        return ConvLayer("layer", weight, rng.standard_normal(out_channels), attributes, (12,) * axes)

    return make


@pytest.fixture(scope="session")
def convolve() -> Callable[[FloatArray, Factor], FloatArray]:
    """``[channels, *size]`` through one convolution, by the definition: a loop over output positions and groups."""

    def apply(image: FloatArray, factor: Factor) -> FloatArray:
        attributes, kernel = factor.attributes, factor.weight.shape[2:]
        axes, groups = len(kernel), attributes.groups
        sizes = attributes.output_size(kernel, image.shape[1:])
        begins, ends = attributes.pads[:axes], attributes.pads[axes:]
        if attributes.auto_pad != "NOTSET":
            reach = [dilation * (extent - 1) + 1 for dilation, extent in zip(attributes.dilations, kernel, strict=True)]
            needed = [
                max((size - 1) * stride + span - length, 0)
                for size, stride, span, length in zip(sizes, attributes.strides, reach, image.shape[1:], strict=True)
            ]
            odd = 1 if attributes.auto_pad == "SAME_LOWER" else 0
            begins = tuple((total + odd) // 2 for total in needed)
            ends = tuple(total - begin for total, begin in zip(needed, begins, strict=True))
        padded = np.pad(image, [(0, 0), *zip(begins, ends, strict=True)])
        weight = factor.weight.reshape(groups, -1, *factor.weight.shape[1:])
        result = np.empty((factor.weight.shape[0], *sizes))
        for position in itertools.product(*map(range, sizes)):
            window = tuple(
                slice(index * stride, index * stride + dilation * (extent - 1) + 1, dilation)
                for index, stride, dilation, extent in zip(
                    position, attributes.strides, attributes.dilations, kernel, strict=True
                )
            )
            patch = padded[(slice(None), *window)].reshape(groups, -1)
            result[(slice(None), *position)] = np.einsum(
                "gop,gp->go", weight.reshape(*weight.shape[:2], -1), patch
            ).ravel()
        return result

    return apply
