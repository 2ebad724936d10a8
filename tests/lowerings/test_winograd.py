"""Winograd computes what the plain convolution computes, to the digits each tile promises."""

from __future__ import annotations

import numpy as np
from equality import make_layer, merge, random_array, relative_errors
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization
from edge_dac.lowerings import LOWERINGS

TOLERANCE = {"2": 1e-5, "4": 1e-4, "6": 1e-4}
CASES = settings(max_examples=200, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))


@st.composite
def stride_one(draw: st.DrawFn, axes: int) -> ConvAttributes:
    """Stride 1, any dilation, asymmetric pads or SAME."""
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad != "NOTSET":
        return ConvAttributes((1,) * axes, (0,) * (2 * axes), (1,) * axes, 1, auto_pad)
    dilations = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(axes))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(2 * axes))
    return ConvAttributes((1,) * axes, pads, dilations)


@st.composite
def problems(draw: st.DrawFn) -> tuple[ConvLayer, Factorization, np.ndarray, bool]:
    """A layer, a chain that equals it with at least one factor to tile, an input, whether the batch axis is dynamic."""
    axes = draw(st.sampled_from([1, 2, 2]))
    channels, out, middle = (draw(st.integers(1, 6)) for _ in range(3))
    kernel = tuple(draw(st.sampled_from([3, 3, 3, 1, 2, 5])) for _ in range(axes))
    conv = draw(stride_one(axes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scheme = draw(st.sampled_from(["dense", "channel", "spatial"] if axes == 2 else ["dense", "channel"]))
    if scheme == "dense":
        factors = (Factor(random_array(rng, out, channels, *kernel), conv),)
    elif scheme == "channel":
        factors = (
            Factor(random_array(rng, middle, channels, *kernel), conv),
            Factor(random_array(rng, out, middle, *(1,) * axes), ConvAttributes.pointwise(axes)),
        )
    else:
        factors = (
            Factor(random_array(rng, middle, channels, kernel[0], 1), conv.on_axis(0)),
            Factor(random_array(rng, out, middle, 1, kernel[1]), conv.on_axis(1)),
        )
    bias = random_array(rng, out) if draw(st.booleans()) else None
    smallest = [(extent - 1) * dilation + 1 for extent, dilation in zip(kernel, conv.dilations, strict=True)]
    size = tuple(draw(st.integers(low, low + 14)) for low in smallest)
    layer = make_layer(merge(factors), bias, conv, size, draw(st.sampled_from([11, 13, 18, 21])))
    x = random_array(rng, draw(st.integers(1, 3)), channels, *size)
    return layer, Factorization(scheme, 1, factors, bias), x, draw(st.booleans())


def test_winograd_agrees_with_the_plain_convolution() -> None:
    seen: set[str] = set()

    @CASES
    @given(problems())
    def check(problem: tuple[ConvLayer, Factorization, np.ndarray, bool]) -> None:
        errors = relative_errors(*problem)
        seen.update(errors)
        assert {
            name: error for name, error in errors.items() if name.startswith("winograd") and error > TOLERANCE[name[8]]
        } == {}

    check()
    assert seen >= {name for name in LOWERINGS if name.startswith("winograd")}
