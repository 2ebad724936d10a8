from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_dac.convolution import ConvLayer
from edge_dac.schemes.channel import Channel, LargeDecomposition
from edge_dac.schemes.composition import compose


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


@pytest.mark.parametrize(("outputs", "inputs", "kernel"), [(12, 30, ()), (30, 12, ()), (8, 5, (3, 3))])
def test_large_weights_decompose_as_others_do(
    make_layer: Callable[..., ConvLayer], outputs: int, inputs: int, kernel: tuple[int, ...]
) -> None:
    layer = make_layer(outputs, inputs, kernel)
    plain, large = Channel().decompose(layer), LargeDecomposition(layer)
    for rank in (5, 3, 8):  # smaller ranks are views of what was made for larger ones, larger ones are made anew
        np.testing.assert_allclose(compose(large.at(rank)), compose(plain.at(rank)), atol=1e-10)
        assert large.weight_error(rank) == pytest.approx(plain.weight_error(rank), rel=1e-9)
        assert [factor.shape for factor in large.at(rank).factors] == list(Channel().shapes(layer, rank))
