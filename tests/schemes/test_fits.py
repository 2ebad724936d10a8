"""What all fits to moments have in common, over drawn layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.convolution import ConvAttributes, ConvLayer, Reason
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.composition import compose
from edge_dac.schemes.error import layer_error
from edge_dac.schemes.scheme import Moments

FITTED = sorted(name for name, s in SCHEMES.items() if name != "dense" and not s.computes_integers)
drawn = settings(max_examples=60, deadline=None)


@st.composite
def layers_with_moments(draw: st.DrawFn) -> tuple[ConvLayer, Moments]:
    """A small 2-D convolution and the float64 moments of correlated inputs."""
    groups = draw(st.sampled_from((1, 1, 2)))
    outputs, inputs = draw(st.integers(1, 7)), draw(st.integers(2, 6))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = inputs * kernel[0] * kernel[1]
    roots = rng.standard_normal((groups, size, size)) * np.geomspace(1, 10.0 ** -draw(st.integers(0, 3)), size)
    moments = Moments(rng.standard_normal((groups, size)), roots @ roots.swapaxes(1, 2), 1000)
    bias = rng.standard_normal(groups * outputs) if draw(st.booleans()) else None
    attributes = ConvAttributes((1, 1), (0, 0, 0, 0), (1, 1), groups)
    weight = rng.standard_normal((groups * outputs, inputs, *kernel))
    if draw(st.booleans()):  # dead and repeated channels, as trained networks have
        weight[:, 0], weight[-1] = 0, weight[0]
    return ConvLayer("drawn", weight, bias, attributes, (9, 9)), moments


def applicable(name: str, layer: ConvLayer) -> bool:
    refusal = SCHEMES[name].refuse(layer)
    return refusal is None or refusal.reason is Reason.NO_GAIN


@pytest.mark.parametrize("name", FITTED)
@drawn
@given(case=layers_with_moments())
def test_full_rank_is_exact_with_moments_too(name: str, case: tuple[ConvLayer, Moments]) -> None:
    layer, moments = case
    if not applicable(name, layer):
        return
    scheme = SCHEMES[name]
    factorization = scheme.factorize(layer, scheme.ranks(layer)[-1], moments)
    np.testing.assert_allclose(compose(factorization), layer.weight, atol=1e-8)
    expected = 0 if layer.bias is None else layer.bias
    np.testing.assert_allclose(factorization.bias, expected, atol=1e-6)


@pytest.mark.parametrize("name", FITTED)
@drawn
@given(case=layers_with_moments(), position=st.floats(0, 1))
def test_the_mean_output_is_kept(name: str, case: tuple[ConvLayer, Moments], position: float) -> None:
    layer, moments = case
    if not applicable(name, layer):
        return
    ranks = SCHEMES[name].ranks(layer)
    factorization = SCHEMES[name].factorize(layer, ranks[round(position * (len(ranks) - 1))], moments)
    groups = layer.attributes.groups
    difference = (layer.weight - compose(factorization)).reshape(groups, layer.out_channels // groups, -1)
    lost = (difference @ moments.mean[..., None]).ravel() + (0 if layer.bias is None else layer.bias)
    np.testing.assert_allclose(factorization.bias, lost, atol=1e-9)


@pytest.mark.parametrize("name", FITTED)
@drawn
@given(case=layers_with_moments())
def test_no_change_of_the_last_factor_lowers_the_error(name: str, case: tuple[ConvLayer, Moments]) -> None:
    """The gradient of the error in the last factor vanishes: it is the exact least-squares solution."""
    layer, moments = case
    scheme = SCHEMES[name]
    if not applicable(name, layer) or name in ("decoupled", "tucker"):
        return
    factorization = scheme.factorize(layer, 1, moments, shrinkage=1e-9)
    centred = replace(moments, mean=np.zeros_like(moments.mean))
    plain = replace(factorization, bias=layer.bias)
    best = layer_error(layer, plain, centred)
    first, last = factorization.factors
    rng = np.random.default_rng(0)
    for _ in range(3):
        step = 1e-3 * rng.standard_normal(last.weight.shape) * np.abs(last.weight).max()
        for sign in (1, -1):
            moved = replace(plain, factors=(first, replace(last, values=last.weight + sign * step)))
            assert layer_error(layer, moved, centred) >= best * (1 - 1e-6)


@drawn
@given(case=layers_with_moments())
def test_channel_reaches_the_bound_of_reduced_rank_regression(case: tuple[ConvLayer, Moments]) -> None:
    layer, moments = case
    scheme, groups = SCHEMES["channel"], layer.attributes.groups
    centred = replace(moments, mean=np.zeros_like(moments.mean))
    roots = np.linalg.cholesky(moments.covariance + 1e-12 * np.eye(moments.mean.shape[1]))
    weight = layer.weight.reshape(groups, layer.out_channels // groups, -1)
    values = np.linalg.svd(weight @ roots, compute_uv=False)
    decomposition = scheme.decompose(layer, centred, shrinkage=1e-12)
    for rank in scheme.ranks(layer):
        assert isinstance(rank, int)
        bound = np.square(values[:, rank:]).sum() / np.square(values).sum()
        assert layer_error(layer, decomposition.at(rank), centred) == pytest.approx(bound, rel=1e-4, abs=1e-8)
