from __future__ import annotations

from edge_dacd.admission import Line

CAPACITY = 8


def overrun_line() -> Line:
    """A line of runs of one second that has just overflowed, with nobody in it any more."""
    line = Line()
    line.ran(1.0, most=1)
    line.overflowed(now=0.0, slots=1, capacity=CAPACITY)
    return line


def test_a_burst_may_wait_as_far_as_the_line_is_long() -> None:
    line = Line()
    line.ran(1.0, most=1)
    for _ in range(CAPACITY):
        assert line.has_room(CAPACITY, expected_wait_s=100.0)
        line.waiting += 1
    assert not line.has_room(CAPACITY, expected_wait_s=0.0)


def test_in_an_overload_only_who_is_served_soon_may_wait() -> None:
    line = overrun_line()
    assert line.has_room(CAPACITY, expected_wait_s=0.4)
    assert not line.has_room(CAPACITY, expected_wait_s=0.6)


def test_an_overload_lasts_as_long_as_more_is_offered_than_can_be_done() -> None:
    line = overrun_line()
    for quarter in range(1, 400):
        line.overflowed(now=quarter / 4, slots=1, capacity=CAPACITY)
        line.arrived(now=quarter / 4, slots=1)
        assert line.is_overrun


def test_an_overload_ends_when_the_device_would_have_caught_up() -> None:
    line = overrun_line()
    # One request every two seconds is half of what the device can do, so a full line is gone after sixteen.
    ended = next(second for second in range(2, 100, 2) if (line.arrived(second, slots=1), not line.is_overrun)[1])
    assert ended <= 2 * CAPACITY


def test_more_slots_and_shared_runs_catch_up_sooner() -> None:
    line = Line()
    line.ran(1.0, most=4)
    line.overflowed(now=0.0, slots=2, capacity=CAPACITY)
    line.arrived(now=0.9 / 8, slots=2)
    assert line.is_overrun
    line.arrived(now=3.0 / 8, slots=2)
    assert not line.is_overrun


def test_the_duration_follows_the_runs() -> None:
    line = Line()
    line.ran(1.0, most=2)
    assert (line.run_s, line.work_s) == (1.0, 0.5)
    for _ in range(100):
        line.ran(3.0, most=2)
    assert 2.9 < line.run_s < 3.0
