from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge_dac.convolution import ConvLayer
from edge_dac.errors import UsageError
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.composition import compose
from edge_dac.schemes.error import layer_error
from edge_dac.schemes.scheme import Moments


def test_it_is_the_error_of_the_outputs_of_sampled_patches(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(6, 4, (3, 3), groups=2)
    rng = np.random.default_rng(2)
    patches = rng.standard_normal((500, 2, 18)) + rng.standard_normal((2, 18))
    centred = patches - patches.mean(axis=0)
    moments = Moments(patches.mean(axis=0), np.einsum("tgi,tgj->gij", centred, centred) / 500, 500)
    factorization = SCHEMES["dac"].factorize(layer, 1)

    def outputs(kernel: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return np.einsum("goi,tgi->tgo", kernel.reshape(2, 3, 18), inputs)

    lost = outputs(layer.weight - compose(factorization), patches)
    expected = np.square(lost).sum() / np.square(outputs(layer.weight, centred)).sum()
    assert layer_error(layer, factorization, moments) == pytest.approx(expected)


def test_an_exact_factorization_has_no_error(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(6, 4, (3, 3))
    moments = Moments(np.zeros((1, 36)), np.zeros((1, 36, 36)), 1)
    assert layer_error(layer, SCHEMES["dense"].factorize(layer, 1), moments) == 0.0


def test_a_layer_whose_input_never_varies_is_fitted_and_kept_finite(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(6, 4, (3, 3))
    still = Moments(np.ones((1, 36)), np.zeros((1, 36, 36)), 1)
    for name in set(SCHEMES) - {"dense"}:
        factorization = SCHEMES[name].factorize(layer, SCHEMES[name].ranks(layer)[0], still)
        assert all(np.isfinite(factor.weight).all() for factor in factorization.factors)


def test_moments_of_another_layer_are_a_usage_error(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(6, 4, (3, 3))
    other = Moments(np.zeros((1, 9)), np.eye(9)[None], 1)
    with pytest.raises(UsageError, match="layer: moments: expected a covariance"):
        SCHEMES["dac"].factorize(layer, 1, other)
    with pytest.raises(UsageError, match="shrinkage: expected a share"):
        SCHEMES["dac"].factorize(layer, 1, replace(other, mean=np.zeros((1, 36)), covariance=np.eye(36)[None]), 0.0)
