from __future__ import annotations

import numpy as np
import pytest

from edge_dac.schemes.low_rank import low_rank


@pytest.mark.parametrize(("rows", "columns"), [(9, 4), (4, 9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_truncation_is_that_of_the_whitened_svd(rows: int, columns: int, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    matrices = rng.standard_normal((3, rows, columns))
    roots = rng.standard_normal((3, rows, rows)) if weighted else np.broadcast_to(np.eye(rows), (3, rows, rows))
    low = low_rank(matrices, roots @ roots.swapaxes(1, 2) if weighted else None)
    values = np.linalg.svd(roots.swapaxes(1, 2) @ matrices, compute_uv=False)
    np.testing.assert_allclose(low.energy, np.square(values), rtol=1e-9)
    for rank in range(1, 5):
        error = roots.swapaxes(1, 2) @ (matrices - low.left[..., :rank] @ low.right[..., :rank, :])
        assert np.square(error).sum() == pytest.approx(low.tail(rank), rel=1e-9, abs=1e-20)


def test_the_largest_entry_of_every_axis_is_positive() -> None:
    low = low_rank(-np.ones((2, 3)) - np.eye(2, 3))
    assert (low.left[np.abs(low.left).argmax(axis=0), [0, 1]] > 0).all()


def test_a_metric_on_both_sides_is_a_kronecker_metric() -> None:
    rng = np.random.default_rng(3)
    matrices, row_root, tap_root = rng.standard_normal((5, 6)), rng.standard_normal((5, 5)), rng.standard_normal((3, 3))
    low = low_rank(matrices, row_root @ row_root.T, tap_root @ tap_root.T)
    both = np.kron(np.eye(2), tap_root)
    np.testing.assert_allclose(
        low.energy, np.square(np.linalg.svd(row_root.T @ matrices @ both, compute_uv=False)), rtol=1e-9
    )
    error = row_root.T @ (matrices - low.left[:, :2] @ low.right[:2]) @ both
    assert np.square(error).sum() == pytest.approx(low.tail(2))
    np.testing.assert_allclose(low.left @ low.right, matrices, atol=1e-10)
