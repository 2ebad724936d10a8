"""Who may compute, and when: a fixed number of runs at once for the whole device, a bounded line before them.

A request runs on the thread that received it, so nothing is handed from thread to thread. It enters the line of its
model, waits for a free slot (the most urgent first, then first come, first served), computes and leaves. What cannot be
served is refused at once: a full line with RESOURCE_EXHAUSTED, a passed deadline with DEADLINE_EXCEEDED before the run
starts. Who may wait when there is more to do than the device can, `admission` says.

A request that gets a slot may take others of its kind along from the line. They share its run and wait for its result.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Generic, TypeVar

import grpc

from edge_dacd.admission import Line
from edge_dacd.status import RequestError

DEFAULT_PRIORITY = 100
"""Level of a request without a ``priority``; 1 is the most urgent."""

_QUICK_S = 0.0005
"""A run that is expected to be shorter is over before another thread could have done much."""

_LONG_S = 0.002
"""Behind a run that takes longer, an answer may wait for as long as the scheduler lets a run go on, some 3 ms."""

Work = TypeVar("Work")
Result = TypeVar("Result")


def _nothing() -> None:
    """Nobody has to be told."""


def _at_once(work: Callable[[], None]) -> None:
    work()


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

    @property
    def most_in_run(self) -> int:
        """How many requests like this one a run could serve."""
        return 1 if self.kin is None else self.rows_capacity


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
        self._lock = threading.Lock()
        # All lines in one, in the order of service. It is short: a few models with a bounded line each.
        self._queue: list[tuple[int, int, Ticket[Work, Result]]] = []
        self._lines: defaultdict[str, Line] = defaultdict(Line)
        self._running: dict[Ticket[Work, Result], float] = {}
        """Who holds a slot, and since when."""
        self._held: Counter[str] = Counter()
        self._left = threading.Condition(self._lock)
        self._sequence = count()

    def check_room(self, line: str, line_capacity: int, priority: int = DEFAULT_PRIORITY) -> None:
        """Refuse a request that could not enter ``line`` now, before anybody works on it.

        Raises:
            RequestError: RESOURCE_EXHAUSTED.
        """
        with self._lock:
            if not self._may_start(line):
                self._expect_room(line, line_capacity, priority, time.monotonic())

    def perform(
        self,
        ticket: Ticket[Work, Result],
        give_way: Callable[[], None] = _nothing,
        when_answered: Callable[[Callable[[], None]], None] = _at_once,
    ) -> Result:
        """Wait for a slot in the line of ``ticket``, compute its work, and return the result.

        Args:
            give_way: called before, unless there is a slot at once and the run is expected to be over in no time.
            when_answered: does what it is given when the answer is on its way. A slot after a long run is given on then:
                the next run would keep the answer's thread from its core.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED or CANCELLED: nothing was run.
            Exception: the error that ``compute`` gave for this work.
        """
        starts = self._enter(ticket)
        if not (starts and self._is_quick(ticket.line)):
            give_way()
        if not starts:
            self._wait(ticket)
        if not ticket._taken_along:
            self._lead(ticket, when_answered)
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
            self._left.wait_for(lambda: all(ticket.line != line for ticket in self._running))
        try:
            yield
        finally:
            with self._lock:
                self._held[line] -= 1
                self._start_next()

    def waiting(self, line: str) -> int:
        """How many wait in ``line`` now."""
        with self._lock:
            return self._lines[line].waiting

    def running(self) -> int:
        """How many slots are taken now."""
        with self._lock:
            return len(self._running)

    def _lead(self, ticket: Ticket[Work, Result], when_answered: Callable[[Callable[[], None]], None]) -> None:
        """Holding a slot: compute ``ticket`` and its kin, hand the results out, give the slot on."""
        group = [ticket]
        duration_s = None
        try:
            _check(ticket)
            group += self._take_kin(ticket)
            started = time.monotonic()
            outcomes: Sequence[Result | BaseException] = self._compute([member.work for member in group])
            duration_s = time.monotonic() - started
        except BaseException as error:  # noqa: BLE001 - handed to everyone who waits for it, and raised by `perform`
            outcomes = [error] * len(group)
        finally:
            is_long = duration_s is not None and duration_s > _LONG_S
            (when_answered if is_long else _at_once)(partial(self._leave, ticket, duration_s))
        for member, outcome in zip(group, outcomes, strict=True):
            member._outcome = outcome
            if member is not ticket:
                member._wake.release()

    def _enter(self, ticket: Ticket[Work, Result]) -> bool:
        """Whether ``ticket`` has got a slot; if not, it is in its line."""
        with self._lock:
            _check(ticket)
            now = time.monotonic()
            if self._may_start(ticket.line):
                self._lines[ticket.line].arrived(now, self.slots)
                self._running[ticket] = now
                ticket._granted = True
                return True
            line = self._expect_room(ticket.line, ticket.line_capacity, ticket.priority, now)
            line.arrived(now, self.slots)
            line.waiting += 1
            ticket._wake.acquire()
            insort(self._queue, (ticket.priority, next(self._sequence), ticket))
        return False

    def _is_quick(self, line: str) -> bool:
        # With more slots, others could compute meanwhile.
        return 0 < self._lines[line].run_s < _QUICK_S / self.slots

    def _expect_room(self, name: str, capacity: int, priority: int, now: float) -> Line:
        """The line ``name``, in which another request may wait. The caller holds the lock."""
        line = self._lines[name]
        if not line.has_room(capacity, self._expected_wait_s(priority, now)):
            line.overflowed(now, self.slots, capacity)
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"model {name!r}: expected at most {capacity} waiting requests, fewer while the device is overloaded; "
                "the queue is full",
            )
        return line

    def _expected_wait_s(self, priority: int, now: float) -> float:
        """How long a newcomer that cannot start now would wait for a slot. The caller holds the lock."""
        left_s = (self._lines[ticket.line].run_s + since - now for ticket, since in self._running.items())
        first_s = min(left_s, default=0.0)
        ahead_s = sum(self._lines[ticket.line].work_s for level, _, ticket in self._queue if level <= priority)
        return max(0.0, first_s) + ahead_s / self.slots

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
        self._queue = [entry for entry in self._queue if entry[2] is not ticket]
        self._lines[ticket.line].waiting -= 1
        ticket._granted = True

    def _take_kin(self, leader: Ticket[Work, Result]) -> list[Ticket[Work, Result]]:
        """Tickets from the line that fit into the leader's run, the most urgent first."""
        if leader.kin is None:
            return []
        group: list[Ticket[Work, Result]] = []
        rows = leader.rows
        with self._lock:
            for _, _, ticket in self._queue:
                fits = ticket.kin == leader.kin and rows + ticket.rows <= leader.rows_capacity
                if fits and not (ticket._cancelled or _is_expired(ticket)):
                    rows += ticket.rows
                    group.append(ticket)
            for ticket in group:
                self._grant(ticket)
                ticket._taken_along = True
        return group

    def _leave(self, leader: Ticket[Work, Result], duration_s: float | None) -> None:
        """Give the slot of ``leader`` on, whose run took ``duration_s``; None if there was none."""
        with self._lock:
            if duration_s is not None:
                self._lines[leader.line].ran(duration_s, leader.most_in_run)
            del self._running[leader]
            self._left.notify_all()
            self._start_next()

    def _may_start(self, line: str) -> bool:
        return len(self._running) < self.slots and not self._held[line]

    def _start_next(self) -> None:
        """Give free slots to those who wait. The caller holds the lock."""
        for _, _, ticket in list(self._queue):
            # One that was cancelled is awake already and takes itself out.
            if self._may_start(ticket.line) and not ticket._cancelled:
                self._grant(ticket)
                self._running[ticket] = time.monotonic()
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
