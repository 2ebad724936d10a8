"""The matrices of Winograd's minimal filtering, by the Cook-Toom construction.

``F(m, k)`` computes ``m`` outputs of a filter of length ``k`` with ``s = m + k - 1`` products instead of ``m k``:
``y = A^T [(G g) * (B^T d)]`` (Lavin and Gray, CVPR 2016, equation 6). The products are values of polynomials at
``s - 1`` points and at infinity. The construction runs in exact fractions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from edge_dac.convolution import FloatArray

# The order matters: F(s) takes the first s - 1. Small points and their reciprocals keep the matrices well conditioned.
_POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))
LARGEST_SIZE = len(_POINTS) + 1


@dataclass(frozen=True, eq=False)
class Transform:
    """Matrices along one axis, float64. An axis whose kernel extent is 1 has size 1 and ones.

    Attributes:
        output: ``A^T`` ``[tile, size]``.
        kernel: ``G`` ``[size, kernel extent]``.
        input: ``B^T`` ``[size, size]``.
    """

    output: FloatArray
    kernel: FloatArray
    input: FloatArray

    @property
    def tile(self) -> int:
        """Outputs of one tile: ``m``."""
        return int(self.output.shape[0])

    @property
    def size(self) -> int:
        """Products of one tile: ``s``."""
        return int(self.output.shape[1])


@functools.cache
def cook_toom(size: int, extent: int) -> Transform:
    """The transform with ``size`` products for a kernel of this ``extent``: ``F(size - extent + 1, extent)``."""
    if extent == 1:
        return Transform(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    tile = size - extent + 1
    points = [Fraction(point) for point in _POINTS[: size - 1]]
    output = [[point**power for point in points] + [Fraction(power == tile - 1)] for power in range(tile)]
    kernel, data = [], []
    for index, point in enumerate(points):
        others = points[:index] + points[index + 1 :]
        norm = Fraction(1)
        for other in others:
            norm *= point - other
        kernel.append([point**power / norm for power in range(extent)])
        data.append([*_polynomial(others), Fraction(0)])
    kernel.append([Fraction(power == extent - 1) for power in range(extent)])
    data.append(_polynomial(points))
    return _balanced(*(np.array(rows, dtype=np.float64) for rows in (output, kernel, data)))


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of ``prod (x - root)``, constant term first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _balanced(output: FloatArray, kernel: FloatArray, data: FloatArray) -> Transform:
    """Move powers of two between the three factors of each product until they are of like size: less rounding error."""
    magnitudes = np.stack([np.abs(output).sum(0), np.abs(kernel).sum(1), np.abs(data).sum(1)])
    target = np.cbrt(magnitudes.prod(0))
    output_scale = np.exp2(np.round(np.log2(target / magnitudes[0])))
    data_scale = np.exp2(np.round(np.log2(target / magnitudes[2])))
    return Transform(output * output_scale, kernel / (output_scale * data_scale)[:, None], data * data_scale[:, None])
