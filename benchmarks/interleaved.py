"""Timing of several things side by side, on a machine that is shared, noisy or throttling.

Every round runs each of them once, in an order that rotates; what is reported is the ratio to the first of the round,
so that a slow second slows all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one callable and its ratio to the first one of the run.

    Attributes:
        median_ms: median over the rounds.
        ratio: median of this callable's time divided by the first one's in the same round.
        ratio_low, ratio_high: quartiles of that ratio.
        rounds: how many rounds were counted.
    """

    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


def time_interleaved(
    callables: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warmup: int = 3,
    limit_s: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time ``callables`` in turn; the first is what the others are compared to.

    Args:
        rounds: most rounds to count.
        warmup: rounds that are run and not counted.
        limit_s: no new round begins after this time, once five are counted.
        clock: seconds. ``time.process_time`` suits work of one thread in this process: it leaves out the time in which
            the machine did something else, which falls more often on long runs than on short ones.
    """
    names = list(callables)
    times_ms: list[list[float]] = []
    begin = time.perf_counter()
    for turn in range(warmup + rounds):
        if len(times_ms) >= 5 and time.perf_counter() - begin > limit_s:
            break
        shift = turn % len(names)
        elapsed = {name: _elapsed_ms(callables[name], clock) for name in names[shift:] + names[:shift]}
        if turn >= warmup:
            times_ms.append([elapsed[name] for name in names])
    table = np.array(times_ms)
    ratios = table / table[:, :1]
    low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
    medians = np.median(table, axis=0)
    return {
        name: Timing(float(medians[i]), float(middle[i]), float(low[i]), float(high[i]), len(table))
        for i, name in enumerate(names)
    }


def _elapsed_ms(run: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    run()
    return (clock() - begin) * 1e3
