"""Who may wait: a burst may, as far as its line is long; in a lasting overload only who is served soon.

A line that stays full gains nothing: the device computes as much as before, and every answer is late by the whole line.
So a line that overflowed is kept short until the device would have caught up with everything that was offered to it,
refused requests included. As long as that lasts, a request may wait for half a run, not longer: the slots still find
their next request in time, and an answer takes at most half again as long as on an idle device.
"""

from __future__ import annotations

_SHORT_WAIT_RUNS = 0.5
_LATEST_SHARE = 1 / 8
"""Of the latest run in the expected duration of the next."""
_LONGEST_MEMORY_S = 1.0
"""What was offered and refused counts for so long at most: a flood with a gap, or a client that stumbles, is still a flood."""


class Line:
    """What is known of one model's line. Not thread-safe: the executor's lock guards it. Times in seconds.

    Attributes:
        waiting: requests in it now.
        run_s: how long a run is expected to take; 0 before the first.
        work_s: a request's share of that, when runs are shared by as many as can.
        is_overrun: it overflowed, and the device has not caught up since.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.run_s = 0.0
        self.work_s = 0.0
        self.is_overrun = False
        self._offered_until = 0.0

    def ran(self, duration_s: float, most: int) -> None:
        """Learn from a run that took ``duration_s`` and could have served up to ``most`` requests."""
        self.run_s += (duration_s - self.run_s) * (_LATEST_SHARE if self.run_s else 1.0)
        self.work_s = self.run_s / most

    def has_room(self, capacity: int, expected_wait_s: float) -> bool:
        """Whether another request may wait, where at most ``capacity`` may in a burst."""
        if self.waiting >= capacity:
            return False
        return not self.is_overrun or expected_wait_s <= _SHORT_WAIT_RUNS * self.run_s

    def arrived(self, now: float, slots: int) -> None:
        """Count a request that shall be served by one of ``slots``."""
        if self._offered_until <= now:
            self.is_overrun = False
        self._offered_until = max(self._offered_until, now) + self.work_s / slots

    def overflowed(self, now: float, slots: int, capacity: int) -> None:
        """Count a request that was refused. What was offered counts for a full line of ``capacity`` or a second at most."""
        self.arrived(now, slots)
        self.is_overrun = True
        self._offered_until = min(self._offered_until, now + max(capacity * self.work_s / slots, _LONGEST_MEMORY_S))
