"""Rounding to a grid in the metric of what a layer reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dac.convolution import FloatArray
from edge_dac.schemes.rounding import nearest_on_grid, round_in_metric


def drawn(groups: int, outputs: int, size: int, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, a metric of unequal and dependent inputs, and steps."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((groups, outputs, size))
    roots = rng.standard_normal((groups, size, size)) * np.geomspace(1, 0.01, size)
    metric = roots @ roots.swapaxes(1, 2) + 1e-3 * np.eye(size)
    return weight, metric, np.abs(weight).max(axis=2) / 127


@given(groups=st.integers(1, 3), outputs=st.integers(1, 5), size=st.integers(1, 150), seed=st.integers(0, 2**32 - 1))
def test_every_term_of_the_error_is_below_half_a_step(groups: int, outputs: int, size: int, seed: int) -> None:
    weight, metric, steps = drawn(groups, outputs, size, seed)
    integers = round_in_metric(weight, metric, steps, 127)
    errors = weight - integers * steps[..., None]
    for group in range(groups):
        factor = np.linalg.cholesky(metric[group])
        terms = np.abs(errors[group] @ factor) / (steps[group][:, None] * np.diagonal(factor))
        at_the_end = np.abs(integers[group]) == 127
        assert np.all(terms[~at_the_end] <= 0.5 + 1e-6)


@given(outputs=st.integers(1, 5), size=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
def test_inputs_that_do_not_depend_on_each_other_make_no_difference(outputs: int, size: int, seed: int) -> None:
    weight, metric, steps = drawn(1, outputs, size, seed)
    independent = np.eye(size)[None] * np.diagonal(metric[0])
    np.testing.assert_array_equal(round_in_metric(weight, independent, steps, 127), nearest_on_grid(weight, steps, 127))


@pytest.mark.parametrize("size", [40, 200])
def test_dependent_inputs_lose_a_fraction_of_what_nearest_loses(size: int) -> None:
    weight, metric, steps = drawn(2, 30, size, 5)

    def lost(integers: FloatArray) -> float:
        errors = weight - integers * steps[..., None]
        return float(((errors @ metric) * errors).sum())

    assert lost(round_in_metric(weight, metric, steps, 127)) < 0.3 * lost(nearest_on_grid(weight, steps, 127))
