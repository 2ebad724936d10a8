import pytest

from edge_dacd.events import MAX_WATCHERS, EventHub
from edge_dacd.status import RequestError


def test_every_watcher_gets_every_event_in_order():
    hub = EventHub()
    with hub.watch(lambda: True) as first, hub.watch(lambda: True) as second:
        for generation in range(3):
            hub.publish("m", applied={"generation": generation})
        for events in (first, second):
            seen = [next(events) for _ in range(3)]
            assert [event.applied.generation for event in seen] == [0, 1, 2]
            assert [event.sequence for event in seen] == [1, 2, 3]


def test_slow_watcher_misses_events_and_can_tell():
    hub = EventHub()
    with hub.watch(lambda: True) as events:
        for generation in range(1000):
            hub.publish("m", applied={"generation": generation})
        next(events)
        hub.publish("m", applied={"generation": 1000})
        rest = [next(events) for _ in range(256)]
    assert rest[-1].sequence == 1001
    assert rest[-2].sequence == 256


def test_too_many_watchers():
    hub = EventHub()

    def watch(count):
        with hub.watch(lambda: True):
            if count > 1:
                watch(count - 1)

    watch(MAX_WATCHERS)
    with pytest.raises(RequestError, match="at most 8 watchers"):
        watch(MAX_WATCHERS + 1)
    watch(MAX_WATCHERS)


def test_closing_ends_the_watches():
    hub = EventHub()
    with hub.watch(lambda: True, poll_s=0.01) as events:
        hub.close()
        assert list(events) == []
