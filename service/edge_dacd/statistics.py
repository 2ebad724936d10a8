"""What happened to a model's requests: one set of counters behind ``ModelStatistics``, the metrics and the governor."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Upper bounds of the histogram buckets, in seconds."""


class Observation(NamedTuple):
    """One request that was answered. All times in nanoseconds.

    Attributes:
        point_id: operating point that computed it.
        queue_ns: from the end of decoding to the start of the run.
        decode_ns, compute_ns, encode_ns: work on the input, the run itself, work on the output.
        batch_size: requests that shared the run.
    """

    point_id: str
    queue_ns: int
    decode_ns: int
    compute_ns: int
    encode_ns: int
    batch_size: int = 1

    @property
    def total_ns(self) -> int:
        return self.queue_ns + self.decode_ns + self.compute_ns + self.encode_ns

    @property
    def queue_ms(self) -> float:
        return self.queue_ns / 1e6

    @property
    def compute_ms(self) -> float:
        return self.compute_ns / 1e6


class Histogram:
    """Counts of durations in the buckets of ``BUCKETS_S`` and above, their number and sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_ns = 0

    def add(self, duration_ns: int) -> None:
        self.counts[bisect_left(BUCKETS_S, duration_ns / 1e9)] += 1
        self.sum_ns += duration_ns

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(slots=True)
class Totals:
    """A copy of all counters at one moment."""

    request: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    decode: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    encode: Histogram = field(default_factory=Histogram)
    batches: Counter[int] = field(default_factory=Counter)
    """Runs by the number of requests in them."""
    failures: Counter[str] = field(default_factory=Counter)
    """Requests that were not answered, by the name of their status code."""
    failed_ns: int = 0
    last_inference_ms: int = 0
    """Milliseconds since the epoch; 0 for never."""


class ModelStatistics:
    """Counters of one model. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = Totals()
        self._observers: list[Callable[[Observation], None]] = []

    def subscribe(self, observer: Callable[[Observation], None]) -> None:
        """Call ``observer`` after every answered request, on the thread that served it: it must be quick."""
        self._observers.append(observer)

    def succeeded(self, observation: Observation, runs: int = 1) -> None:
        """Count an answered request; ``runs`` is 0 for one that went along in the run of another."""
        with self._lock:
            totals = self._totals
            totals.request.add(observation.total_ns)
            totals.queue.add(observation.queue_ns)
            totals.decode.add(observation.decode_ns)
            totals.compute.add(observation.compute_ns)
            totals.encode.add(observation.encode_ns)
            totals.batches[observation.batch_size] += runs
            totals.last_inference_ms = time.time_ns() // 1_000_000
        for observer in self._observers:
            observer(observation)

    def failed(self, status: str, duration_ns: int) -> None:
        """Count a request that ended with an error."""
        with self._lock:
            self._totals.failures[status] += 1
            self._totals.failed_ns += duration_ns

    def read(self, reader: Callable[[Totals], None]) -> None:
        """Call ``reader`` with the totals while nothing changes."""
        with self._lock:
            reader(self._totals)
