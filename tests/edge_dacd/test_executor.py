from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest
from edge_dacd.executor import Executor, Ticket
from edge_dacd.status import RequestError


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Occupied:
    """An executor whose only slot is held until :meth:`free`."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.executor = Executor(1)
        self.order: list[str] = []
        self._pool = pool
        self._go = threading.Event()
        self._holder = pool.submit(self._hold)
        until(lambda: self.executor.running() == 1)

    def _hold(self) -> None:
        with self.executor.slot(Ticket("holder", 0)):
            self._go.wait(10)

    def free(self) -> None:
        self._go.set()
        self._holder.result(10)

    def submit(self, name: str, ticket: Ticket) -> Future[None]:
        """Wait in the line on another thread."""
        before = self.executor.waiting(ticket.line)

        def run() -> None:
            with self.executor.slot(ticket):
                self.order.append(name)

        future = self._pool.submit(run)
        until(lambda: self.executor.waiting(ticket.line) > before or future.done())
        return future


@pytest.fixture
def occupied() -> Iterator[Occupied]:
    with ThreadPoolExecutor() as pool:
        made = Occupied(pool)
        yield made
        made.free()


def code(future: Future[None]) -> grpc.StatusCode:
    with pytest.raises(RequestError) as caught:
        future.result(10)
    return caught.value.code


def test_priority_then_first_come(occupied: Occupied) -> None:
    futures = [
        occupied.submit(name, Ticket("m", 9, priority))
        for name, priority in (("c", 2), ("d", 2), ("a", 1), ("b", 1), ("e", 3))
    ]
    occupied.free()
    for future in futures:
        future.result(10)
    assert occupied.order == ["a", "b", "c", "d", "e"]
    assert occupied.executor.running() == occupied.executor.waiting("m") == 0


def test_each_line_is_bounded_by_itself(occupied: Occupied) -> None:
    occupied.submit("a", Ticket("m", 1))
    assert code(occupied.submit("b", Ticket("m", 1))) is grpc.StatusCode.RESOURCE_EXHAUSTED
    occupied.submit("c", Ticket("n", 1))
    assert occupied.executor.waiting("n") == 1


def test_expiry_and_cancellation_make_room(occupied: Occupied) -> None:
    expiring = occupied.submit("a", Ticket("m", 2, deadline=time.monotonic() + 0.02))
    assert code(expiring) is grpc.StatusCode.DEADLINE_EXCEEDED
    ticket = Ticket("m", 2)
    cancelled = occupied.submit("b", ticket)
    occupied.executor.cancel(ticket)
    occupied.executor.cancel(ticket)
    assert code(cancelled) is grpc.StatusCode.CANCELLED
    assert occupied.executor.waiting("m") == 0
    last = occupied.submit("c", Ticket("m", 1))
    occupied.free()
    last.result(10)
    assert occupied.order == ["c"]


@pytest.mark.parametrize("deadline", [None, 1e10, 1e300, float("inf")])
def test_no_deadline_is_too_far_away(occupied: Occupied, deadline: float | None) -> None:
    future = occupied.submit("a", Ticket("m", 1, deadline=deadline))
    occupied.free()
    future.result(10)
    assert occupied.order == ["a"]


def test_an_expired_or_cancelled_ticket_never_starts() -> None:
    executor = Executor(1)
    with pytest.raises(RequestError, match="before the run could start"), executor.slot(Ticket("m", 1, deadline=0.0)):
        pytest.fail("started")
    gone = Ticket("m", 1)
    executor.cancel(gone)
    with pytest.raises(RequestError, match="gone"), executor.slot(gone):
        pytest.fail("started")
    assert executor.running() == 0


def test_many_threads_never_exceed_the_slots() -> None:
    executor = Executor(3)
    inside: list[int] = []
    most = 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal most
        for _ in range(50):
            with executor.slot(Ticket(f"m{number % 2}", 100, number % 3)):
                with lock:
                    inside.append(number)
                    most = max(most, len(inside))
                with lock:
                    inside.remove(number)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert most <= 3
    assert executor.running() == 0
