"""One worker that runs one compiler child at a time, in the order that matters to an operator."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc

from edge_dac.artifacts.generations import Generation
from edge_dac.planning.budget import Budget
from edge_dac.planning.plan import Plan
from edge_dacd.changes import BudgetImpossibleError, Outcome, Pending
from edge_dacd.compilation import CompilerError, CompilerProcess
from edge_dacd.compiler import Job
from edge_dacd.config import CompressionConfig
from edge_dacd.events import EventHub
from edge_dacd.managed_model import ManagedModel
from edge_dacd.operating_points import LadderPoint
from edge_dacd.runtime import ORIGINAL
from edge_dacd.state_files import StateFiles
from edge_dacd.status import RequestError

_log = logging.getLogger(__name__)

SETTLE_S = 0.15
"""A change waits so long for a newer one before a child is started: a storm starts one, not hundreds."""
LADDER_POINTS = 6
_MAX_DRY_RUNS = 4
_FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
_CODES = {
    "MemoryError": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UsageError": grpc.StatusCode.INVALID_ARGUMENT,
    "BudgetError": grpc.StatusCode.INVALID_ARGUMENT,
    "InternalError": grpc.StatusCode.INTERNAL,
    "CompilerDied": grpc.StatusCode.INTERNAL,
    "CompilerHung": grpc.StatusCode.INTERNAL,
    "CompilerProtocol": grpc.StatusCode.INTERNAL,
}
"""Status codes by the name of the child's error. FAILED_PRECONDITION for the rest: model or budget are to blame."""


@dataclass(frozen=True, eq=False, slots=True)
class DryRun:
    """A plan that is wanted only to look at."""

    managed: ManagedModel
    draft: Generation
    pending: Pending


class _Kind(Enum):
    CHANGE = "change"
    LADDER = "ladder"
    DRY_RUN = "dry run"


@dataclass(eq=False, slots=True)
class _Running:
    managed: ManagedModel
    process: CompilerProcess
    kind: _Kind
    """A change becomes a ladder once its own point is there."""
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True
        self.process.kill()


