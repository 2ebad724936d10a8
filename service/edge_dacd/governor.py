"""Chooses the operating point while serving. Pure decisions: the clock and the readings are handed in.

The promise is a percentile of the service time (queue and compute). The governor looks at a sliding window of requests:

* **Down** (faster, less exact): the percentile is over the budget for long enough.
  It goes straight to the most exact point that is predicted to hold the budget, from the ratio of the measured
  latencies of the points; if none is, to the fastest.
* **Up** (more exact): only after a quiet time, one that doubles each time a climb had to be taken back, and only to a
  point that is predicted to hold the budget with room to spare. It goes one point at a time.

What keeps it from flapping: a dwell time after each change, evidence gathered after the change only, a gap between the
two thresholds, and the growing quiet time. Temperature and throttle flags never make it move by themselves (the service
time tells what they cost), but no climb is tried while the device is throttled or short of memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_dac.device.sensors import SensorReading


@dataclass(frozen=True, slots=True)
class Rung:
    """One operating point as the governor sees it. ``latency_ms``: measured, of compute alone, in quiet conditions."""

    id: str
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class GovernorSettings:
    """Times in seconds, the rest as shares of the budget.

    Attributes:
        window_s: requests that are looked at; older ones too, where there are fewer than ``least_requests``.
        oldest_s: requests before that say nothing any more.
        least_requests: fewer than this say nothing about a percentile.
        patience_s: how long the percentile must be over the budget before a step down.
        dwell_s: least time between two changes.
        quiet_s: how long the budget must have been held before the first climb; longest after many in vain.
        tolerance: over the budget by less than this is still held: no measurement is exact.
        climb_room: a climb must be predicted to need at most this share of the budget.
        forgive_s: a climb that lasted so long was not in vain.
    """

    window_s: float = 10.0
    oldest_s: float = 60.0
    least_requests: int = 20
    patience_s: float = 2.0
    dwell_s: float = 5.0
    quiet_s: float = 60.0
    longest_quiet_s: float = 3600.0
    tolerance: float = 0.05
    climb_room: float = 0.85
    forgive_s: float = 600.0
    least_memory_bytes: int = 32 << 20


@dataclass(frozen=True, slots=True)
class Decision:
    """A change of the operating point and why."""

    from_point: str
    to_point: str
    reason: str


@dataclass(slots=True)
class _Sample:
    time_s: float
    service_ms: float
    compute_ms: float


@dataclass(slots=True)
class Governor:
    """Decides for one model. Feed every request to :meth:`observe` and call :meth:`decide` about once a second.

    Attributes:
        budget_ms: what ``percentile`` of the service time shall not exceed.
        rungs: the ladder, most exact first; at least one.
        active: id of the point that computes now.
    """

    budget_ms: float
    percentile: float
    rungs: Sequence[Rung]
    active: str
    settings: GovernorSettings = field(default_factory=GovernorSettings)
    _samples: deque[_Sample] = field(default_factory=lambda: deque(maxlen=4096))
    _changed_s: float = -math.inf
    _over_since_s: float | None = None
    _held_since_s: float | None = None
    _climbed_s: float | None = None
    _quiet_s: float = 0.0

    def __post_init__(self) -> None:
        self._quiet_s = self.settings.quiet_s

    def observe(self, now_s: float, queue_ms: float, compute_ms: float, point_id: str) -> None:
        """One answered request. Those of another point, or with times that cannot be, are left out."""
        service_ms = queue_ms + compute_ms
        if point_id == self.active and math.isfinite(service_ms) and service_ms >= 0:
            self._samples.append(_Sample(now_s, service_ms, compute_ms))

    def switched(self, now_s: float, point_id: str) -> None:
        """The active point has changed, by a decision or by an operator: old evidence says nothing about it."""
        self.active = point_id
        self._samples.clear()
        self._changed_s = now_s
        self._over_since_s = self._held_since_s = None

    def service_ms(self, now_s: float) -> float | None:
        """The percentile of the service time in the window; None if there are too few requests."""
        return self._percentile([sample.service_ms for sample in self._window(now_s)])

    def decide(self, now_s: float, reading: SensorReading) -> Decision | None:
        """The change to make now, if any. The caller makes it and calls :meth:`switched`."""
        index = self._index()
        if index is None:
            return None
        short = self._memory_short(reading)
        measured_ms = self.service_ms(now_s)
        self._track(now_s, measured_ms)
        if now_s - self._changed_s < self.settings.dwell_s:
            return None
        if measured_ms is None:
            return None
        if self._over_since_s is not None:
            if now_s - self._over_since_s >= self.settings.patience_s:
                return self._down(now_s, index, measured_ms)
            return None
        if short or reading.throttled:
            return None
        return self._up(now_s, index, measured_ms)

    # Evidence.

    def _window(self, now_s: float) -> list[_Sample]:
        settings, samples = self.settings, self._samples
        while samples and (
            now_s - samples[0].time_s > settings.oldest_s
            or (now_s - samples[0].time_s > settings.window_s and len(samples) > settings.least_requests)
        ):
            samples.popleft()
        return list(samples)

    def _percentile(self, values: list[float]) -> float | None:
        if len(values) < self.settings.least_requests:
            return None
        values.sort()
        return values[min(len(values) - 1, math.ceil(self.percentile / 100 * len(values)) - 1)]

    def _track(self, now_s: float, measured_ms: float | None) -> None:
        """Since when the budget has been missed or held. Silence is neither."""
        if measured_ms is None:
            self._over_since_s = None
        elif measured_ms > self.budget_ms * (1 + self.settings.tolerance):
            self._held_since_s = None
            if self._over_since_s is None:
                self._over_since_s = now_s
        else:
            self._over_since_s = None
            if self._held_since_s is None:
                self._held_since_s = now_s
            if self._climbed_s is not None and now_s - self._climbed_s >= self.settings.forgive_s:
                self._climbed_s, self._quiet_s = None, self.settings.quiet_s

    def _index(self) -> int | None:
        return next((index for index, rung in enumerate(self.rungs) if rung.id == self.active), None)

    def _memory_short(self, reading: SensorReading) -> bool:
        available = reading.available_memory_bytes
        return available is not None and 0 <= available < self.settings.least_memory_bytes

    # Moves.

    def _predicted_ms(self, measured_ms: float, here: int, there: int) -> float | None:
        """Service time on another rung, if it scales as the measured latencies do."""
        from_ms, to_ms = self.rungs[here].latency_ms, self.rungs[there].latency_ms
        return measured_ms * to_ms / from_ms if from_ms and to_ms else None

    def _down(self, now_s: float, index: int, measured_ms: float) -> Decision | None:
        if index == len(self.rungs) - 1:
            return None
        target = len(self.rungs) - 1
        for candidate in range(index + 1, len(self.rungs)):
            predicted_ms = self._predicted_ms(measured_ms, index, candidate)
            if predicted_ms is None or predicted_ms <= self.budget_ms:
                target = candidate
                break
        if self._climbed_s is not None and now_s - self._climbed_s < self.settings.forgive_s:
            self._quiet_s = min(2 * self._quiet_s, self.settings.longest_quiet_s)
            self._climbed_s = None
        return self._move(index, target, f"{self._shown(measured_ms)} is over the budget of {self.budget_ms:.2f} ms")

    def _up(self, now_s: float, index: int, measured_ms: float) -> Decision | None:
        if index == 0 or self._held_since_s is None or now_s - self._held_since_s < self._quiet_s:
            return None
        predicted_ms = self._predicted_ms(measured_ms, index, index - 1)
        if predicted_ms is None or self._crowded(predicted_ms, measured_ms, now_s):
            return None
        if predicted_ms > self.budget_ms * self.settings.climb_room:
            return None
        self._climbed_s = now_s
        reason = f"{self._shown(measured_ms)}, and {predicted_ms:.2f} ms expected there, leave room in the budget of "
        return self._move(index, index - 1, f"{reason}{self.budget_ms:.2f} ms")

    def _crowded(self, predicted_ms: float, measured_ms: float, now_s: float) -> bool:
        """Whether the slower point would be busy most of the time: then queues grow faster than latencies do."""
        samples = self._window(now_s)
        span_ms = 1e3 * max(samples[-1].time_s - samples[0].time_s, 1e-3)
        busy = sum(sample.compute_ms for sample in samples) / span_ms
        return busy * predicted_ms / max(measured_ms, 1e-9) > self.settings.climb_room

    def _move(self, index: int, target: int, reason: str) -> Decision:
        return Decision(self.rungs[index].id, self.rungs[target].id, reason)

    def _shown(self, measured_ms: float) -> str:
        return f"p{self.percentile:g} of the service time, {measured_ms:.2f} ms,"
