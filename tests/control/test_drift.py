import math

import pytest

from edge_dacd.drift import DriftWatch


def watched(expected_ms=10.0):
    watch = DriftWatch()
    watch.follow("p", expected_ms)
    watch.check(0.0)
    return watch


def minutes(watch, start, count, compute_ms, requests=20):
    """Each minute with so many requests; what the watch says at the end of each."""
    said = []
    for minute in range(start, start + count):
        for _ in range(requests):
            watch.observe(compute_ms, "p")
        said.append(watch.check((minute + 1) * 60.0))
    return said


@pytest.mark.parametrize("compute_ms", [14.0, 7.0])
def test_lasting_drift_is_noticed_once(compute_ms):
    said = minutes(watched(), 0, 60, compute_ms)
    assert [index for index, why in enumerate(said) if why] == [9]
    assert said[9] == f"runs take {compute_ms:.2f} ms where 10.00 ms were measured"


def test_noticed_again_after_the_pause():
    said = minutes(watched(), 0, 500, 14.0)
    assert [index for index, why in enumerate(said) if why] == [9, 369]


@pytest.mark.parametrize("compute_ms", [12.0, 8.0, 10.0])
def test_small_differences_are_not_drift(compute_ms):
    assert not any(minutes(watched(), 0, 60, compute_ms))


def test_one_good_minute_ends_the_row():
    watch = watched()
    assert not any(minutes(watch, 0, 9, 14.0))
    assert not any(minutes(watch, 9, 1, 10.0))
    assert not any(minutes(watch, 10, 9, 14.0))


def test_waits_for_quiet():
    watch = watched()
    assert not any(minutes(watch, 0, 30, 14.0, requests=4000))
    assert minutes(watch, 30, 1, 14.0, requests=5)[0]


def test_silence_and_few_requests_say_nothing():
    watch = watched()
    assert not any(minutes(watch, 0, 60, 14.0, requests=3))
    assert not any(minutes(watched(None), 0, 60, 14.0))


def test_another_point_starts_anew():
    watch = watched()
    minutes(watch, 0, 9, 14.0)
    watch.follow("q", 5.0)
    watch.observe(14.0, "p")
    watch.observe(math.nan, "q")
    assert not any(minutes(watch, 9, 3, 14.0))
