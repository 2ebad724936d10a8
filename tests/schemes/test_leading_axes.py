from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.convolution import FloatArray
from edge_dac.schemes.leading_axes import leading_axes

SPECTRA = {
    "flat": lambda i: 1.0 / (1 + i / len(i)),
    "slow": lambda i: (1 + i) ** -0.5,
    "fast": lambda i: (1.0 + i) ** -1,
    "exponential": lambda i: np.exp(-8 * i / len(i)),
    "few": lambda i: np.where(i < 5, 1.0, 0.0),
}


def matrix(spectrum: str, size: int, seed: int) -> FloatArray:
    """Square, float32, with singular values of a named kind."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    return np.asarray((left * SPECTRA[spectrum](np.arange(size))) @ right, np.float32)


@pytest.mark.parametrize("spectrum", SPECTRA)
@settings(max_examples=25, deadline=None)
@given(size=st.integers(24, 120), share=st.floats(0.02, 0.5), seed=st.integers(0, 2**32 - 1))
def test_the_span_is_near_the_best(spectrum: str, size: int, share: float, seed: int) -> None:
    weight = matrix(spectrum, size, seed)
    count = max(int(share * size), 1)
    energy, basis = leading_axes(weight @ weight.T, count)
    total = float(np.square(weight, dtype=np.float64).sum())
    # Inner products are below 1e-4 before the projection turns the vectors, which adds some of them up.
    np.testing.assert_allclose(basis.T @ basis, np.eye(count), atol=4e-4)
    exact = np.linalg.svd(weight.astype(np.float64), compute_uv=False) ** 2
    for rank in {count, (count + 1) // 2}:
        left = basis[:, :rank].astype(np.float64)
        error = np.square(weight - left @ (left.T @ weight)).sum()
        assert total - energy[:rank].sum(dtype=np.float64) == pytest.approx(error, abs=1e-4 * total)
        assert error <= 1.25 * exact[rank:].sum() + 1e-5 * total


def test_equal_input_gives_equal_axes() -> None:
    weight = matrix("slow", 60, 1)
    first, second = (leading_axes(weight @ weight.T, 20) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])


def test_directions_that_nothing_lies_in_do_no_harm() -> None:
    weight = matrix("slow", 40, 2)
    weight[10:] = 0
    energy, basis = leading_axes(weight @ weight.T, 20)
    assert np.isfinite(basis).all()
    np.testing.assert_allclose(basis.T @ basis, np.eye(20), atol=1e-4)
    assert energy.sum() == pytest.approx(np.square(weight).sum(), rel=1e-5)


def test_axes_of_a_matrix_worked_on_in_parts() -> None:
    weight = matrix("slow", 1100, 3)
    energy, basis = leading_axes(weight @ weight.T, 500)
    np.testing.assert_allclose(basis.T @ basis, np.eye(500), atol=1e-4)
    error = np.square(weight - basis @ (basis.T @ weight), dtype=np.float64).sum()
    exact = (np.square(SPECTRA["slow"](np.arange(1100)))[500:]).sum()
    assert exact <= error <= 1.1 * exact
    assert np.square(weight, dtype=np.float64).sum() - energy.sum(dtype=np.float64) == pytest.approx(error, rel=1e-3)
