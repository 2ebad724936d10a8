"""Integer arithmetic computes the rounded kernel on rounded inputs, for any convolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from equality import attributes, make_layer, run_nodes
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization
from edge_dac.errors import UsageError
from edge_dac.lowerings import INTEGER_LOWERINGS, LOWERINGS
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.int8 import quantize
from edge_dac.schemes.scheme import Moments, Ranges

LOWERING = INTEGER_LOWERINGS["int8"]
PRODUCT = ConvAttributes((), (), ())


@st.composite
def convolutions(draw: st.DrawFn) -> ConvLayer:
    axes, groups = draw(st.integers(1, 2)), draw(st.sampled_from((1, 1, 2, 4)))
    conv = draw(attributes(axes, groups))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    per_group = draw(st.integers(1, 4))
    weight = rng.standard_normal((groups * draw(st.integers(1, 5)), per_group, *kernel)).astype(np.float32)
    bias = rng.standard_normal(len(weight)).astype(np.float32) if draw(st.booleans()) else None
    return make_layer(weight, bias, conv, (11, 9)[:axes])


@settings(max_examples=200, deadline=None)
@given(layer=convolutions(), seed=st.integers(0, 1000))
def test_a_convolution_in_integers_is_within_a_step_of_the_rounded_one(layer: ConvLayer, seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-2, 3, (1, layer.in_channels, *layer.input_size)).astype(np.float32)
    reach = float(np.abs(layer.weight).reshape(len(layer.weight), -1).sum(axis=1).max() * 3 + 4)
    ranges = Ranges((-2.0, 3.0), (-reach, reach))
    groups, size = layer.attributes.groups, layer.weight[0].size
    roots = np.random.default_rng(seed).standard_normal((groups, size, size))
    moments = Moments(np.full((groups, size), 0.5), roots @ roots.swapaxes(1, 2), 1000, ranges)
    made = SCHEMES["int8"].factorize(layer, 7, moments)
    assert made.quantization is not None
    source, target = made.quantization.grids
    step = np.float32(source.scale)
    rounded = (np.clip(np.round(x / step) + source.zero_point, 0, 255) - source.zero_point).astype(np.float32) * step
    plain = replace(layer, name="plain")
    dense = Factorization("dense", 1, (Factor(made.factors[0].weight, layer.attributes),), made.bias)
    reference = LOWERINGS["direct"].lower(plain, dense, "x", "expected")
    (expected,) = run_nodes(reference.nodes, reference.initializers, rounded, ["expected"], layer.opset)
    lowered = LOWERING.lower(layer, made, "x", "answer")
    (answer,) = run_nodes(lowered.nodes, lowered.initializers, x, ["answer"], layer.opset)
    assert np.abs(answer - expected).max() <= target.scale * 0.51 + 1e-3 * reach / 100


@settings(max_examples=100, deadline=None)
@given(layer=convolutions(), seed=st.integers(0, 1000), data=st.data())
def test_a_chain_in_integers_is_near_its_factors(layer: ConvLayer, seed: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(("spatial_vh", "spatial_hv", "channel", "tucker")))
    scheme = SCHEMES[name]
    if scheme.refuse(layer) is not None:
        return
    rank = data.draw(st.sampled_from(list(scheme.ranks(layer))))
    x = np.random.default_rng(seed).uniform(-2, 3, (1, layer.in_channels, *layer.input_size)).astype(np.float32)
    groups, size = layer.attributes.groups, layer.weight[0].size
    dense = Factorization("dense", 1, (Factor(layer.weight, layer.attributes),), layer.bias)
    plain = LOWERINGS["direct"].lower(replace(layer, name="plain"), dense, "x", "expected")
    (output,) = run_nodes(plain.nodes, plain.initializers, x, ["expected"], layer.opset)
    reach = float(np.abs(output).max()) * 2 + 1
    covariance = np.tile(np.eye(size) * 25 / 12, (groups, 1, 1))
    moments = Moments(np.full((groups, size), 0.5), covariance, 1000, Ranges((-2.0, 3.0), (-reach, reach)))
    real = scheme.factorize(layer, rank, moments)
    made = quantize(layer, real, moments, 8)
    assert LOWERING.refuse(layer, made.chain) is None
    reference = LOWERINGS["direct"].lower(replace(layer, name="plain"), real, "x", "expected")
    (expected,) = run_nodes(reference.nodes, reference.initializers, x, ["expected"], layer.opset)
    lowered = LOWERING.lower(layer, made, "x", "answer")
    (answer,) = run_nodes(lowered.nodes, lowered.initializers, x, ["answer"], layer.opset)
    bound = 0.03 * np.abs(layer.weight).reshape(len(layer.weight), -1).sum(axis=1).max() * 3
    assert np.abs(answer - expected).max() <= bound + 2 * reach / 100


@pytest.mark.parametrize(("operator", "bias"), [("MatMul", True), ("MatMul", False), ("Gemm", True)])
def test_a_product_is_near_the_real_one_whatever_its_input_ranges_over(operator: str, bias: bool) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((24, 64)).astype(np.float32)
    layer = replace(
        make_layer(weight, rng.standard_normal(24).astype(np.float32) if bias else None, PRODUCT, ()),
        operator=operator,
    )
    made = SCHEMES["int8"].factorize(layer, 7)
    lowered = LOWERING.lower(layer, made, "x", "answer")
    for scale in (1e-2, 1e3):
        x = (rng.standard_normal((5, 64)) * scale).astype(np.float32)
        expected = x @ weight.T + (0 if layer.bias is None else layer.bias)
        (answer,) = run_nodes(lowered.nodes, lowered.initializers, x, ["answer"], layer.opset)
        assert np.square(answer - expected).sum() <= 1e-3 * np.square(x @ weight.T).sum()


def test_only_quantized_factorizations_are_written() -> None:
    layer = make_layer(np.ones((2, 2, 1, 1), np.float32), None, PRODUCT, (4, 4))
    with pytest.raises(UsageError, match="quantized"):
        LOWERING.lower(layer, Factorization("dense", 1, (Factor(layer.weight, layer.attributes),), None), "x", "y")