class CompileQueue:
    """What waits for the compiler, and the thread that runs it.

    Args:
        after_job: called with the model after each job that may have added points to the store.
    """

    def __init__(
        self,
        files: StateFiles,
        settings: CompressionConfig,
        threads: int,
        events: EventHub,
        after_job: Callable[[ManagedModel], None],
    ) -> None:
        self._files = files
        self._settings = settings
        self._threads = threads
        self._events = events
        self._after_job = after_job
        self._changed = threading.Condition()
        self._changes: dict[str, tuple[ManagedModel, Generation, float]] = {}
        self._dry_runs: deque[DryRun] = deque()
        self._ladders: dict[str, ManagedModel] = {}
        self._idle_jobs: deque[Callable[[], None]] = deque()
        self._running: _Running | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="compiler", daemon=True)
        self._thread.start()

    def compile(self, managed: ManagedModel, generation: Generation) -> None:
        """Make the operating point of an accepted generation; replaces what this model was waiting for."""
        with self._changed:
            self._changes[managed.name] = (managed, generation, time.monotonic() + SETTLE_S)
            self._stop_running(managed, also_ladders=True)
            self._changed.notify()

    def supersede(self, managed: ManagedModel) -> None:
        """Drop what this model was waiting for: a newer change needs no compilation."""
        with self._changed:
            self._changes.pop(managed.name, None)
            self._stop_running(managed, also_ladders=False)

    def want_ladder(self, managed: ManagedModel) -> None:
        """Make more points for the governor when there is nothing else to do."""
        with self._changed:
            self._ladders[managed.name] = managed
            self._changed.notify()

    def when_idle(self, job: Callable[[], None]) -> None:
        """Call ``job`` on the worker when there is nothing to compile."""
        with self._changed:
            self._idle_jobs.append(job)
            self._changed.notify()

    def dry_run(self, wanted: DryRun) -> None:
        """
        Raises:
            RequestError: RESOURCE_EXHAUSTED if too many wait already.
        """
        with self._changed:
            if len(self._dry_runs) >= _MAX_DRY_RUNS:
                message = f"dry run: expected at most {_MAX_DRY_RUNS} to wait, there are as many already"
                raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
            self._dry_runs.append(wanted)
            self._changed.notify()

    def forget(self, managed: ManagedModel) -> None:
        """Drop everything that concerns a model."""
        with self._changed:
            self._changes.pop(managed.name, None)
            self._ladders.pop(managed.name, None)
            if self._running is not None and self._running.managed is managed:
                self._running.stop()

    def close(self) -> None:
        """End the child and the thread."""
        with self._changed:
            self._closed = True
            if self._running is not None:
                self._running.stop()
            self._changed.notify()
        self._thread.join()
        for waiting in self._dry_runs:
            waiting.pending.reject(RequestError(grpc.StatusCode.UNAVAILABLE, "the daemon is stopping"))

    def _stop_running(self, managed: ManagedModel, *, also_ladders: bool) -> None:
        running = self._running
        if running is None or running.stopped:
            return
        if running.kind is _Kind.CHANGE and running.managed is managed:
            running.stop()
        elif running.kind is _Kind.LADDER and also_ladders:
            self._ladders[running.managed.name] = running.managed
            running.stop()

    # The worker.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001
                # The one worker must outlive whatever a job runs into; the trace is for the maintainers.
                _log.exception("a job of the compiler queue failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                due = [entry for entry in self._changes.values() if entry[2] <= now]
                if due:
                    managed, generation, _ = min(due, key=lambda entry: entry[2])
                    del self._changes[managed.name]
                    self._ladders.pop(managed.name, None)
                    return lambda: self._compile(managed, generation)
                if not self._changes and self._dry_runs:
                    wanted = self._dry_runs.popleft()
                    return lambda: self._try(wanted)
                if not self._changes and self._ladders:
                    _, managed = self._ladders.popitem()
                    return lambda: self._extend(managed)
                if not self._changes and self._idle_jobs:
                    return self._idle_jobs.popleft()
                earliest = min((entry[2] for entry in self._changes.values()), default=None)
                self._changed.wait(None if earliest is None else max(0.0, earliest - now))
        return None

    def _compile(self, managed: ManagedModel, generation: Generation) -> None:
        if generation.cause == "reprofile":
            self._files.latency_table.unlink(missing_ok=True)
            managed.outdate()
        budget = Budget.from_json(generation.budget or {})
        job = self._job(managed, generation, ladder_points=0 if budget.fixes_ranks else LADDER_POINTS)
        met, made = True, None
        try:
            with self._child(managed, job, _Kind.CHANGE) as running:
                for event in self._events_of(running, generation.number):
                    if event["event"] == "unreachable":
                        met = False
                        if not generation.best_effort:
                            managed.fail(generation, _impossible(event))
                    elif event["event"] == "point" and event["role"] == "budget":
                        made = event
                        running.kind = _Kind.LADDER
                        if managed.points.make_room(event["size_bytes"]):
                            _apply(managed, generation, made, met)
                        else:
                            # The child's own memory may be what is missing: the rest of the ladder is made later.
                            with self._changed:
                                self._stop_running(managed, also_ladders=True)
        except CompilerError as error:
            if made is not None:  # only the ladder was cut short; the change stands
                managed.report(0, _status(error))
            else:
                managed.fail(generation, _status(error))
        if made is not None:
            _apply(managed, generation, made, met)
            self._after_job(managed)
        elif not self._closed:  # else it stays pending: the next start goes on with it
            managed.fail(generation, RequestError(grpc.StatusCode.INTERNAL, "the compiler made no operating point"))

    def _try(self, wanted: DryRun) -> None:
        job = self._job(wanted.managed, wanted.draft, dry_run=True)
        met, outcome = True, None
        try:
            with self._child(wanted.managed, job, _Kind.DRY_RUN) as running:
                for event in self._events_of(running, 0):
                    if event["event"] == "unreachable":
                        met = False
                        if not wanted.draft.best_effort:
                            wanted.pending.reject(_impossible(event))
                    elif event["event"] == "point":
                        plan = Plan.from_json(event["plan"])
                        point = _point(event, plan)
                        outcome = Outcome(wanted.pending.generation, False, point, plan.original_latency_ms, met)
        except CompilerError as error:
            wanted.pending.reject(_status(error))
        if outcome is not None:
            wanted.pending.resolve(outcome)
        else:
            wanted.pending.reject(RequestError(grpc.StatusCode.UNAVAILABLE, "the dry run was interrupted"))

    def _extend(self, managed: ManagedModel) -> None:
        applied = managed.journal.applied
        if applied is None:
            return
        try:
            with self._child(managed, self._job(managed, None, ladder_points=LADDER_POINTS), _Kind.LADDER) as running:
                for _ in self._events_of(running, applied.number):
                    pass
        except CompilerError as error:
            managed.report(0, _status(error))
        self._after_job(managed)

    @contextmanager
    def _child(self, managed: ManagedModel, job: Job, kind: _Kind) -> Iterator[_Running]:
        """A compiler child at work. One that was stopped on purpose ends the block without an error.

        Raises:
            CompilerError: it could not be started, failed or died.
        """
        running = _Running(managed, CompilerProcess(job), kind)
        with self._changed:
            self._running = running
            if self._closed or (kind is _Kind.CHANGE and managed.name in self._changes):
                running.stop()
        try:
            yield running
        except CompilerError:
            if not running.stopped:
                raise
        finally:
            with self._changed:
                self._running = None

    def _job(
        self,
        managed: ManagedModel,
        generation: Generation | None,
        *,
        ladder_points: int = 0,
        dry_run: bool = False,
    ) -> Job:
        source = managed.model.source
        return Job(
            model=str(source.path.absolute()),
            store=str(self._files.store),
            latency_table=str(self._files.latency_table),
            fidelity_table=str(self._files.fidelity_table),
            threads=self._threads,
            input_shapes=source.shapes,
            input_values=source.values,
            budget=None if generation is None else generation.budget or {},
            ladder_points=ladder_points,
            best_effort=generation is not None and generation.best_effort,
            dry_run=dry_run,
            memory_bytes=self._settings.memory_mb << 20,
            nice=self._settings.nice,
        )

    def _events_of(self, running: _Running, number: int) -> Any:
        """The child's events; progress goes to those who watch."""
        for event in running.process.events():
            if event["event"] == "progress":
                progress = {name: value for name, value in event.items() if name != "event" and value is not None}
                self._events.publish(running.managed.name, progress={"generation": number, **progress})
            else:
                yield event


def _apply(managed: ManagedModel, generation: Generation, made: dict[str, Any], met: bool) -> None:
    """Nothing happens if the generation is decided already."""
    managed.apply(generation, made["digest"] or ORIGINAL, _reason(made, met), budget_met=met)


def _status(error: CompilerError) -> RequestError:
    return RequestError(_CODES.get(error.code, _FAILED_PRECONDITION), str(error))


def _impossible(event: dict[str, Any]) -> BudgetImpossibleError:
    return BudgetImpossibleError(event["message"], event["latency_ms"], event["error"])


def _point(event: dict[str, Any], plan: Plan) -> LadderPoint:
    return LadderPoint(
        event["digest"] or "",
        plan.measured_latency_ms,
        plan.latency_p95_ms,
        plan.predicted_error,
        event["size_bytes"],
        plan,
    )


def _reason(event: dict[str, Any], met: bool) -> str:
    plan = event["plan"]
    what = "the operating point for the budget" if met else "the best that can be reached; the budget cannot be met"
    if event["digest"] is None:
        what = "the original, which meets the budget" if met else "the original: nothing faster was found"
    return f"{what}: {plan['measured_latency_ms']:.2f} ms, predicted error {plan['predicted_error']:.4f}"
