"""Who may compute, and when: a fixed number of runs at once for the whole device, a bounded line before them.

A request runs on the thread that received it, so nothing is handed from thread to thread. It enters the line of its
model, waits for a free slot (the most urgent first, then first come, first served) and leaves. What cannot be served is
refused at once: a full line with RESOURCE_EXHAUSTED, a passed deadline with DEADLINE_EXCEEDED before the run starts.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import grpc

from edge_dacd.status import RequestError

DEFAULT_PRIORITY = 100
"""Level of a request without a ``priority``; 1 is the most urgent."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place: which line, how urgent, until when.

    Attributes:
        line: name of the model; each line is bounded by itself.
        line_capacity: how many may wait in it.
        priority: 1 is the most urgent.
        deadline: on the clock of ``time.monotonic``; None for never.
    """

    line: str
    line_capacity: int
    priority: int = DEFAULT_PRIORITY
    deadline: float | None = None
    _wake: threading.Lock = field(default_factory=threading.Lock)
    _granted: bool = False
    _cancelled: bool = False


class Executor:
    """The slots and the line before them.

    Args:
        slots: how many runs may go at once. Each has its share of the device's threads, so more slots mean fewer
            threads a run, never more threads than cores.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = slots
        self._lock = threading.Lock()
        self._heap: list[tuple[int, int, Ticket]] = []
        self._waiting: Counter[str] = Counter()
        self._sequence = count()

    @contextmanager
    def slot(self, ticket: Ticket) -> Iterator[None]:
        """Hold a slot; waits for one in the line of ``ticket``.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED or CANCELLED; nothing was run.
        """
        self._enter(ticket)
        try:
            _check(ticket)
            yield
        finally:
            self._leave()

    def cancel(self, ticket: Ticket) -> None:
        """Wake ``ticket`` if it still waits; it leaves the line with CANCELLED."""
        with self._lock:
            ticket._cancelled = True
            if not ticket._granted and ticket._wake.locked():
                ticket._wake.release()

    def waiting(self, line: str) -> int:
        """How many wait in ``line`` now."""
        with self._lock:
            return self._waiting[line]

    def running(self) -> int:
        """How many slots are taken now."""
        with self._lock:
            return self.slots - self._free

    def _enter(self, ticket: Ticket) -> None:
        with self._lock:
            _check(ticket)
            if self._free:
                self._free -= 1
                ticket._granted = True
                return
            if self._waiting[ticket.line] >= ticket.line_capacity:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"model {ticket.line!r}: expected at most {ticket.line_capacity} waiting requests, "
                    "the queue is full",
                )
            self._waiting[ticket.line] += 1
            ticket._wake.acquire()
            heapq.heappush(self._heap, (ticket.priority, next(self._sequence), ticket))
        self._wait(ticket)

    def _wait(self, ticket: Ticket) -> None:
        if ticket.deadline is None:
            ticket._wake.acquire()
        else:
            # gRPC gives calls without a deadline one at the end of time.
            remaining_s = ticket.deadline - time.monotonic()
            ticket._wake.acquire(timeout=min(max(0.0, remaining_s), threading.TIMEOUT_MAX))
        with self._lock:
            if ticket._granted:
                return
            self._waiting[ticket.line] -= 1
            cancelled = ticket._cancelled
            # It stays in the heap, where the next one who leaves skips it.
            ticket._cancelled = True
        raise _client_gone() if cancelled else _expired()

    def _leave(self) -> None:
        with self._lock:
            while self._heap:
                _, _, ticket = heapq.heappop(self._heap)
                if ticket._cancelled:
                    continue
                self._waiting[ticket.line] -= 1
                ticket._granted = True
                ticket._wake.release()
                return
            self._free += 1


def _check(ticket: Ticket) -> None:
    if ticket._cancelled:
        raise _client_gone()
    if ticket.deadline is not None and ticket.deadline <= time.monotonic():
        raise _expired()


def _client_gone() -> RequestError:
    return RequestError(grpc.StatusCode.CANCELLED, "the client has gone")


def _expired() -> RequestError:
    return RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the run could start")
