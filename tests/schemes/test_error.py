from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge_dac.convolution import ConvLayer
from edge_dac.errors import UsageError
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.composition import compose
from edge_dac.schemes.error import LayerError, layer_error
from edge_dac.schemes.metric import shrunk_covariance, shrunk_probes
from edge_dac.schemes.scheme import Moments, ProbedMoments


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
    for name in (name for name, s in SCHEMES.items() if name != "dense" and not s.computes_integers):
        factorization = SCHEMES[name].factorize(layer, SCHEMES[name].ranks(layer)[0], still)
        assert all(np.isfinite(factor.weight).all() for factor in factorization.factors)


def test_moments_of_another_layer_are_a_usage_error(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(6, 4, (3, 3))
    other = Moments(np.zeros((1, 9)), np.eye(9)[None], 1)
    with pytest.raises(UsageError, match="layer: moments: expected a covariance"):
        SCHEMES["dac"].factorize(layer, 1, other)
    with pytest.raises(UsageError, match="shrinkage: expected a share"):
        SCHEMES["dac"].factorize(layer, 1, replace(other, mean=np.zeros((1, 36)), covariance=np.eye(36)[None]), 0.0)


def test_probes_estimate_what_the_full_covariance_gives(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(24, 150, (3, 3))
    rng = np.random.default_rng(4)
    roots = rng.standard_normal((400, 1350)) * np.geomspace(1, 0.03, 1350)
    mean = np.zeros((1, 1350))
    directions = roots.T @ rng.standard_normal((400, 256)) / 16
    exact = LayerError(layer, Moments(mean, (roots.T @ roots)[None], 400))
    probed = LayerError(layer, ProbedMoments(mean, directions[None], np.zeros(1)))
    for rank in (1, 3, 6):
        factorization = SCHEMES["dac"].factorize(layer, rank)
        assert probed.of(factorization) == pytest.approx(exact.of(factorization), rel=0.1)
    assert probed.of(SCHEMES["dense"].factorize(layer, 1)) == 0.0


def test_shrunk_probes_stand_for_the_shrunk_covariance(make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(6, 5, (3, 3))
    rng = np.random.default_rng(5)
    roots = rng.standard_normal((1, 45, 45))
    mean = np.zeros((1, 45))
    covariance = roots @ roots.swapaxes(1, 2)
    full = Moments(mean, covariance, 45)
    for shrinkage in (0.1, 0.9):
        exact = LayerError(layer, Moments(mean, shrunk_covariance(full, shrinkage), 45))
        probed = LayerError(layer, shrunk_probes(ProbedMoments(mean, roots, np.zeros(1)), shrinkage))
        factorization = SCHEMES["dac"].factorize(layer, 2)
        assert probed.of(factorization) == pytest.approx(exact.of(factorization))
