"""Who may compute, and when: a fixed number of runs at once for the whole device, a bounded line before them.

A request runs on the thread that received it, so nothing is handed from thread to thread. It enters the line of its
model, waits for a free slot (the most urgent first, then first come, first served), computes and leaves. What cannot be
served is refused at once: a full line with RESOURCE_EXHAUSTED, a passed deadline with DEADLINE_EXCEEDED before the run
starts.

A request that gets a slot may take others of its kind along from the line. They share its run and wait for its result.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

import grpc

from edge_dacd.status import RequestError

DEFAULT_PRIORITY = 100
"""Level of a request without a ``priority``; 1 is the most urgent."""

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class Ticket(Generic[Work, Result]):
    """A request's place: which line, how urgent, until when, with whom it may go.

    Attributes:
        work: what is to be computed.
        line: name of the model; each line is bounded by itself.
        line_capacity: how many may wait in it.
        priority: 1 is the most urgent.
        deadline: on the clock of ``time.monotonic``; None for never.
        kin: tickets with equal ``kin`` may share a run; None for never.
        rows, rows_capacity: its share of a run, and how much a run can take.
    """

    work: Work
    line: str
    line_capacity: int
    priority: int = DEFAULT_PRIORITY
    deadline: float | None = None
    kin: Hashable = None
    rows: int = 1
    rows_capacity: int = 1
    _wake: threading.Lock = field(default_factory=threading.Lock)
    _granted: bool = False
    """It is out of the line: it has a slot, or somebody with a slot has taken it along."""
    _taken_along: bool = False
    _cancelled: bool = False
    _outcome: Result | BaseException | None = None


class Executor(Generic[Work, Result]):
    """The slots and the line before them.

    Args:
        slots: how many runs may go at once. Each has its share of the device's threads, so more slots mean fewer
            threads a run, never more threads than cores.
        compute: computes a group of work on the calling thread; one result, or the error of that one, for each.
    """

    def __init__(self, slots: int, compute: Callable[[Sequence[Work]], Sequence[Result | Exception]]) -> None:
        self.slots = slots
        self._compute = compute
        self._free = slots
        self._lock = threading.Lock()
        # All lines in one, in the order of service. It is short: a few models with a bounded line each.
        self._line: list[tuple[int, int, Ticket[Work, Result]]] = []
        self._waiting: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._left = threading.Condition(self._lock)
        self._sequence = count()

    def perform(self, ticket: Ticket[Work, Result]) -> Result:
        """Wait for a slot in the line of ``ticket``, compute its work, and return the result.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED or CANCELLED: nothing was run.
            Exception: the error that ``compute`` gave for this work.
        """
        self._enter(ticket)
        if not ticket._taken_along:
            self._lead(ticket)
        outcome = ticket._outcome
        ticket._outcome = None
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        return outcome

    def cancel(self, ticket: Ticket[Work, Result]) -> None:
        """Wake ``ticket`` if it still waits for a slot; it leaves the line with CANCELLED."""
        with self._lock:
            if not (ticket._cancelled or ticket._granted) and ticket._wake.locked():
                ticket._wake.release()
            ticket._cancelled = True

    @contextmanager
    def hold(self, line: str) -> Iterator[None]:
        """No run of ``line`` goes on inside the block: those in flight end before it, the others wait in their line.

        The line stays bounded and deadlines pass meanwhile, as they do behind a long run. Other lines go on.
        """
        with self._left:
            self._held[line] += 1
            self._left.wait_for(lambda: not self._running[line])
        try:
            yield
        finally:
            with self._lock:
                self._held[line] -= 1
                while self._free and (ticket := self._next()) is not None:
                    self._free -= 1
                    self._start(ticket)

    def waiting(self, line: str) -> int:
        """How many wait in ``line`` now."""
        with self._lock:
            return self._waiting[line]

    def running(self) -> int:
        """How many slots are taken now."""
        with self._lock:
            return self.slots - self._free

    def _lead(self, ticket: Ticket[Work, Result]) -> None:
        """Holding a slot: compute ``ticket`` and its kin, hand the results out, give the slot on."""
        group = [ticket]
        try:
            _check(ticket)
            group += self._take_kin(ticket)
            outcomes: Sequence[Result | BaseException] = self._compute([member.work for member in group])
        except BaseException as error:  # noqa: BLE001 - handed to everyone who waits for it, and raised by `perform`
            outcomes = [error] * len(group)
        finally:
            self._leave(ticket.line)
        for member, outcome in zip(group, outcomes, strict=True):
            member._outcome = outcome
            if member is not ticket:
                member._wake.release()

    def _enter(self, ticket: Ticket[Work, Result]) -> None:
        with self._lock:
            _check(ticket)
            if self._free and not self._held[ticket.line]:
                self._free -= 1
                self._running[ticket.line] += 1
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
            insort(self._line, (ticket.priority, next(self._sequence), ticket))
        self._wait(ticket)

    def _wait(self, ticket: Ticket[Work, Result]) -> None:
        if ticket.deadline is None:
            ticket._wake.acquire()
        else:
            # gRPC gives calls without a deadline one at the end of time.
            remaining_s = ticket.deadline - time.monotonic()
            ticket._wake.acquire(timeout=min(max(0.0, remaining_s), threading.TIMEOUT_MAX))
        with self._lock:
            if not ticket._granted:
                self._grant(ticket)
                raise _client_gone() if ticket._cancelled else _expired()
            runs_elsewhere = ticket._taken_along and ticket._outcome is None
        if runs_elsewhere:
            # Its deadline passed in the middle of a shared run: see it through.
            ticket._wake.acquire()

    def _grant(self, ticket: Ticket[Work, Result]) -> None:
        """Take ``ticket`` out of the line. The caller holds the lock."""
        self._line = [entry for entry in self._line if entry[2] is not ticket]
        self._waiting[ticket.line] -= 1
        ticket._granted = True

    def _take_kin(self, leader: Ticket[Work, Result]) -> list[Ticket[Work, Result]]:
        """Tickets from the line that fit into the leader's run, the most urgent first."""
        if leader.kin is None:
            return []
        group: list[Ticket[Work, Result]] = []
        rows = leader.rows
        with self._lock:
            for _, _, ticket in self._line:
                fits = ticket.kin == leader.kin and rows + ticket.rows <= leader.rows_capacity
                if fits and not (ticket._cancelled or _is_expired(ticket)):
                    rows += ticket.rows
                    group.append(ticket)
            for ticket in group:
                self._grant(ticket)
                ticket._taken_along = True
        return group

    def _leave(self, line: str) -> None:
        with self._lock:
            self._running[line] -= 1
            self._left.notify_all()
            ticket = self._next()
            if ticket is None:
                self._free += 1
            else:
                self._start(ticket)

    def _next(self) -> Ticket[Work, Result] | None:
        """The first that may have a slot. One that was cancelled is awake already and takes itself out."""
        waiting = (ticket for _, _, ticket in self._line)
        return next((one for one in waiting if not (one._cancelled or self._held[one.line])), None)

    def _start(self, ticket: Ticket[Work, Result]) -> None:
        """Give ``ticket`` a slot. The caller holds the lock."""
        self._running[ticket.line] += 1
        self._grant(ticket)
        ticket._wake.release()


def _check(ticket: Ticket[Work, Result]) -> None:
    if ticket._cancelled:
        raise _client_gone()
    if _is_expired(ticket):
        raise _expired()


def _is_expired(ticket: Ticket[Work, Result]) -> bool:
    return ticket.deadline is not None and ticket.deadline <= time.monotonic()


def _client_gone() -> RequestError:
    return RequestError(grpc.StatusCode.CANCELLED, "the client has gone")


def _expired() -> RequestError:
    return RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the run could start")
