"""What an executor computes: the run of one request, or one run for several, stacked along their first dimension."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grpc
import numpy as np
import onnxruntime as ort

from edge_dacd.models import ServedModel
from edge_dacd.requests import Wishes
from edge_dacd.runtime import ORT_ERRORS, Runtime
from edge_dacd.status import RequestError, invalid
from edge_dacd.tensors import Array

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Work:
    """One request's part of a run.

    Attributes:
        request_id: as its client calls it, for the log.
        options: let the end of its call terminate a run that is its alone.
        deadline: when its client gives up, on the clock of ``time.monotonic``; None for never.
    """

    model: ServedModel
    request_id: str
    wishes: Wishes
    feeds: dict[str, Array]
    names: list[str]
    options: ort.RunOptions
    deadline: float | None = None

    @property
    def rows(self) -> int:
        """Extent of the first dimension, which the inputs have in common; 0 where they have not."""
        extents = {feed.shape[:1] for feed in self.feeds.values()}
        return int(extents.pop()[0]) if len(extents) == 1 and () not in extents else 0

    def kin(self) -> Hashable:
        """Equal for work that may share a run; None for work that goes alone."""
        if self.model.source.max_batch_size == 1 or not self.model.is_batchable or not self.rows:
            return None
        shapes = tuple((name, feed.shape[1:]) for name, feed in sorted(self.feeds.items()))
        wish = (self.wishes.max_latency_ms, self.wishes.max_error)
        return (id(self.model), wish, tuple(self.names), shapes)

    def choose(self) -> Runtime:
        """The runtime for this request: by its wishes, or a faster one if it would miss its client's deadline.

        Chosen when the run starts, so that what waited in the line gets the newest, and what waited long a fast one.
        """
        wishes = self.wishes
        runtime = self.model.runtime_for(wishes.max_latency_ms, wishes.max_error)
        if self.deadline is None:
            return runtime
        return self.model.in_time(runtime, 1e3 * (self.deadline - time.monotonic()), wishes.max_error)


class Run(NamedTuple):
    """What a run gave to one request. ``runs`` is 1 for one request of each run, and 0 for those that went along."""

    arrays: Sequence[Array]
    point_id: str
    started_ns: int
    finished_ns: int
    batch_size: int
    runs: int


def compute(group: Sequence[Work]) -> Sequence[Run | Exception]:
    """Run ``group`` at once, each by itself where their deadlines need different points.

    If a run for several fails, each runs by itself too, so that nobody fails for the input of another.
    """
    if len(group) > 1 and len(runtimes := {work.choose() for work in group}) == 1:
        try:
            return _together(group, runtimes.pop())
        except ORT_ERRORS as error:
            _log.warning("shared run failed", extra={"model": group[0].model.name}, exc_info=error)
    return [_alone(work) for work in group]


def _alone(work: Work) -> Run | Exception:
    started = time.perf_counter_ns()
    runtime = work.choose()
    try:
        arrays = runtime.run(work.feeds, work.names, work.options)
    except ORT_ERRORS as error:
        if work.options.terminate:
            return RequestError(grpc.StatusCode.CANCELLED, "the client has gone")
        name = work.model.name
        which = {"request_id": work.request_id, "model": name, "point": runtime.point_id}
        _log.warning("run failed", extra=which, exc_info=error)
        shapes = ", ".join(f"{tensor} {list(feed.shape)}" for tensor, feed in work.feeds.items())
        return invalid(f"model {name!r}: it cannot compute inputs of these shapes or values: {shapes}")
    return Run(arrays, runtime.point_id, started, time.perf_counter_ns(), 1, 1)


def _together(group: Sequence[Work], runtime: Runtime) -> list[Run]:
    started = time.perf_counter_ns()
    first, rows = group[0], [work.rows for work in group]
    feeds = {name: np.concatenate([work.feeds[name] for work in group]) for name in first.feeds}
    # Options of its own: the end of one call must not terminate the run of the others.
    arrays = runtime.run(feeds, first.names, ort.RunOptions())
    for array in arrays:
        if array.shape[:1] != (sum(rows),):
            raise ValueError(f"expected {sum(rows)} rows in each output, got shape {array.shape}")
    parts = [np.split(array, np.cumsum(rows)[:-1]) for array in arrays]
    finished = time.perf_counter_ns()
    return [
        Run([part[index] for part in parts], runtime.point_id, started, finished, len(group), int(index == 0))
        for index in range(len(group))
    ]
