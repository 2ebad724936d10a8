from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from edge_dac.convolution import ConvLayer
from edge_dac.schemes.channel import Channel
from edge_dac.schemes.composition import compose
from edge_dac.schemes.large_matrix import LargeDecomposition

SHAPES = pytest.mark.parametrize(("outputs", "inputs", "kernel"), [(12, 30, ()), (30, 12, ()), (12, 5, (3, 3))])


@SHAPES
def test_with_all_directions_it_is_the_truncated_svd(
    make_layer: Callable[..., ConvLayer], outputs: int, inputs: int, kernel: tuple[int, ...]
) -> None:
    layer = make_layer(outputs, inputs, kernel)
    plain, large = Channel().decompose(layer), LargeDecomposition(layer, Channel(), most_wanted=0)
    for rank in (5, 3, 8):  # smaller ranks are views of what was made for larger ones, larger ones are made anew
        np.testing.assert_allclose(compose(large.at(rank)), compose(plain.at(rank)), atol=1e-10)
        assert large.weight_error(rank) == pytest.approx(plain.weight_error(rank), rel=1e-9)
        assert [factor.shape for factor in large.at(rank).factors] == list(Channel().shapes(layer, rank))


@SHAPES
def test_leading_directions_come_near_it_and_say_what_they_lose(
    make_layer: Callable[..., ConvLayer], outputs: int, inputs: int, kernel: tuple[int, ...]
) -> None:
    layer = make_layer(outputs, inputs, kernel)
    plain, large = Channel().decompose(layer), LargeDecomposition(layer, Channel(), most_wanted=3)
    errors = [large.weight_error(rank) for rank in range(1, 13)]
    for rank in (2, 3, 1):
        lost = float(np.square(layer.weight - compose(large.at(rank))).sum())
        assert errors[rank - 1] == pytest.approx(lost, rel=1e-6)
        assert plain.weight_error(rank) <= lost * (1 + 1e-9)
        assert lost <= 1.1 * plain.weight_error(rank)
    assert all(after <= before for before, after in itertools.pairwise(errors))
    np.testing.assert_allclose(compose(large.at(12)), layer.weight, atol=1e-9)
