"""Exact least squares for the last factor, given the features that the first one computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_dac.convolution import FloatArray


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """``(F^T S F) X = F^T S W^T`` for features ``F [d, q]``: ``X [q, n]`` minimises the output error of ``X^T F^T``.

    Features are ordered rank by rank, so that the equations of a smaller rank are a leading block.

    Attributes:
        gram: ``F^T S F``, ``[g, q, q]``.
        cross: ``F^T S W^T``, ``[g, q, n]``.
    """

    gram: FloatArray
    cross: FloatArray

    def refine(self, start: FloatArray) -> FloatArray:
        """The exact solution for the first features, as a correction of ``start [g, q', n]`` with ``q' <= q``.

        Solving for the correction keeps what is already exact in ``start``. Features are scaled to one length, and a
        ridge at the level of rounding stands in for those that vanish (dead channels) or depend on others.
        """
        used = start.shape[1]
        gram = self.gram[:, :used, :used]
        residual = self.cross[:, :used] - gram @ start
        diagonal = np.arange(used)
        lengths = np.sqrt(np.maximum(gram[:, diagonal, diagonal], 0))[..., None]
        scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        scaled = gram * scale * scale.swapaxes(1, 2)
        scaled[:, diagonal, diagonal] = 1 + 10 * np.finfo(gram.dtype).eps
        refined: FloatArray = start + scale * np.linalg.solve(scaled, scale * residual)
        return refined
