"""direct, multiplier, concat and branch_sum compute what the plain convolution computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from equality import attributes, make_layer, merge, random_array, relative_errors, run_nodes
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization, Reason
from edge_dac.lowerings import LOWERINGS

TOLERANCE = 1e-5
CASES = settings(max_examples=200, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))


@st.composite
def problems(draw: st.DrawFn, scheme: str) -> tuple[ConvLayer, Factorization, np.ndarray, bool]:
    """A layer, a factorization of it from random arrays, an input, and whether the batch axis is dynamic."""
    is_dense = scheme == "dense"  # whose other forms, by taps, want 1 group and 2 axes: few draws would have both
    axes = draw(st.sampled_from([1, 2, 2, 2] if is_dense else [1, 2]))
    groups = 1 if is_dense else draw(st.sampled_from([1, 1, 2]))
    channels, out = (groups * draw(st.integers(1, 5)) for _ in range(2))
    rank = draw(st.integers(1, 4))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    conv = draw(attributes(axes, groups))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    point = ConvAttributes.pointwise(axes, groups)
    ones = (1,) * axes
    if scheme == "dac":
        factors = (
            Factor(random_array(rng, channels * rank, 1, *kernel), replace(conv, groups=channels)),
            Factor(random_array(rng, out, channels * rank // groups, *ones), point),
        )
    elif scheme == "decoupled":
        factors = (
            Factor(random_array(rng, out * rank, channels // groups, *ones), point),
            Factor(random_array(rng, out, rank, *kernel), replace(conv, groups=out)),
        )
    else:
        factors = (Factor(random_array(rng, out, channels // groups, *kernel), conv),)
    bias = random_array(rng, out) if draw(st.booleans()) else None
    smallest = [(extent - 1) * dilation + 1 for extent, dilation in zip(kernel, conv.dilations, strict=True)]
    size = tuple(draw(st.integers(low, low + 9)) for low in smallest)
    layer = make_layer(merge(factors), bias, replace(conv, groups=1), size, draw(st.sampled_from([9, 11, 13, 18, 21])))
    x = random_array(rng, draw(st.integers(1, 3)), channels, *size)
    return layer, Factorization(scheme, rank, factors, bias), x, draw(st.booleans())


@pytest.mark.parametrize("scheme", ["dac", "decoupled", "dense"])
def test_all_lowerings_agree_with_the_plain_convolution(scheme: str) -> None:
    seen: set[str] = set()

    @CASES
    @given(problems(scheme))
    def check(problem: tuple[ConvLayer, Factorization, np.ndarray, bool]) -> None:
        errors = relative_errors(*problem)
        seen.update(errors)
        wrong = {name: error for name, error in errors.items() if error > TOLERANCE and not name.startswith("winograd")}
        assert wrong == {}

    check()
    expected = {
        "dac": {"direct", "multiplier", "concat", "branch_sum"},
        "decoupled": {"direct", "multiplier", "branch_sum"},
        "dense": {"direct", "taps", "taps_columns"},
    }[scheme]
    assert seen >= expected


def test_the_order_of_channels_above_rank_one() -> None:
    """Golden: two channels, rank two. Depthwise outputs are c0 j0, c0 j1, c1 j0, c1 j1, which the pointwise reads."""
    point = ConvAttributes.pointwise(2)
    depthwise = np.array([1, 10, 100, 1000], np.float32).reshape(4, 1, 1, 1)
    pointwise = np.array([[1, 2, 3, 4]], np.float32).reshape(1, 4, 1, 1)
    factors = (Factor(depthwise, replace(point, groups=2)), Factor(pointwise, point))
    layer = make_layer(np.array([21, 4300], np.float32).reshape(1, 2, 1, 1), None, point, (1, 1))
    x = np.array([1, 1], np.float32).reshape(1, 2, 1, 1)
    for name in ("multiplier", "concat", "branch_sum"):
        lowered = LOWERINGS[name].lower(layer, Factorization("dac", 2, factors, None), "x", "y")
        (result,) = run_nodes(lowered.nodes, lowered.initializers, x, ["y"], layer.opset)
        assert result.item() == 1 + 2 * 10 + 3 * 100 + 4 * 1000, name


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_without_spatial_axes(operator: str, with_bias: bool, dtype: type) -> None:
    rng = np.random.default_rng(3)
    factors = tuple(Factor(random_array(rng, *shape), ConvAttributes((), (), ())) for shape in ((3, 8), (5, 3)))
    bias = random_array(rng, 5) if with_bias else None
    layer = ConvLayer("fc", merge(factors), bias, factors[0].attributes, (), operator, dtype, opset=13)
    shape = (4, 8) if operator == "Gemm" else (2, 4, 8)
    x = random_array(rng, *shape).astype(dtype)
    lowered = LOWERINGS["direct"].lower(layer, Factorization("dense", 3, factors, bias), "x", "y")
    (result,) = run_nodes(lowered.nodes, lowered.initializers, x, ["y"], layer.opset)
    expected = x.astype(np.float64) @ layer.weight.T + (0 if bias is None else bias)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=0, atol=(2e-2 if dtype == np.float16 else 1e-5))


def test_float16_layers_keep_their_type() -> None:
    rng = np.random.default_rng(6)
    point = ConvAttributes.pointwise(2)
    spatial = replace(point, pads=(1, 1, 1, 1), groups=4)
    factors = (Factor(random_array(rng, 8, 1, 3, 3), spatial), Factor(random_array(rng, 3, 8, 1, 1), point))
    layer = make_layer(merge(factors), random_array(rng, 3), replace(spatial, groups=1), (6, 7))
    layer = replace(layer, dtype=np.float16)
    errors = relative_errors(
        layer, Factorization("dac", 2, factors, layer.bias), random_array(rng, 2, 4, 6, 7).astype(np.float16)
    )
    assert set(errors) == {"multiplier", "concat", "branch_sum"}
    assert max(errors.values()) < 5e-3


def test_names_start_with_the_layer_and_a_pair_amid_a_chain_is_found() -> None:
    rng = np.random.default_rng(4)
    point = ConvAttributes.pointwise(2)
    spatial = replace(point, pads=(1, 1, 1, 1), groups=3)
    factors = (
        Factor(random_array(rng, 3, 4, 1, 1), point),
        Factor(random_array(rng, 6, 1, 3, 3), spatial),
        Factor(random_array(rng, 5, 6, 1, 1), point),
        Factor(random_array(rng, 4, 5, 1, 1), point),
    )
    layer = make_layer(merge(factors), random_array(rng, 4), replace(spatial, groups=1), (6, 7))
    factorization = Factorization("tucker", (3, 5), factors, layer.bias)
    errors = relative_errors(layer, factorization, random_array(rng, 2, 4, 6, 7))
    assert set(errors) == {"multiplier", "concat", "branch_sum"}
    assert max(errors.values()) < TOLERANCE
    for name in errors:
        lowered = LOWERINGS[name].lower(layer, factorization, "x", "y")
        assert lowered.nodes[-1].output == ["y"]
        made = [node.name for node in lowered.nodes] + [tensor.name for tensor in lowered.initializers]
        assert all(text.startswith("layer/") for text in made)
        assert len(set(made)) == len(made)


def test_refusals_say_why() -> None:
    point = ConvAttributes.pointwise(2)
    rng = np.random.default_rng(5)
    layer = make_layer(random_array(rng, 4, 4, 1, 1), None, point, (5, 5))
    depthwise = Factor(random_array(rng, 8, 1, 3, 3), replace(point, groups=4)).shape
    grouped = Factor(random_array(rng, 4, 4, 1, 1), replace(point, groups=2)).shape

    def reason(name: str, *chain: object) -> Reason | None:
        refusal = LOWERINGS[name].refuse(layer, chain)  # type: ignore[arg-type]
        return None if refusal is None else refusal.reason

    assert reason("concat", layer.shape) is Reason.KERNEL_SHAPE
    assert reason("branch_sum", layer.shape) is Reason.KERNEL_SHAPE
    assert reason("multiplier", layer.shape) is Reason.KERNEL_SHAPE
    assert reason("concat", depthwise, grouped) is Reason.GROUPS
    assert reason("branch_sum", depthwise, grouped) is None
    assert reason("direct", depthwise, grouped) is Reason.NO_GAIN
