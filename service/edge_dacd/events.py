"""Events from those who change something to those who watch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from edge_dac import wire
from edge_dacd.status import RequestError

MAX_WATCHERS = 8
"""A watcher holds one of the threads that answer calls."""
_BACKLOG = 256


class EventHub:
    """Hands each event to every watcher. Publishing never waits: a watcher that is too slow misses events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        self._watchers: set[queue.Queue[Any]] = set()
        self._closed = False

    def publish(self, model: str, **kind: Any) -> None:
        """Send an event with one field of ``Event.kind`` set, as a message or the mapping of its fields."""
        with self._lock:
            self._sequence += 1
            event = self._event(model, kind)
            for watcher in self._watchers:
                if not watcher.full():
                    watcher.put_nowait(event)

    def snapshot(self, model: str, **kind: Any) -> Any:
        """An event for one watcher alone, numbered as the last one published."""
        with self._lock:
            return self._event(model, kind)

    def _event(self, model: str, kind: dict[str, Any]) -> Any:
        return wire.message("edge_dac.control.v1.Event")(
            sequence=self._sequence, time_unix_ms=time.time_ns() // 1_000_000, model=model, **kind
        )

    @contextmanager
    def watch(self, is_wanted: Callable[[], bool], poll_s: float = 0.5) -> Iterator[Iterator[Any]]:
        """The events from now on, until ``is_wanted`` says no or the hub closes.

        Raises:
            RequestError: RESOURCE_EXHAUSTED if there are too many watchers.
        """
        events: queue.Queue[Any] = queue.Queue(_BACKLOG)
        with self._lock:
            if len(self._watchers) >= MAX_WATCHERS:
                message = f"watch: expected at most {MAX_WATCHERS} watchers, there are as many already"
                raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
            self._watchers.add(events)

        def follow() -> Iterator[Any]:
            while is_wanted() and not self._closed:
                try:
                    yield events.get(timeout=poll_s)
                except queue.Empty:
                    continue

        try:
            yield follow()
        finally:
            with self._lock:
                self._watchers.discard(events)

    def close(self) -> None:
        """End all watches."""
        self._closed = True
