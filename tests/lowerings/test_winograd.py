"""Winograd computes what the plain convolution computes, to the digits each tile promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from equality import make_layer, merge, random_array, relative_errors
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization, Reason
from edge_dac.lowerings import LOWERINGS
from edge_dac.lowerings.winograd import Winograd

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


def test_strips_agree_with_the_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn layers are too small for more than one strip, unless a strip is allowed next to nothing."""
    lowering = Winograd("winograd4", size=6, strip_bytes=1)
    monkeypatch.setitem(LOWERINGS, "winograd4", lowering)
    most_strips = 0

    @CASES
    @given(problems())
    def check(problem: tuple[ConvLayer, Factorization, np.ndarray, bool]) -> None:
        nonlocal most_strips
        layer, factorization, *_ = problem
        if lowering.refuse(layer, factorization.chain) is not None:
            return
        assert relative_errors(*problem)["winograd4"] < 1e-4
        written = lowering.lower(layer, factorization, "x", "y").nodes
        most_strips = max(most_strips, sum(node.name.endswith("/windows") for node in written))

    check()
    assert most_strips > 3


@pytest.mark.parametrize(("name", "tolerance"), [("winograd2", 1e-5), ("winograd4", 1e-4), ("winograd6", 1e-4)])
@pytest.mark.parametrize("extent", [3, 5, 7])
def test_digits_at_many_channels(name: str, tolerance: float, extent: int) -> None:
    rng = np.random.default_rng(extent)
    conv = ConvAttributes((1, 1), (extent // 2,) * 4, (1, 1))
    weight = random_array(rng, 8, 256, extent, extent)
    layer = make_layer(weight, random_array(rng, 8), conv, (13, 11))
    factorization = Factorization("dense", 1, (Factor(weight, conv),), layer.bias)
    errors = relative_errors(layer, factorization, np.maximum(random_array(rng, 1, 256, 13, 11), 0))
    if extent >= LOWERINGS[name].size:
        assert name not in errors
    else:
        assert errors[name] < tolerance


def test_a_chain_may_hold_both_kinds_of_factors() -> None:
    """Tucker: only the 3x3 core is tiled; the strided factor after it stays direct."""
    rng = np.random.default_rng(7)
    point = ConvAttributes.pointwise(2)
    factors = (
        Factor(random_array(rng, 4, 6, 1, 1), point),
        Factor(random_array(rng, 5, 4, 3, 3), replace(point, pads=(1, 1, 1, 1))),
        Factor(random_array(rng, 7, 5, 1, 1), replace(point, strides=(2, 2))),
    )
    layer = make_layer(merge(factors), random_array(rng, 7), replace(point, pads=(1,) * 4, strides=(2, 2)), (10, 9))
    factorization = Factorization("tucker", (4, 5), factors, layer.bias)
    errors = relative_errors(layer, factorization, random_array(rng, 2, 6, 10, 9))
    assert {name for name in errors if name.startswith("winograd")} == {
        n for n in LOWERINGS if n.startswith("winograd")
    }
    assert max(errors.values()) < 1e-4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input_size": (None, 8)}, Reason.UNKNOWN_SPATIAL_SIZE),
        ({"static_size": False}, Reason.UNKNOWN_SPATIAL_SIZE),
        ({"dtype": np.float16}, Reason.UNSUPPORTED_TYPE),
        ({"opset": 10}, Reason.UNSUPPORTED_OPERATOR),
        ({"attributes": ConvAttributes((2, 1), (0,) * 4, (1, 1))}, Reason.STRIDE),
        ({"attributes": ConvAttributes((1, 1), (0,) * 4, (1, 1), groups=2)}, Reason.GROUPS),
        ({"weight": np.zeros((4, 4, 1, 1), np.float32)}, Reason.KERNEL_SHAPE),
        ({"weight": np.zeros((4, 4, 3, 9), np.float32)}, Reason.KERNEL_SHAPE),
    ],
)
def test_refusals_say_why(change: dict[str, Any], reason: Reason) -> None:
    layer = make_layer(np.zeros((4, 4, 3, 3), np.float32), None, ConvAttributes((1, 1), (0,) * 4, (1, 1)), (8, 8))
    assert LOWERINGS["winograd4"].refuse(layer, (layer.shape,)) is None
    changed = replace(layer, **change)
    refusal = LOWERINGS["winograd4"].refuse(changed, (changed.shape,))
    assert refusal is not None
    assert refusal.reason is reason
    assert refusal.subject == layer.name
