"""The rounding of weights, and the noise of rounded activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dac.convolution import Affine, ConvLayer, Factor, Factorization, FloatArray, Rank, Reason
from edge_dac.errors import UsageError
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.composition import compose
from edge_dac.schemes.error import layer_error
from edge_dac.schemes.int8 import quantize
from edge_dac.schemes.scheme import Moments, Ranges

INT8 = SCHEMES["int8"]
MakeLayer = Callable[..., ConvLayer]
finite = st.floats(-1e6, 1e6, width=32)


def known(layer: ConvLayer, source: tuple[float, float], target: tuple[float, float]) -> Moments:
    groups = layer.attributes.groups
    size = layer.weight[0].size
    identity = np.tile(np.eye(size), (groups, 1, 1))
    return Moments(np.zeros((groups, size)), identity, 100, Ranges(source, target))


@given(low=finite, high=finite)
def test_a_grid_holds_zero_exactly_and_reaches_both_ends(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    grid = Affine.covering(low, high)
    reached = [grid.scale * (q - grid.zero_point) for q in (0, 255)]
    assert 0 <= grid.zero_point <= 255
    assert reached[0] <= min(low, 0.0) + grid.scale / 2 + 1e-9
    assert reached[1] >= max(high, 0.0) - grid.scale / 2 - 1e-9


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("groups", [1, 4])
def test_weights_lie_on_the_grid_of_their_channel(make_layer: MakeLayer, bits: int, groups: int) -> None:
    layer = make_layer(8, 4, (3, 3), groups=groups)
    made = INT8.factorize(layer, bits, known(layer, (0, 1), (-3, 3)))
    factor = made.factors[0]
    assert factor.values.dtype == np.int8
    assert factor.steps is not None
    assert np.abs(factor.values).max() <= 2 ** (bits - 1) - 1
    steps = factor.steps.reshape(-1, 1, 1, 1)
    assert np.all(np.abs(factor.weight - layer.weight) <= steps / 2 * (1 + 1e-6))


def test_a_channel_without_weights_keeps_its_bias(make_layer: MakeLayer) -> None:
    layer = make_layer(4, 4, (1, 1))
    layer.weight[2] = 0.0
    made = INT8.factorize(layer, 8, known(layer, (0, 1), (-3, 3)))
    assert made.quantization is not None
    assert made.factors[0].steps is not None
    steps = layer.bias / (made.factors[0].steps * made.quantization.grids[0].scale)
    assert np.all(np.abs(steps) <= 2**30 * (1 + 1e-6))
    assert np.all(made.factors[0].weight[2] == 0.0)


def test_the_error_is_what_rounding_does(make_layer: MakeLayer, convolve: Callable[..., FloatArray]) -> None:
    layer = make_layer(8, 6, (1, 1))
    image = np.random.default_rng(1).standard_normal((6, 64, 64)).clip(-3, 3)
    output = convolve(image, Factor(layer.weight, layer.attributes))
    reach = float(np.abs(output).max() + 3)
    moments = known(layer, (-3.0, 3.0), (-reach, reach))
    made = INT8.factorize(layer, 8, moments)
    assert made.quantization is not None
    source, target = made.quantization.grids
    rounded = np.round(image / source.scale) * source.scale
    answer = np.round(convolve(rounded, made.factors[0]) / target.scale) * target.scale
    seen = float(np.square(answer - output).mean() / np.square(output).mean())
    assert layer_error(layer, made, moments) == pytest.approx(seen, rel=0.15)


@pytest.mark.parametrize(
    ("name", "rank"), [("spatial_vh", 5), ("spatial_hv", 4), ("channel", 6), ("tucker", (4, 5)), ("channel", 24)]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_channels_between_factors_are_scaled_to_one_variance(
    make_layer: MakeLayer, name: str, rank: Rank, groups: int
) -> None:
    layer = make_layer(24 * groups, 8 * groups, (3, 3), groups=groups)
    rng = np.random.default_rng(2)
    roots = rng.standard_normal((groups, 72, 72)) * np.geomspace(1, 1e-3, 72)
    covariance = roots @ roots.swapaxes(1, 2)
    moments = Moments(rng.standard_normal((groups, 72)), covariance, 1000, Ranges((-9, 9), (-90, 90)))
    real = SCHEMES[name].factorize(layer, rank, moments)
    made = quantize(layer, real, moments, 8)
    assert made.quantization is not None
    assert len(made.quantization.grids) == len(made.factors) + 1
    # Rounding alone moves the kernel: each entry of a factor by at most half a step.
    np.testing.assert_allclose(compose(made), compose(real), atol=0.05 * np.abs(compose(real)).max())
    assert layer_error(layer, made, moments) <= layer_error(layer, real, moments) + 5e-3
    if name == "channel":
        kernels = made.factors[0].weight.reshape(groups, -1, 72)
        variances = ((kernels @ covariance) * kernels).sum(axis=-1)
        assert variances.max() == pytest.approx(1.0, rel=0.05)


def correlated(layer: ConvLayer, seed: int) -> Moments:
    """Moments of inputs that depend on each other, as neighbouring pixels do."""
    groups, size = layer.attributes.groups, layer.weight[0].size
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((groups, size, size)) * np.geomspace(1, 0.03, size)
    return Moments(rng.uniform(0, 2, (groups, size)), roots @ roots.swapaxes(1, 2), 1000, Ranges((-9, 9), (-90, 90)))


@pytest.mark.parametrize(("kernel", "groups"), [((3, 3), 1), ((3, 3), 8), ((1, 1), 2), ((), 1)])
def test_rounding_by_moments_loses_less_than_by_the_weights(
    make_layer: MakeLayer, kernel: tuple[int, ...], groups: int
) -> None:
    layer = make_layer(16, 8, kernel, groups=groups)
    moments = correlated(layer, 3)
    by_moments = INT8.factorize(layer, 8, moments)
    dense = Factorization("int8", 8, (Factor(layer.weight, layer.attributes),), layer.bias)
    by_weights = quantize(layer, dense, moments, 8)
    calm = replace(moments, ranges=None)
    lost = [layer_error(layer, replace(made, quantization=None), calm) for made in (by_moments, by_weights)]
    assert lost[0] < (0.8 if layer.weight[0].size > 8 else 1.0) * lost[1]


@pytest.mark.parametrize(("name", "rank"), [("int8", 8), ("channel", 6), ("spatial_vh", 5), ("tucker", (4, 5))])
def test_the_mean_output_is_the_layers(make_layer: MakeLayer, name: str, rank: Rank) -> None:
    layer = make_layer(24, 8, (3, 3))
    moments = correlated(layer, 4)
    made = SCHEMES[name].factorize(layer, rank, moments)
    made = made if name == "int8" else quantize(layer, made, moments, 8)
    assert made.bias is not None
    difference = (layer.weight - compose(made)).reshape(24, -1) @ moments.mean[0]
    np.testing.assert_allclose(made.bias, layer.bias + difference, rtol=1e-5, atol=1e-6)


def test_a_convolution_without_ranges_is_a_usage_error(make_layer: MakeLayer) -> None:
    with pytest.raises(UsageError, match="ranges"):
        INT8.factorize(make_layer(4, 4, (3, 3)), 8)


def test_what_onnx_cannot_write_is_refused(make_layer: MakeLayer) -> None:
    layer = replace(make_layer(4, 4, (3, 3)), dtype=np.float32)
    assert INT8.refuse(layer) is None
    assert INT8.refuse(replace(make_layer(4, 4, (3, 3), groups=4), dtype=np.float32)) is None
    for refused, reason in (
        (replace(layer, dtype=np.float16), Reason.UNSUPPORTED_TYPE),
        (replace(layer, opset=9), Reason.UNSUPPORTED_OPERATOR),
        (replace(make_layer(4, 4, ()), dtype=np.float32, opset=10), Reason.UNSUPPORTED_OPERATOR),
    ):
        refusal = INT8.refuse(refused)
        assert refusal is not None
        assert refusal.reason is reason
