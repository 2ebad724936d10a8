"""The contract that every scheme keeps, over drawn layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.convolution import ConvAttributes, ConvLayer, FloatArray, Reason
from edge_dac.errors import UsageError
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.composition import compose

FACTORIZING = sorted(name for name, scheme in SCHEMES.items() if not scheme.computes_integers)
LOW_RANK = sorted(set(FACTORIZING) - {"dense"})
TRUNCATED = sorted(set(LOW_RANK) - {"tucker"})
drawn = settings(max_examples=200, deadline=None)


@st.composite
def layers(draw: st.DrawFn) -> ConvLayer:
    """Convolutions of 0 to 2 axes with any attributes that ONNX has; float64, so that identities are sharp."""
    axes = draw(st.integers(0, 2))
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    outputs, inputs = groups * draw(st.integers(1, 8)), groups * draw(st.integers(1, 8))

    def per_axis(largest: int, count: int = axes, smallest: int = 1) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(smallest, largest), min_size=count, max_size=count)))

    kernel, pads = per_axis(4), per_axis(2, 2 * axes, 0)
    auto_pad = draw(st.sampled_from(("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER"))) if axes else "NOTSET"
    if auto_pad != "NOTSET":
        pads = (0,) * (2 * axes)
    attributes = ConvAttributes(per_axis(3), pads, per_axis(2), groups, auto_pad)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.standard_normal((outputs, inputs // groups, *kernel)) * 10.0 ** draw(st.integers(-3, 3))
    if draw(st.booleans()):  # a kernel with little in it: equal rows make singular values vanish
        weight[:] = weight[:1]
    bias = rng.standard_normal(outputs) if draw(st.booleans()) else None
    return ConvLayer("drawn", weight, bias, attributes, (9, 8)[:axes])


def applicable(scheme: str, layer: ConvLayer) -> bool:
    refusal = SCHEMES[scheme].refuse(layer)
    return refusal is None or refusal.reason is Reason.NO_GAIN


def squared_error(layer: ConvLayer, kernel: FloatArray) -> float:
    return float(np.square(layer.weight - kernel).sum())


@pytest.mark.parametrize("name", FACTORIZING)
@drawn
@given(layer=layers())
def test_full_rank_computes_the_layer(name: str, convolve: Callable[..., FloatArray], layer: ConvLayer) -> None:
    if not applicable(name, layer):
        return
    scheme = SCHEMES[name]
    factorization = scheme.factorize(layer, scheme.ranks(layer)[-1])
    image = np.random.default_rng(0).standard_normal((layer.in_channels, *layer.input_size))
    dense = SCHEMES["dense"].factorize(layer, 1).factors[0]
    expected = convolve(image, dense)
    np.testing.assert_allclose(
        reduce(convolve, factorization.factors, image), expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max()
    )
    assert factorization.bias is layer.bias


@pytest.mark.parametrize("name", LOW_RANK)
@drawn
@given(layer=layers(), position=st.floats(0, 1))
def test_shapes_macs_and_composition_agree_with_the_factors(
    name: str, convolve: Callable[..., FloatArray], layer: ConvLayer, position: float
) -> None:
    if not applicable(name, layer):
        return
    scheme = SCHEMES[name]
    ranks = scheme.ranks(layer)
    rank = ranks[round(position * (len(ranks) - 1))]
    factorization = scheme.factorize(layer, rank)
    assert factorization.chain == scheme.shapes(layer, rank)
    assert scheme.macs(layer, rank) == layer.chain_macs(factorization.chain)
    composed = compose(factorization)
    assert composed.shape == layer.weight.shape
    image = np.random.default_rng(1).standard_normal((layer.in_channels, *layer.input_size))
    whole = convolve(image, replace(SCHEMES["dense"].factorize(layer, 1).factors[0], values=composed))
    chained = reduce(convolve, factorization.factors, image)
    np.testing.assert_allclose(chained, whole, rtol=1e-9, atol=1e-10 * np.abs(layer.weight).max())


@pytest.mark.parametrize("name", TRUNCATED)
@drawn
@given(layer=layers())
def test_weight_error_is_the_tail_of_the_singular_values_and_never_grows(name: str, layer: ConvLayer) -> None:
    if not applicable(name, layer):
        return
    scheme = SCHEMES[name]
    decomposition = scheme.decompose(layer)
    total = squared_error(layer, np.zeros_like(layer.weight))
    previous = total
    for rank in scheme.ranks(layer):
        error = squared_error(layer, compose(decomposition.at(rank)))
        assert decomposition.weight_error(rank) == pytest.approx(error, rel=1e-6, abs=1e-13 * total)
        assert error <= previous * (1 + 1e-9) + 1e-13 * total
        previous = error


@pytest.mark.parametrize("name", FACTORIZING)
def test_equal_input_gives_equal_factors(name: str, make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(12, 8, (3, 3))
    scheme = SCHEMES[name]
    rank = scheme.ranks(layer)[0]
    once, again = scheme.factorize(layer, rank), scheme.factorize(layer, rank)
    for first, second in zip(once.factors, again.factors, strict=True):
        np.testing.assert_array_equal(first.weight, second.weight)


@pytest.mark.parametrize("name", FACTORIZING)
def test_float32_layers_get_float32_factors(name: str, make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(12, 8, (3, 3))
    layer = replace(layer, weight=layer.weight.astype(np.float32))
    factorization = SCHEMES[name].factorize(layer, SCHEMES[name].ranks(layer)[-1])
    assert {factor.weight.dtype for factor in factorization.factors} == {np.dtype(np.float32)}
    assert squared_error(layer, compose(factorization)) <= 1e-12 * float(np.square(layer.weight).sum())


@pytest.mark.parametrize("name", FACTORIZING)
def test_a_rank_out_of_range_is_a_usage_error(name: str, make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(12, 8, (3, 3))
    scheme = SCHEMES[name]
    for rank in (0, 1000, (0, 0), (1000, 1)):
        with pytest.raises(UsageError, match=f"layer: {name}: expected a rank"):
            scheme.factorize(layer, rank)
        with pytest.raises(UsageError, match=f"layer: {name}: expected a rank"):
            scheme.decompose(layer).at(rank)


@pytest.mark.parametrize("name", LOW_RANK)
def test_depthwise_layers_are_refused(name: str, make_layer: Callable[..., ConvLayer]) -> None:
    refusal = SCHEMES[name].refuse(make_layer(16, 8, (3, 3), groups=8))
    assert refusal is not None
    assert refusal.reason is Reason.DEPTHWISE


@pytest.mark.parametrize("name", LOW_RANK)
def test_a_layer_too_small_to_gain_is_refused(name: str, make_layer: Callable[..., ConvLayer]) -> None:
    layer = make_layer(1, 1, (2, 2))
    layer = replace(layer, attributes=replace(layer.attributes, pads=(0, 0, 0, 0)))
    refusal = SCHEMES[name].refuse(layer)
    assert refusal is not None
    assert refusal.reason is Reason.NO_GAIN


@pytest.mark.parametrize("name", LOW_RANK)
def test_candidate_ranks_lie_below_the_dense_macs(name: str, make_layer: Callable[..., ConvLayer]) -> None:
    layer, scheme = make_layer(64, 48, (3, 3)), SCHEMES[name]
    ranks = scheme.candidate_ranks(layer, (0.1, 0.3, 0.5, 0.9, 1.5))
    assert ranks
    assert all(scheme.offers(layer, rank) for rank in ranks)
    macs = [scheme.macs(layer, rank) for rank in ranks]
    assert macs == sorted(macs)
    assert macs[-1] < layer.macs


@drawn
@given(layer=layers(), first=st.floats(0, 1), second=st.floats(0, 1))
def test_tucker_stays_within_the_bound_of_its_start(layer: ConvLayer, first: float, second: float) -> None:
    """HOOI starts at the HOSVD, whose squared error is at most the sum of the two tails (De Lathauwer et al., 2000)."""
    if not applicable("tucker", layer):
        return
    groups = layer.attributes.groups
    inputs, outputs = layer.in_channels // groups, layer.out_channels // groups
    rank = (1 + round(first * (inputs - 1)), 1 + round(second * (outputs - 1)))
    kernels = layer.weight.reshape(groups, outputs, inputs, -1)
    tails = 0.0
    for kernel in kernels:
        by_input = np.linalg.svd(kernel.transpose(1, 0, 2).reshape(inputs, -1), compute_uv=False)
        by_output = np.linalg.svd(kernel.reshape(outputs, -1), compute_uv=False)
        tails += np.square(by_input[rank[0] :]).sum() + np.square(by_output[rank[1] :]).sum()
    error = SCHEMES["tucker"].decompose(layer).weight_error(rank)
    assert error <= tails * (1 + 1e-9) + 1e-13 * squared_error(layer, np.zeros_like(layer.weight))


@drawn
@given(layer=layers())
def test_tucker_error_never_grows_with_rank(layer: ConvLayer) -> None:
    if not applicable("tucker", layer):
        return
    decomposition = SCHEMES["tucker"].decompose(layer)
    errors = [decomposition.weight_error(rank) for rank in SCHEMES["tucker"].ranks(layer)]
    slack = 1e-13 * squared_error(layer, np.zeros_like(layer.weight))
    assert all(later <= earlier * (1 + 1e-9) + slack for earlier, later in pairwise(errors))
