from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_dac.convolution import ConvLayer, Reason
from edge_dac.schemes.dac import Dac


def test_maps_of_one_input_channel_are_neighbours_in_both_factors(make_layer: Callable[..., ConvLayer]) -> None:
    """Golden channel order: ONNX numbers grouped outputs channel-major, and the pointwise factor must follow it."""
    layer = make_layer(5, 2, (1, 2))
    first_channel = np.outer([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 0.0]) + np.outer([2.0, -1.0, 0.0, 0.0, 0.0], [0.0, 1.0])
    layer.weight[:, 0, 0] = first_channel
    layer.weight[:, 1, 0] = np.outer([0.0, 0.0, 7.0, 0.0, 0.0], [3.0, 4.0])
    depthwise, pointwise = Dac().factorize(layer, 2).factors
    assert depthwise.weight.shape == (4, 1, 1, 2)
    assert depthwise.attributes.groups == 2
    # Maps 0 and 1 read input channel 0, maps 2 and 3 channel 1, whose second map carries nothing.
    np.testing.assert_allclose(pointwise.weight[:, :2, 0, 0] @ depthwise.weight[:2, 0, 0], first_channel, atol=1e-12)
    np.testing.assert_allclose(depthwise.weight[2, 0, 0], [0.6, 0.8], atol=1e-12)
    np.testing.assert_allclose(pointwise.weight[:, 2, 0, 0], [0, 0, 35, 0, 0], atol=1e-12)
    np.testing.assert_allclose(pointwise.weight[:, 3, 0, 0], 0, atol=1e-12)


def test_groups_are_factorized_one_by_one(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(8, 6, (3, 3), groups=2)
    depthwise, pointwise = Dac().factorize(layer, 2).factors
    assert (depthwise.weight.shape, depthwise.attributes.groups) == ((12, 1, 3, 3), 6)
    assert (pointwise.weight.shape, pointwise.attributes.groups) == ((8, 6, 1, 1), 2)


def test_macs_follow_the_formula(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(64, 32, (3, 3))
    assert Dac().macs(layer, 3) == 3 * 32 * (9 + 64) * 12 * 12


def test_pointwise_layers_are_refused(make_layer: Callable[..., ConvLayer]) -> None:
    for kernel in ((1, 1), (1,), ()):
        refusal = Dac().refuse(make_layer(8, 8, kernel))
        assert refusal is not None
        assert refusal.reason is Reason.KERNEL_SHAPE
