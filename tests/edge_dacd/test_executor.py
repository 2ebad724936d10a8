from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
    """An executor whose only slot is held until :meth:`free`; its work is names, its results say who went together."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.executor: Executor[str, list[str]] = Executor(1, self._compute)
        self.order: list[str] = []
        self._pool = pool
        self._go = threading.Event()
        self._holder = pool.submit(self.executor.perform, Ticket("holder", "holder", 0))
        until(lambda: self.executor.running() == 1)

    def _compute(self, group: Sequence[str]) -> Sequence[list[str] | Exception]:
        if list(group) == ["holder"]:
            self._go.wait(10)
        else:
            self.order += group
        return [ValueError(name) if name == "wrong" else list(group) for name in group]

    def free(self) -> None:
        self._go.set()
        self._holder.result(10)

    def submit(self, ticket: Ticket[str, list[str]]) -> Future[list[str]]:
        """Wait in the line on another thread."""
        before = self.executor.waiting(ticket.line)
        future = self._pool.submit(self.executor.perform, ticket)
        until(lambda: self.executor.waiting(ticket.line) > before or future.done())
        return future


@pytest.fixture
def occupied() -> Iterator[Occupied]:
    with ThreadPoolExecutor(16) as pool:
        made = Occupied(pool)
        yield made
        made.free()


def code(future: Future[list[str]]) -> grpc.StatusCode:
    with pytest.raises(RequestError) as caught:
        future.result(10)
    return caught.value.code


def test_priority_then_first_come(occupied: Occupied) -> None:
    futures = [
        occupied.submit(Ticket(name, "m", 9, priority))
        for name, priority in (("c", 2), ("d", 2), ("a", 1), ("b", 1), ("e", 3))
    ]
    occupied.free()
    for future in futures:
        future.result(10)
    assert occupied.order == ["a", "b", "c", "d", "e"]
    assert occupied.executor.running() == occupied.executor.waiting("m") == 0


def test_each_line_is_bounded_by_itself(occupied: Occupied) -> None:
    occupied.submit(Ticket("a", "m", 1))
    assert code(occupied.submit(Ticket("b", "m", 1))) is grpc.StatusCode.RESOURCE_EXHAUSTED
    occupied.submit(Ticket("c", "n", 1))
    assert occupied.executor.waiting("n") == 1


def test_room_is_known_before_the_work_is(occupied: Occupied) -> None:
    occupied.executor.check_room("m", 1)
    waiting = occupied.submit(Ticket("a", "m", 1))
    with pytest.raises(RequestError, match="the queue is full") as caught:
        occupied.executor.check_room("m", 1)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    occupied.executor.check_room("n", 1)
    occupied.free()
    waiting.result(10)
    until(lambda: occupied.executor.running() == 0)
    occupied.executor.check_room("m", 0)


def test_expiry_and_cancellation_make_room(occupied: Occupied) -> None:
    expiring = occupied.submit(Ticket("a", "m", 2, deadline=time.monotonic() + 0.02))
    assert code(expiring) is grpc.StatusCode.DEADLINE_EXCEEDED
    ticket = Ticket("b", "m", 2)
    cancelled = occupied.submit(ticket)
    occupied.executor.cancel(ticket)
    occupied.executor.cancel(ticket)
    assert code(cancelled) is grpc.StatusCode.CANCELLED
    assert occupied.executor.waiting("m") == 0
    last = occupied.submit(Ticket("c", "m", 1))
    occupied.free()
    assert last.result(10) == ["c"]
    assert occupied.order == ["c"]


def test_held_line_waits_and_others_go_on(occupied: Occupied) -> None:
    """The holder of the slot is of another line; a line is held only once its own runs have ended."""
    executor = occupied.executor
    with executor.hold("m"):
        held = occupied.submit(Ticket("a", "m", 2))
        expired = occupied.submit(Ticket("b", "m", 2, deadline=time.monotonic() + 0.02))
        other = occupied.submit(Ticket("c", "n", 1))
        occupied.free()
        assert other.result(10) == ["c"]
        assert code(expired) is grpc.StatusCode.DEADLINE_EXCEEDED
        later = occupied.submit(Ticket("d", "m", 2))
        assert code(occupied.submit(Ticket("e", "m", 2))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (executor.running(), executor.waiting("m")) == (0, 2)
    assert (held.result(10), later.result(10)) == (["a"], ["d"])
    assert (executor.running(), executor.waiting("m")) == (0, 0)


def test_hold_lets_runs_in_flight_end() -> None:
    with ThreadPoolExecutor(2) as pool:
        occupied = Occupied(pool)
        order: list[str] = []

        def hold() -> None:
            with occupied.executor.hold("holder"):
                order.append(f"{occupied.executor.running()} running")

        holding = pool.submit(hold)
        assert not holding.done()
        occupied.free()
        holding.result(10)
        assert order == ["0 running"]


@pytest.mark.parametrize("deadline", [None, 1e10, 1e300, float("inf")])
def test_no_deadline_is_too_far_away(occupied: Occupied, deadline: float | None) -> None:
    future = occupied.submit(Ticket("a", "m", 1, deadline=deadline))
    occupied.free()
    assert future.result(10) == ["a"]


def test_an_expired_or_cancelled_ticket_never_starts() -> None:
    executor: Executor[str, str] = Executor(1, lambda group: pytest.fail("started"))
    with pytest.raises(RequestError, match="before the run could start"):
        executor.perform(Ticket("a", "m", 1, deadline=0.0))
    gone = Ticket("b", "m", 1)
    executor.cancel(gone)
    with pytest.raises(RequestError, match="gone"):
        executor.perform(gone)
    assert executor.running() == 0


def test_kin_go_together_as_far_as_there_is_room(occupied: Occupied) -> None:
    futures = [
        occupied.submit(Ticket(name, "m", 9, kin=kin, rows=rows, rows_capacity=4))
        for name, kin, rows in (
            ("a", 1, 1),
            ("other", 2, 1),
            ("b", 1, 2),
            ("big", 1, 2),
            ("c", 1, 1),
            ("loner", None, 1),
        )
    ]
    occupied.free()
    assert [future.result(10) for future in futures] == [
        ["a", "b", "c"],
        ["other"],
        ["a", "b", "c"],
        ["big"],
        ["a", "b", "c"],
        ["loner"],
    ]
    assert occupied.executor.running() == occupied.executor.waiting("m") == 0


def test_the_error_of_one_is_not_that_of_its_kin(occupied: Occupied) -> None:
    good, wrong = (occupied.submit(Ticket(name, "m", 9, kin=1, rows_capacity=4)) for name in ("good", "wrong"))
    occupied.free()
    assert good.result(10) == ["good", "wrong"]
    with pytest.raises(ValueError, match="wrong"):
        wrong.result(10)


def test_an_error_of_the_computation_reaches_everyone_and_frees_the_slot() -> None:
    def fail(group: Sequence[str]) -> Sequence[str | Exception]:
        raise MemoryError

    executor: Executor[str, str] = Executor(1, fail)
    for _ in range(2):
        with pytest.raises(MemoryError):
            executor.perform(Ticket("a", "m", 1))
    assert executor.running() == 0


def test_many_threads_get_their_own_results() -> None:
    lock = threading.Lock()
    inside = most = shared = 0

    def compute(group: Sequence[int]) -> Sequence[int | Exception]:
        nonlocal inside, most, shared
        with lock:
            inside += 1
            most = max(most, inside)
            shared += len(group) > 1
        time.sleep(0.0005)
        with lock:
            inside -= 1
        return [ValueError(str(number)) if number % 7 == 0 else number * 2 for number in group]

    executor: Executor[int, int] = Executor(2, compute)

    def ask(number: int) -> bool:
        deadline = time.monotonic() + (0.002 if number % 5 == 0 else 10)
        ticket = Ticket(number, f"m{number % 3}", 100, number % 3, deadline, number % 2, 1, 3)
        expected = [str(number)] if number % 7 == 0 else [number * 2]
        try:
            outcome: object = executor.perform(ticket)
        except ValueError as error:
            outcome = str(error)
        except RequestError as error:
            outcome = error.code
            expected.append(grpc.StatusCode.DEADLINE_EXCEEDED)
        return outcome in expected

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(1, 600)))
    assert most == 2
    assert shared > 0
    assert executor.running() == 0
    assert [executor.waiting(f"m{index}") for index in range(3)] == [0, 0, 0]


def test_only_a_run_that_is_expected_to_be_quick_starts_without_giving_way(occupied: Occupied) -> None:
    asked: list[str] = []
    quick: Executor[float, float] = Executor(1, lambda group: [time.sleep(s) or s for s in group])

    def perform(seconds: float) -> int:
        asked.clear()
        quick.perform(Ticket(seconds, str(seconds), 1), lambda: asked.append("give way"))
        return len(asked)

    assert perform(0) == 1  # nobody knows yet
    assert perform(0) == 0
    assert [perform(0.002), perform(0.002)] == [1, 1]
    waiting = occupied._pool.submit(occupied.executor.perform, Ticket("a", "a", 1), lambda: asked.append("waits"))
    until(lambda: "waits" in asked)
    occupied.free()
    assert waiting.result(10) == ["a"]
