"""Layers with few outputs, tap by tap; equality on drawn layers is tested with the depthwise lowerings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from equality import make_layer, random_array, relative_errors

from edge_dac.convolution import ConvAttributes, Factor, Factorization, Reason
from edge_dac.lowerings import LOWERINGS

SAME = ConvAttributes((1, 1), (1, 1, 1, 1), (1, 1))


def test_one_output_is_the_sum_of_nine_shifted_maps() -> None:
    rng = np.random.default_rng(1)
    layer = make_layer(random_array(rng, 1, 16, 3, 3), random_array(rng, 1), SAME, (9, 7))
    factorization = Factorization("dense", 1, (Factor(layer.weight, SAME),), layer.bias)
    operators = [node.op_type for node in LOWERINGS["taps"].lower(layer, factorization, "x", "y").nodes]
    assert operators == ["Conv"] + ["Slice"] * 9 + ["Sum"]
    errors = relative_errors(layer, factorization, random_array(rng, 2, 16, 9, 7), dynamic_batch=True)
    assert {"taps", "taps_columns"} <= set(errors)
    assert max(errors["taps"], errors["taps_columns"]) < 1e-5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"opset": 9}, Reason.UNSUPPORTED_OPERATOR),
        ({"weight": np.zeros((9, 4, 3, 3), np.float32)}, Reason.NO_GAIN),
        ({"weight": np.zeros((2, 4, 3, 65), np.float32)}, Reason.NO_GAIN),
        ({"weight": np.zeros((2, 4, 1, 1), np.float32)}, Reason.KERNEL_SHAPE),
        ({"attributes": replace(SAME, groups=2)}, Reason.GROUPS),
        ({"attributes": replace(SAME, strides=(2, 2), auto_pad="SAME_UPPER")}, Reason.STRIDE),
    ],
)
def test_refusals_say_why(change: dict[str, Any], reason: Reason) -> None:
    layer = make_layer(np.zeros((2, 4, 3, 3), np.float32), None, SAME, (8, 8))
    for name in ("taps", "taps_columns"):
        assert LOWERINGS[name].refuse(layer, (layer.shape,)) is None
        changed = replace(layer, **change)
        refusal = LOWERINGS[name].refuse(changed, (changed.shape,))
        assert refusal is not None
        assert refusal.reason is reason


def test_a_flat_kernel_has_no_columns() -> None:
    layer = make_layer(np.zeros((2, 4, 1, 3), np.float32), None, SAME, (8, 8))
    assert LOWERINGS["taps"].refuse(layer, (layer.shape,)) is None
    refusal = LOWERINGS["taps_columns"].refuse(layer, (layer.shape,))
    assert refusal is not None
    assert refusal.reason is Reason.KERNEL_SHAPE
