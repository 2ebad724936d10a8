"""Sums over patches that come in parts."""

from __future__ import annotations

import numpy as np
import pytest

from edge_dac.statistics.patch_sums import MomentsSum, ProbedSum


def _rows(count: int) -> np.ndarray:
    return (1000.0 + np.random.default_rng(0).normal(size=(count, 2, 7))).astype(np.float32)


@pytest.mark.parametrize("block", [3, 7, 100])
def test_parts_add_up_and_a_large_mean_costs_no_precision(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_dac.statistics.patch_sums._BLOCK", block)
    rows = _rows(3000)
    sums = MomentsSum()
    for part in np.array_split(rows, 7):
        sums.add(part.copy())
    moments = sums.moments()
    assert moments is not None
    for group in range(2):
        expected = np.cov(rows[:, group].astype(np.float64).T, bias=True)
        np.testing.assert_allclose(moments.covariance[group], expected, atol=1e-4)
    np.testing.assert_allclose(moments.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-6)


def test_nothing_added_has_no_moments() -> None:
    assert MomentsSum().moments() is None
    assert ProbedSum(4, 0).moments() is None


def test_probes_have_the_covariance_of_the_patches_whatever_their_mean() -> None:
    rows = _rows(3000)
    sums = ProbedSum(20_000, seed=1)
    for part in np.array_split(rows, 7):
        sums.add(part.copy())
    moments = sums.moments()
    assert moments is not None
    for group in range(2):
        expected = np.cov(rows[:, group].astype(np.float64).T, bias=True)
        np.testing.assert_allclose(moments.probes[group] @ moments.probes[group].T, expected, atol=0.05)
    np.testing.assert_allclose(moments.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-6)


def test_a_number_that_is_not_finite_leaves_no_moments() -> None:
    rows = _rows(10)
    rows[3, 0, 2] = np.inf
    for sums in (MomentsSum(), ProbedSum(4, 0)):
        with np.errstate(all="ignore"):
            sums.add(rows.copy())
            assert sums.moments() is None
