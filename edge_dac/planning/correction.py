"""From predicted latency ratios to measured ones and back, learned from the plans that were measured.

Predictions add up layers; a whole model runs a little faster or slower than that (layout changes, caches). The relation is
nearly a straight line near a target, so it is interpolated between the two measured plans that enclose it (regula falsi), and
every measurement narrows the bracket. One measurement that the device's noise has bent cannot throw the search far off:
where a plan that was predicted faster measured slower than another, the two stand for their mean (pool adjacent violators;
Ayer et al., Ann. Math. Statist. 26, 1955). Without that, plans that missed a target in the wrong order had the same target
aimed at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LEAST_GAIN, MOST_GAIN = 0.4, 1.5
"""Share of a predicted saving that may arrive where nothing was measured beyond; what lies outside is noise."""

LEAST_SAVING = 0.02
"""Plans nearer to the original say nothing about the share that arrives."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A plan's latency relative to the original: as predicted from its layers, and as measured."""

    predicted: float
    measured: float


UNTOUCHED = Observation(1.0, 1.0)


@dataclass(eq=False)
class LatencyCorrection:
    """What measured plans say about predictions."""

    _observed: list[Observation] = field(default_factory=list)

    def observe(self, predicted: float, measured: float) -> None:
        """Learn from a measured plan; one of the same prediction is replaced."""
        self._observed = [o for o in self._observed if o.predicted != predicted]
        if predicted < 1.0 - LEAST_SAVING:
            self._observed.append(Observation(predicted, min(measured, 1.0)))

    def measured_for(self, predicted: float) -> float:
        """What a plan of this prediction is expected to measure."""
        slower = min((o for o in self._points() if o.predicted >= predicted), key=lambda o: o.predicted, default=None)
        faster = max((o for o in self._points() if o.predicted < predicted), key=lambda o: o.predicted, default=None)
        if slower is None:
            return predicted
        if faster is None:
            return min(slower.measured, 1.0 - _gain(slower) * (1.0 - predicted))
        share = (predicted - faster.predicted) / (slower.predicted - faster.predicted)
        return faster.measured + share * (slower.measured - faster.measured)

    def predicted_for(self, measured: float) -> float:
        """The prediction whose plan is expected to measure this."""
        slower = min((o for o in self._points() if o.measured >= measured), key=lambda o: o.measured, default=None)
        faster = max((o for o in self._points() if o.measured < measured), key=lambda o: o.measured, default=None)
        if slower is None:
            return measured
        if faster is None:
            return min(slower.predicted, 1.0 - (1.0 - measured) / _gain(slower))
        share = (measured - faster.measured) / (slower.measured - faster.measured)
        return faster.predicted + share * (slower.predicted - faster.predicted)

    def _points(self) -> list[Observation]:
        """What was observed, so that measured ratios rise with predicted ones."""
        groups: list[list[Observation]] = []
        for observation in sorted(self._observed, key=lambda o: o.predicted):
            group = [observation]
            while groups and _mean(groups[-1]).measured >= _mean(group).measured:
                group = groups.pop() + group
            groups.append(group)
        return [UNTOUCHED, *map(_mean, groups)]


def _mean(group: Sequence[Observation]) -> Observation:
    count = len(group)
    return Observation(sum(o.predicted for o in group) / count, sum(o.measured for o in group) / count)


def _gain(observation: Observation) -> float:
    """Share of the predicted saving that arrived, within what is plausible; 1 where nothing was saved."""
    if observation.predicted > 1.0 - LEAST_SAVING:
        return 1.0
    gain = (1.0 - observation.measured) / (1.0 - observation.predicted)
    return min(max(gain, LEAST_GAIN), MOST_GAIN)
