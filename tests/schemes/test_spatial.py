from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge_dac.convolution import ConvLayer, Reason
from edge_dac.schemes import SCHEMES


@pytest.mark.parametrize(("name", "kernels"), [("spatial_vh", [(3, 1), (1, 5)]), ("spatial_hv", [(1, 5), (3, 1)])])
def test_the_order_of_the_axes_is_the_name(
    make_layer: Callable[..., ConvLayer], name: str, kernels: list[tuple[int, int]]
) -> None:
    layer = make_layer(8, 4, (3, 5))
    attributes = replace(layer.attributes, strides=(2, 3), pads=(1, 2, 0, 4), dilations=(1, 2))
    factors = SCHEMES[name].factorize(replace(layer, attributes=attributes), 3).factors
    assert [factor.weight.shape[2:] for factor in factors] == kernels
    vertical, horizontal = sorted(factors, key=lambda factor: factor.weight.shape[3])
    assert (vertical.attributes.strides, horizontal.attributes.strides) == ((2, 1), (1, 3))
    assert (vertical.attributes.pads, horizontal.attributes.pads) == ((1, 0, 0, 0), (0, 2, 0, 4))
    assert (vertical.attributes.dilations, horizontal.attributes.dilations) == ((1, 1), (1, 2))


def test_a_separable_kernel_needs_rank_one(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(1, 1, (3, 3))
    layer.weight[0, 0] = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])
    vertical, horizontal = SCHEMES["spatial_vh"].factorize(layer, 1).factors
    np.testing.assert_allclose(np.outer(vertical.weight, horizontal.weight), layer.weight[0, 0], atol=1e-12)


def test_macs_follow_the_formula(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(64, 32, (3, 3))
    assert SCHEMES["spatial_vh"].macs(layer, 7) == 7 * (32 * 3 + 64 * 3) * 12 * 12


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [((3,), Reason.UNSUPPORTED_DIMENSIONS), ((1, 7), Reason.KERNEL_SHAPE), ((), Reason.UNSUPPORTED_DIMENSIONS)],
)
def test_only_kernels_with_two_long_axes(
    make_layer: Callable[..., ConvLayer], kernel: tuple[int, ...], reason: Reason
) -> None:
    refusal = SCHEMES["spatial_hv"].refuse(make_layer(8, 8, kernel))
    assert refusal is not None
    assert refusal.reason is reason
