"""Notices that a device has become another than the one that was measured: a new power mode, a clogged fan.

Pure: the clock is handed in. Every minute with enough requests is compared with what was measured when the plan was
made. After many minutes in a row that differ the same way, measuring again is worth it, but only when little is asked of
the device, and not often.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

_MOST_SAMPLES = 4096
"""For the median of a minute: small models answer more than a hundred thousand requests in one."""


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """
    Attributes:
        ratio: a minute differs if its median is more than this factor above or below the measured latency.
        minutes: that must differ in a row.
        least_requests: in a minute, for it to count.
        quiet_share: of a minute that may be spent computing when measuring begins.
        pause_s: between two measurements.
    """

    ratio: float = 1.3
    minutes: int = 10
    least_requests: int = 5
    quiet_share: float = 0.5
    pause_s: float = 6 * 3600.0


@dataclass(slots=True)
class DriftWatch:
    """Watches one model on one operating point after another.

    Attributes:
        point: id of the operating point that the requests belong to.
        expected_ms: its measured latency; None where unknown, and then nothing is ever noticed.
    """

    point: str = ""
    expected_ms: float | None = None
    settings: DriftSettings = field(default_factory=DriftSettings)
    _minute: int = -1
    _busy_ms: float = 0.0
    _compute_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    """The latest runs of the minute."""
    _direction: int = 0
    _streak: int = 0
    _last_ms: float = 0.0
    _fired_s: float = -math.inf

    def follow(self, point: str, expected_ms: float | None) -> None:
        """Requests from now on belong to this point; what was seen on another one is forgotten."""
        if (point, expected_ms) != (self.point, self.expected_ms):
            self.point, self.expected_ms = point, expected_ms
            self._forget()
            self._direction = self._streak = 0

    def observe(self, compute_ms: float, point: str) -> None:
        """One run of the model."""
        if point == self.point and math.isfinite(compute_ms) and compute_ms > 0:
            self._compute_ms.append(compute_ms)
            self._busy_ms += compute_ms

    def check(self, now_s: float) -> str | None:
        """Why to measure again now; None if there is no need or it is no good time. Call about once a second."""
        minute = int(now_s // 60)
        if minute == self._minute:
            return None
        self._minute = minute
        busy_share = self._busy_ms / 60_000
        self._count()
        self._forget()
        if self._streak < self.settings.minutes or busy_share > self.settings.quiet_share:
            return None
        if now_s - self._fired_s < self.settings.pause_s:
            return None
        self._fired_s, self._streak = now_s, 0
        return f"runs take {self._last_ms:.2f} ms where {self.expected_ms:.2f} ms were measured"

    def _forget(self) -> None:
        self._compute_ms.clear()
        self._busy_ms = 0.0

    def _count(self) -> None:
        """Take the minute that has ended into account; one with few requests says nothing."""
        if not self.expected_ms or len(self._compute_ms) < self.settings.least_requests:
            return
        self._last_ms = median(self._compute_ms)
        ratio = self._last_ms / self.expected_ms
        direction = (ratio > self.settings.ratio) - (ratio < 1 / self.settings.ratio)
        self._streak = self._streak + 1 if direction == self._direction != 0 else abs(direction)
        self._direction = direction
