from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_dac.convolution import ConvLayer
from edge_dac.schemes.decoupled import Decoupled


def test_maps_of_one_output_are_neighbours_in_both_factors(make_layer: Callable[..., ConvLayer]) -> None:
    """Golden channel order: map ``j`` of output ``o`` leaves the pointwise factor as channel ``o * r + j``."""
    layer = make_layer(2, 3, (1, 2))
    layer.weight[0, :, 0] = np.outer([3.0, 0.0, 4.0], [1.0, 0.0]) + np.outer([0.0, 2.0, 0.0], [0.0, 1.0])
    layer.weight[1, :, 0] = np.outer([0.0, 1.0, 0.0], [0.6, 0.8])
    pointwise, filters = Decoupled().factorize(layer, 2).factors
    assert (pointwise.weight.shape, pointwise.attributes.groups) == ((4, 3, 1, 1), 1)
    assert (filters.weight.shape, filters.attributes.groups) == ((2, 2, 1, 2), 2)
    for output in range(2):
        maps = pointwise.weight[2 * output : 2 * output + 2, :, 0, 0]
        np.testing.assert_allclose(maps.T @ filters.weight[output, :, 0], layer.weight[output, :, 0], atol=1e-12)
    np.testing.assert_allclose(filters.weight[1, 0, 0], [0.6, 0.8], atol=1e-12)


def test_macs_follow_the_formula(make_layer: Callable[..., ConvLayer]) -> None:
    assert Decoupled().macs(make_layer(32, 64, (3, 3)), 3) == 3 * 32 * (9 + 64) * 12 * 12
