"""How much of a map's range its 8-bit grid can do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[np.float32]
Pointwise: TypeAlias = Callable[[Values], Values]

BEARABLE_STEPS = 0.5
"""What cutting off may cost behind the function, in steps of a grid there: no more than rounding to it does."""

_POINTS = 4096


def range_that_counts(low: float, high: float, follow: Pointwise) -> tuple[float, float]:
    """The part of ``low`` to ``high`` outside which ``follow`` hardly changes, so that values there may be cut off.

    ``x sigmoid(x)`` is nearly 0 for everything far below zero, and often half of the range lies there.

    Args:
        low, high: the least and the largest value of the map.
        follow: what becomes of the map, value by value.
    """
    if not low < high:
        return low, high
    points = np.linspace(low, high, _POINTS, dtype=np.float32)
    after = follow(points).astype(np.float64)
    bearable = BEARABLE_STEPS * float(np.ptp(after)) / 255
    begin, end = _flat(after, bearable), _flat(after[::-1], bearable)
    return float(min(points[begin], max(low, 0.0))), float(max(points[::-1][end], min(high, 0.0)))


def _flat(after: npt.NDArray[np.float64], bearable: float) -> int:
    """Index of the last value that stands for all before it."""
    spread = np.maximum(np.maximum.accumulate(after) - after, after - np.minimum.accumulate(after))
    failing = spread > bearable
    return max(int(np.argmax(failing)) - 1, 0) if failing.any() else 0
