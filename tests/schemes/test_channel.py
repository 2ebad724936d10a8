from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_dac.convolution import ConvAttributes, ConvLayer
from edge_dac.schemes.channel import Channel
from edge_dac.schemes.large_matrix import LargeDecomposition


@pytest.mark.parametrize("kernel", [(), (1,), (1, 1)])
def test_a_pointwise_layer_becomes_two_matrices(make_layer: Callable[..., ConvLayer], kernel: tuple[int, ...]) -> None:
    layer = make_layer(10, 6, kernel)
    first, second = Channel().factorize(layer, 2).factors
    assert first.weight.shape == (2, 6, *kernel)
    assert second.weight.shape == (10, 2, *kernel)
    left, values, right = np.linalg.svd(layer.weight.reshape(10, 6))
    best = (left[:, :2] * values[:2]) @ right[:2]
    np.testing.assert_allclose(second.weight.reshape(10, 2) @ first.weight.reshape(2, 6), best, atol=1e-12)


def test_macs_follow_the_formula(make_layer: Callable[..., ConvLayer]) -> None:
    assert Channel().macs(make_layer(64, 32, (3, 3)), 5) == 5 * (32 * 9 + 64) * 12 * 12


def test_candidates_are_near_the_fractions_and_blocked(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(64, 64, (3, 3))
    assert Channel().candidate_ranks(layer, (0.25, 0.5)) == [16, 32]
    assert Channel().candidate_ranks(layer, (0.05,)) == [3]


def test_of_a_large_weight_planners_see_the_lower_half() -> None:
    attributes = ConvAttributes((), (), ())
    layer = ConvLayer("wide", np.zeros((4096, 4096), np.float32), None, attributes, ())
    assert Channel().candidate_ranks(layer, (0.25, 0.52, 0.78)) == [512, 1064]
    assert isinstance(Channel().decompose(layer), LargeDecomposition)
