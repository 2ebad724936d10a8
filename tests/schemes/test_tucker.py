from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_dac.convolution import ConvLayer
from edge_dac.schemes.composition import compose
from edge_dac.schemes.tucker import Tucker


def test_a_kernel_of_low_multilinear_rank_is_found(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(10, 8, (3, 3))
    rng = np.random.default_rng(5)
    inner, outer, core = rng.standard_normal((8, 2)), rng.standard_normal((10, 3)), rng.standard_normal((3, 2, 3, 3))
    layer.weight[:] = np.einsum("nb,bahw,ca->nchw", outer, core, inner)
    np.testing.assert_allclose(compose(Tucker().factorize(layer, (2, 3))), layer.weight, atol=1e-12)


def test_macs_follow_the_formula(make_layer: Callable[..., ConvLayer]) -> None:
    assert Tucker().macs(make_layer(64, 32, (3, 3)), (8, 24)) == (32 * 8 + 8 * 24 * 9 + 24 * 64) * 12 * 12


def test_ranks_run_to_the_full_pair_in_proportion(make_layer: Callable[..., ConvLayer]) -> None:
    assert list(Tucker().ranks(make_layer(8, 4, (3, 3)))) == [(1, 2), (2, 4), (3, 6), (4, 8)]
