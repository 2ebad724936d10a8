"""Sums over input patches, taken in any number of parts, that the moments of one layer are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edge_dac.convolution import FloatArray
from edge_dac.schemes.scheme import Moments, ProbedMoments

ROWS_AT_ONCE = 512
_BLOCK = 768


class PatchSum(ABC):
    """Collects patches and folds many of them at once: few large products are faster than many small ones."""

    def __init__(self) -> None:
        self._pending: list[FloatArray] = []
        self._count = 0
        self._shift: FloatArray | None = None
        self._first: npt.NDArray[np.float64] = np.zeros(0)

    def add(self, patches: FloatArray) -> None:
        """Add ``[count, groups, d]`` float32 patches, which are used up."""
        if not len(patches):
            return
        self._pending.append(patches)
        if sum(map(len, self._pending)) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        patches = np.concatenate(self._pending) if len(self._pending) > 1 else self._pending[0]
        self._pending.clear()
        if self._shift is None:
            # Centred near the mean, sums of squares lose nothing to cancellation in float32.
            self._shift = patches.mean(axis=0, dtype=np.float64).astype(np.float32)
            self._first = np.zeros(self._shift.shape)
            self._start(*self._shift.shape)
        patches -= self._shift
        self._count += len(patches)
        self._first += patches.sum(axis=0, dtype=np.float64)
        self._fold(patches)

    def _finish(self) -> tuple[FloatArray, FloatArray] | None:
        """Mean ``[groups, d]`` and its distance from where the sums are centred; None if nothing was added."""
        self._flush()
        if self._shift is None:
            return None
        offset = self._first / self._count
        return (self._shift + offset).astype(np.float32), offset.astype(np.float32)

    @abstractmethod
    def _start(self, groups: int, length: int) -> None:
        """Make room for patches ``[*, groups, length]``."""

    @abstractmethod
    def _fold(self, patches: FloatArray) -> None:
        """Fold centred patches ``[count, groups, d]`` into the sums."""


class MomentsSum(PatchSum):
    """Sums of the mean and the whole covariance."""

    _second: FloatArray

    def _start(self, groups: int, length: int) -> None:
        self._second = np.zeros((groups, length, length), dtype=np.float32)

    def _fold(self, patches: FloatArray) -> None:
        for group, total in enumerate(self._second):
            rows = patches[:, group]
            for begin, end in _blocks(len(total)):
                total[begin:end, :end] += rows[:, begin:end].T @ rows[:, :end]

    def moments(self) -> Moments | None:
        """Moments of everything added, the sums being used up; None if a number was not finite or there is none."""
        finished = self._finish()
        if finished is None:
            return None
        mean, offset = finished
        covariance = self._second
        del self._second
        for matrix, row in zip(covariance, offset, strict=True):
            for begin, end in _blocks(len(matrix)):
                matrix[begin:end, :end] /= np.float32(self._count)
                matrix[begin:end, :end] -= np.outer(row[begin:end], row[:end])
                matrix[:begin, begin:end] = matrix[begin:end, :begin].T
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            return None
        return Moments(mean, covariance, self._count)


class ProbedSum(PatchSum):
    """Sums of the mean and of Gaussian combinations of the patches, whose second moments are the covariance.

    With ``G ~ N(0, 1)``, ``X^T G / sqrt(n)`` has columns of covariance ``X^T X / n``: as good as ``L G`` with a root ``L`` of
    the covariance, without ever forming either (512 channels of 3x3: 5 MB instead of 85 MB, and no Cholesky).

    Args:
        probes: number of combinations.
        seed: of the combinations.
    """

    def __init__(self, probes: int, seed: int) -> None:
        super().__init__()
        self._probes = probes
        self._rng = np.random.default_rng(seed)

    def _start(self, groups: int, length: int) -> None:
        self._mixed = np.zeros((groups, length, self._probes), dtype=np.float32)
        self._weights = np.zeros(self._probes)

    def _fold(self, patches: FloatArray) -> None:
        mixing = self._rng.standard_normal((len(patches), self._probes), dtype=np.float32)
        self._weights += mixing.sum(axis=0, dtype=np.float64)
        self._mixed += patches.transpose(1, 2, 0) @ mixing

    def moments(self) -> ProbedMoments | None:
        """Moments of everything added; None if a number was not finite or there is none."""
        finished = self._finish()
        if finished is None:
            return None
        mean, offset = finished
        centred = self._mixed - offset[..., None] * self._weights.astype(np.float32)
        centred /= np.float32(np.sqrt(self._count * self._probes))
        if not (np.isfinite(mean).all() and np.isfinite(centred).all()):
            return None
        return ProbedMoments(mean, centred, np.zeros(len(mean)))


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Block rows of a symmetric matrix: half the products, and no second matrix of its size in between."""
    for begin in range(0, length, _BLOCK):
        yield begin, min(begin + _BLOCK, length)
