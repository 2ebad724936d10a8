from __future__ import annotations

import numpy as np
import pytest

from edge_dac.convolution import FloatArray
from edge_dac.schemes import alternating
from edge_dac.schemes.alternating import better_filters

INPUTS, TAPS, RANK, OUTPUTS = 4, 5, 2, 6


@pytest.fixture
def problem() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Filters, mixers, covariance, weight."""
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((INPUTS * TAPS, INPUTS * TAPS))
    return (
        rng.standard_normal((INPUTS, TAPS, RANK)),
        rng.standard_normal((INPUTS, RANK, OUTPUTS)),
        roots @ roots.T + np.eye(INPUTS * TAPS),
        rng.standard_normal((OUTPUTS, INPUTS * TAPS)),
    )


def error(filters: FloatArray, mixers: FloatArray, covariance: FloatArray, weight: FloatArray) -> float:
    difference = weight - np.einsum("ctr,crn->nct", filters, mixers).reshape(weight.shape)
    return float(np.trace(difference @ covariance @ difference.T))


def improved(problem: tuple[FloatArray, FloatArray, FloatArray, FloatArray]) -> FloatArray:
    filters, mixers, covariance, weight = problem
    return better_filters(filters, mixers, covariance, (covariance @ weight.T).reshape(INPUTS, TAPS, OUTPUTS))


def test_the_error_falls(problem: tuple[FloatArray, FloatArray, FloatArray, FloatArray]) -> None:
    assert error(improved(problem), *problem[1:]) < 0.9 * error(*problem)


def test_with_enough_steps_it_is_the_least_squares_solution(
    problem: tuple[FloatArray, FloatArray, FloatArray, FloatArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alternating, "STEPS", 200)
    _, mixers, covariance, weight = problem
    root = np.linalg.cholesky(covariance)
    unknowns = np.eye(INPUTS * TAPS * RANK).reshape(-1, INPUTS, TAPS, RANK)
    design = np.stack([np.einsum("ctr,crn->nct", unit, mixers).reshape(weight.shape) @ root for unit in unknowns])
    target = (weight @ root).ravel()
    exact = np.linalg.lstsq(design.reshape(len(unknowns), -1).T, target, rcond=None)[0]
    np.testing.assert_allclose(improved(problem), exact.reshape(INPUTS, TAPS, RANK), rtol=1e-5, atol=1e-6)


def test_dead_channels_keep_the_filters_finite(
    problem: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
) -> None:
    filters, mixers, covariance, weight = problem
    mixers[1] = 0
    assert np.isfinite(improved((filters, mixers, covariance, weight))).all()
    assert np.isfinite(improved((filters, np.zeros_like(mixers), covariance, np.zeros_like(weight)))).all()
