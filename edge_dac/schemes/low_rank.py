"""Best low-rank approximation of a stack of matrices at all ranks, from one eigendecomposition of the small side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_dac.convolution import FloatArray


@dataclass(frozen=True, eq=False)
class LowRank:
    """``M ~ left[..., :r] @ right[..., :r, :]``, the best of rank ``r`` for every ``r``, and exact at the last.

    Attributes:
        left: ``[..., p, full]``.
        right: ``[..., full, q]``.
        energy: ``[..., full]``, squared singular values, largest first.
    """

    left: FloatArray
    right: FloatArray
    energy: FloatArray

    def astype(self, dtype: npt.DTypeLike) -> LowRank:
        """The factors in another precision; the energies as they are."""
        return LowRank(self.left.astype(dtype), self.right.astype(dtype), self.energy)

    def tail(self, rank: int) -> float:
        """Squared error at ``rank``: the energy that is left out (Eckart & Young, Psychometrika 1, 1936)."""
        return float(self.energy[..., rank:].sum())


def low_rank(matrices: FloatArray, metric: FloatArray | None = None, taps: FloatArray | None = None) -> LowRank:
    """Minimise ``tr((M - A B)^T S (M - A B))`` over ``A [p, r]`` and ``B [r, q]``, for every ``r`` at once.

    With ``S = L L^T`` this is the truncated SVD of ``L^T M`` (Eckart-Young), which the eigenvectors of the smaller Gram
    matrix give without forming it:

    * ``q <= p``: ``V`` of ``M^T S M``; ``A = M V``, ``B = V^T``. No root of ``S`` is needed.
    * ``p < q``: ``U`` of ``L^T M M^T L``; ``A = L^-T U``, ``B = U^T L^T M``.

    Each is a projection, so that the full rank is exact to rounding although a Gram matrix squares the condition.
    Signs are fixed: the largest entry of every eigenvector is positive.

    Args:
        matrices: ``M``, ``[..., p, q]``.
        metric: ``S``, ``[..., p, p]``, symmetric positive definite; the identity where None.
        taps: ``T``, ``[..., s, s]``, a second metric, for the columns: the error is ``tr(E^T S E (I x T))``, where the
            last ``s`` columns at a time go together. The identity where None.
    """
    if taps is not None:
        root = np.linalg.cholesky(taps)
        low = low_rank(_each_block(matrices, root), metric)
        return LowRank(low.left, _each_block(low.right, np.linalg.inv(root)), low.energy)
    rows, columns = matrices.shape[-2:]
    transposed = np.swapaxes(matrices, -1, -2)
    if columns <= rows:
        weighted = matrices if metric is None else metric @ matrices
        energy, basis = principal_axes(transposed @ weighted)
        return LowRank(matrices @ basis, np.swapaxes(basis, -1, -2), energy)
    if metric is None:
        energy, basis = principal_axes(matrices @ transposed)
        return LowRank(basis, np.swapaxes(basis, -1, -2) @ matrices, energy)
    root = np.swapaxes(np.linalg.cholesky(metric), -1, -2)
    whitened = root @ matrices
    energy, basis = principal_axes(whitened @ np.swapaxes(whitened, -1, -2))
    return LowRank(np.linalg.solve(root, basis), np.swapaxes(basis, -1, -2) @ whitened, energy)


def principal_axes(gram: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues (largest first, not negative) and eigenvectors (columns, signs fixed), in the precision of ``gram``."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[..., ::-1], vectors[..., ::-1]
    largest = np.argmax(np.abs(vectors), axis=-2, keepdims=True)
    signs = np.where(np.take_along_axis(vectors, largest, axis=-2) < 0, -1, 1).astype(vectors.dtype)
    return np.maximum(values, 0.0), vectors * signs


def _each_block(matrices: FloatArray, factor: FloatArray) -> FloatArray:
    """``[..., q]`` times ``I x factor``, with ``factor [..., s, s]`` for every ``s`` columns."""
    size = factor.shape[-1]
    blocks = matrices.reshape(*matrices.shape[:-1], -1, size) @ factor[..., None, :, :]
    return blocks.reshape(matrices.shape)
