"""Rounding weights to a grid so that the layer's output, not the weights, moves least."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_dac.convolution import FloatArray

_COLUMNS_AT_ONCE = 64

_TOGETHER = 1152
"""Weights of a row that make up for each other: of more, the Cholesky factor takes time and memory and brings nothing."""


def nearest_on_grid(weight: FloatArray, steps: FloatArray, most: int) -> npt.NDArray[np.int8]:
    """Every weight by itself.

    Args:
        weight: ``[g, n, d]``.
        steps: ``[g, n]``, of each output channel's grid.
        most: largest magnitude of an integer.
    """
    integers = np.empty_like(weight, np.int8)
    for row in np.ndindex(weight.shape[:2]):  # one at a time: a weight can be very large
        integers[row] = np.clip(np.round(weight[row] / steps[row]), -most, most)
    return integers


def round_in_metric(weight: FloatArray, metric: FloatArray, steps: FloatArray, most: int) -> npt.NDArray[np.int8]:
    """Integers ``Q`` for which ``tr((W - t Q) S (W - t Q)^T)`` is small, ``t`` the steps: what one weight loses, the
    weights that are still to be rounded make up for.

    Babai's nearest plane (Combinatorica 6, 1986) in the lattice of the grid: with ``S = L L^T`` the error of a row is
    ``sum_j (sum_{i >= j} L_ij e_i)^2``, so that from the last weight to the first each can bring its own term below half a
    step times ``L_jj``. The same as GPTQ (Frantar et al., arXiv 2210.17323), without the inverse of ``S``. Rounding the
    weights of inputs that vary most first would lose a tenth less.

    Args:
        weight: ``W [g, n, d]``.
        metric: ``S [g, d, d]``, positive definite; of long rows only blocks along the diagonal count.
        steps: ``[g, n]``, of each output channel's grid.
        most: largest magnitude of an integer.
    """
    size = weight.shape[2]
    blocks = [slice(begin, begin + _TOGETHER) for begin in range(0, size, _TOGETHER)]
    found = [_round_together(weight[..., block], metric[:, block, block], steps, most) for block in blocks]
    return np.concatenate(found, axis=2)


def _round_together(weight: FloatArray, metric: FloatArray, steps: FloatArray, most: int) -> npt.NDArray[np.int8]:
    factor = np.linalg.cholesky(metric)
    wanted, grid = weight.astype(factor.dtype), steps.astype(factor.dtype)
    errors, found = np.zeros_like(wanted), np.zeros(wanted.shape, np.int8)
    for end in range(wanted.shape[2], 0, -_COLUMNS_AT_ONCE):
        begin = max(end - _COLUMNS_AT_ONCE, 0)
        owed = errors[..., end:] @ factor[:, end:, begin:end]
        for column in range(end - 1, begin - 1, -1):
            later = slice(column + 1, end)
            lost = owed[..., column - begin] + (errors[..., later] @ factor[:, later, column, None])[..., 0]
            target = wanted[..., column] + lost / factor[:, column, column, None]
            integers = np.clip(np.round(target / grid), -most, most)
            errors[..., column] = wanted[..., column] - integers * grid
            found[..., column] = integers
    return found
