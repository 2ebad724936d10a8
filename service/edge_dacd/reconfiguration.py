"""Changes of configuration while serving: accepted durably, compiled in the background, swapped in without a gap.

A change is written to the journal as pending before anything else happens. One worker compiles, one job at a time: the
newest pending change of a model first, then dry runs, then ladders for the governor. A newer change of the same model
ends the job of the older one, which answers ABORTED. What needs no compilation (pin, rollback) is done at once by the
thread that asks.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import grpc

from edge_dac.artifacts.generations import Generation, GenerationJournal, State
from edge_dac.artifacts.store import ArtifactStore
from edge_dac.device.profile import profile_device
from edge_dac.errors import ArtifactError, EdgeDacError
from edge_dac.planning.budget import Budget
from edge_dacd.changes import ChangeRequest, Outcome, Pending
from edge_dacd.compilation import remove_left_behind
from edge_dacd.compile_queue import CompileQueue, DryRun
from edge_dacd.config import CompressionConfig
from edge_dacd.events import EventHub
from edge_dacd.managed_model import ManagedModel
from edge_dacd.models import ServedModel
from edge_dacd.operating_points import ModelPoints
from edge_dacd.runtime import ORIGINAL
from edge_dacd.state_files import StateFiles
from edge_dacd.status import RequestError, not_found

_log = logging.getLogger(__name__)
STORE_LIMIT_BYTES = 4 << 30
STORE_SHARE_OF_DISK = 0.1
"""The store stays below both; what generations need is kept in any case."""
_LONGEST_WAIT_S = 24 * 3600.0
_POLL_S = 0.5


class Reconfigurator:
    """All models under control, and the changes on their way.

    Attach :meth:`attach` to ``ModelRepository.on_loaded`` and :meth:`detach` to ``on_unloaded``.

    Args:
        state: the daemon's state directory.
        threads: intra-op threads of a run.
        available_memory_bytes: how much can be allocated now; None where unknown.
        hold: keeps the model of this name from running inside the block; its requests wait.

    Attributes:
        allow_gap: whether that may be done for every change that memory is too short for; may be set at any time.

    Raises:
        UsageError: another daemon uses the state directory, or it cannot be written.
    """

    def __init__(
        self,
        state: Path,
        settings: CompressionConfig,
        threads: int,
        events: EventHub,
        available_memory_bytes: Callable[[], int | None],
        hold: Callable[[str], AbstractContextManager[None]],
        *,
        allow_gap: bool = False,
    ) -> None:
        self._files = StateFiles(state.absolute())
        self._claim = self._files.claim()
        self._store = ArtifactStore(self._files.store)
        self._store.recover()
        remove_left_behind(self._files.store)
        self._enabled = settings.enabled
        self._threads = threads
        self._events = events
        self._available_memory_bytes = available_memory_bytes
        self._hold = hold
        self.allow_gap = allow_gap
        self._fingerprint = profile_device().fingerprint
        self._managed: dict[str, ManagedModel] = {}
        self._lock = threading.Lock()
        self._queue = CompileQueue(self._files, settings, threads, events, self._after_job)

    # Models that come and go.

    def attach(self, model: ServedModel) -> None:
        """Take a loaded model under control: it serves its last good point at once; what is missing is made later."""
        before = self._managed.get(model.name)
        if before is not None:  # reloaded: only one may write the journal
            self._queue.forget(before)
            before.close()
        journal = GenerationJournal(self._files.generations, model.name)
        points = ModelPoints(model, self._store, self._threads, self._available_memory_bytes, self._hold)
        managed = ManagedModel(
            points, journal, self._store, self._events, self._fingerprint, allow_gap=lambda: self.allow_gap
        )
        with self._lock:
            self._managed[model.name] = managed
        if self._enabled:
            with managed.lock:
                managed.restore()
                self._resume(managed)

    def detach(self, model: ServedModel) -> None:
        """Let go of a model that is no longer served."""
        with self._lock:
            managed = self._managed.get(model.name)
            if managed is None or managed.model is not model:
                return
            del self._managed[model.name]
        self._queue.forget(managed)
        managed.close()

    def managed(self, name: str) -> ManagedModel:
        """The model under control with this name.

        Raises:
            RequestError: NOT_FOUND.
        """
        managed = self._managed.get(name)
        if managed is None:
            raise not_found(f"model {name!r}: expected one of {sorted(self._managed)}")
        return managed

    def models(self) -> tuple[ManagedModel, ...]:
        """All models under control, by name."""
        with self._lock:
            return tuple(self._managed[name] for name in sorted(self._managed))

    def _resume(self, managed: ManagedModel) -> None:
        """Go on where the daemon stopped, or begin: what makes this model what it shall be."""
        journal, model = managed.journal, managed.model
        configured = model.source.budget.to_json() if model.source.budget is not None else None
        if journal.applied is None and journal.pending is None:
            managed.begin()
        pending, applied = journal.pending, journal.applied
        if configured is not None and configured != journal.configured_budget:
            draft = Generation(0, State.PENDING, "configuration", budget=configured, best_effort=True)
        elif pending is not None:
            managed.take_up(pending)
            self._start(managed, pending)
            return
        elif applied is None or (applied.budget is None and journal.model_digest == model.digest):
            return
        elif journal.model_digest != model.digest:
            draft = replace(applied, cause="model_changed", points=(), pinned_point=None, active_point=None)
        elif managed.points.active_id != (applied.pinned_point or applied.active_point):
            draft = replace(applied, cause="repair", points=(), pinned_point=None, active_point=None)
        elif not applied.pinned_point and self._measured_elsewhere(managed):
            draft = replace(applied, cause="device_changed", points=(), active_point=None)
        else:
            if managed.ladder_is_thin():
                self._queue.want_ladder(managed)
            else:
                self._queue.when_idle(managed.points.offer)
            return
        request = ChangeRequest(model.name, draft.cause)
        generation, _ = managed.accept(request, draft)
        self._start(managed, generation)

    def _measured_elsewhere(self, managed: ManagedModel) -> bool:
        """Whether the device was another one (power mode, cores, ONNX Runtime) when the points were measured."""
        plans = [point.plan for point in managed.points.ladder if point.plan is not None]
        return any(plan.device_fingerprint != self._fingerprint for plan in plans)

    # Changes.

    def change(self, request: ChangeRequest, *, wait: bool, is_wanted: Callable[[], bool]) -> Outcome | None:
        """Make a change; returns its outcome, or None if nobody waits for it any more.

        Args:
            wait: False returns as soon as the change is durable.
            is_wanted: whether the one who asked is still there. The change goes on without him.

        Raises:
            RequestError: ABORTED, FAILED_PRECONDITION, NOT_FOUND or INVALID_ARGUMENT, see ``control.proto``.
        """
        managed = self.managed(request.model)
        if not self._enabled:
            message = f"model {request.model!r}: compression is switched off on this device"
            raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, message)
        pending = self._dry_run(managed, request) if request.dry_run else self._accept(managed, request)
        if not wait and not request.dry_run:
            return Outcome(pending.generation, False, managed.points.ladder[0])
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while is_wanted() and time.monotonic() < deadline:
            outcome = pending.wait(_POLL_S)
            if outcome is not None:
                return outcome
        return None

    def _accept(self, managed: ManagedModel, request: ChangeRequest) -> Pending:
        arrival = managed.arrive(request)
        with managed.lock:
            known = managed.known_answer(request)
            if known is not None:
                return known
            managed.check_newest(arrival)
            managed.check_expected(request)
            draft = replace(self._draft(managed, request), allow_gap=request.allow_gap)
            try:
                generation, pending = managed.accept(request, draft)
            except OSError as error:
                raise ArtifactError(f"model {request.model!r}: cannot be stored: {error.strerror}") from error
            self._start(managed, generation)
            return pending

    def _start(self, managed: ManagedModel, generation: Generation) -> None:
        """Begin the work on an accepted generation; done already when this returns if it needs no compilation."""
        if generation.cause == "rollback" and self._has_all(generation):
            self._queue.supersede(managed)
            wanted = generation.pinned_point or generation.active_point or ORIGINAL
            managed.apply(generation, wanted, generation.message or "rolled back")
        elif generation.cause == "set_active_point":
            self._queue.supersede(managed)
            managed.apply(generation, generation.active_point or ORIGINAL, generation.message)
        elif generation.budget is None:
            self._queue.supersede(managed)
            managed.apply(generation, ORIGINAL, "no budget: the original")
        else:
            self._queue.compile(managed, generation)

    def _has_all(self, generation: Generation) -> bool:
        try:
            for digest in generation.points:
                self._store.look_up(digest)
        except ArtifactError:
            return False
        return bool(generation.points) or generation.active_point == ORIGINAL

    def _draft(self, managed: ManagedModel, request: ChangeRequest) -> Generation:
        """The generation that a request asks for, on top of the one in force."""
        applied = managed.journal.applied or Generation(0, State.APPLIED, "start", active_point=ORIGINAL)
        if request.cause in ("set_budget", "set_ranks"):
            budget = (request.budget or Budget()).to_json()
            return Generation(0, State.PENDING, request.cause, budget=budget, best_effort=request.best_effort)
        if request.cause == "set_active_point":
            return self._pin_draft(managed, request, applied)
        if request.cause == "reprofile":
            if applied.budget is None:
                message = f"model {request.model!r}: expected one with a budget, this one has none to plan for"
                raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, message)
            best_effort = applied.best_effort or request.best_effort
            return replace(
                applied, cause="reprofile", best_effort=best_effort, points=(), pinned_point=None, active_point=None
            )
        return self._rollback_draft(managed, request, applied)

    def _pin_draft(self, managed: ManagedModel, request: ChangeRequest, applied: Generation) -> Generation:
        if not request.point:
            return replace(
                applied,
                cause=request.cause,
                pinned_point=None,
                active_point=self._point_of_budget(managed, applied),
                message="the budget and the governor choose",
            )
        try:
            point = managed.points.find(request.point)
        except ArtifactError as error:
            raise not_found(str(error)) from error
        message = "an operator fixed it"
        return replace(applied, cause=request.cause, pinned_point=point.id, active_point=point.id, message=message)

    @staticmethod
    def _point_of_budget(managed: ManagedModel, applied: Generation) -> str:
        """Where the budget in force led before a point was fixed; what serves now, where that is not known any more.

        The governor moves on from there only if the budget is in milliseconds.
        """
        offered = {point.id for point in managed.points.ladder}
        for one in reversed(managed.journal.history):
            led = one.state is State.APPLIED and one.budget == applied.budget and one.cause != "set_active_point"
            if led and one.active_point in offered:
                return str(one.active_point)
        return managed.points.active_id

    def _rollback_draft(self, managed: ManagedModel, request: ChangeRequest, applied: Generation) -> Generation:
        history = [one for one in managed.journal.history if one.state is State.APPLIED]
        earlier = [one for one in history if one.number < applied.number]
        wanted = request.generation or (earlier[-1].number if earlier else 0)
        target = next((one for one in history if one.number == wanted), None)
        if target is None:
            numbers = ", ".join(str(one.number) for one in history)
            message = f"model {request.model!r}: expected a generation of [{numbers}], got {wanted}"
            raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, message)
        return replace(target, cause="rollback", message=f"rolled back to generation {target.number}")

    def _dry_run(self, managed: ManagedModel, request: ChangeRequest) -> Pending:
        managed.check_expected(request)
        draft = self._draft(managed, request)
        applied = managed.journal.applied
        pending = Pending(applied.number if applied else 0)
        if request.cause in ("set_active_point", "rollback"):
            point_id = draft.pinned_point or draft.active_point or ORIGINAL
            ladder = managed.points.ladder
            point = next((one for one in ladder if one.id == point_id), ladder[0])
            pending.resolve(Outcome(pending.generation, False, point))
        else:
            self._queue.dry_run(DryRun(managed, draft, pending))
        return pending

    # After a compilation.

    def _after_job(self, managed: ManagedModel) -> None:
        """Bring ladder and store up to date after a job that has added points."""
        try:
            managed.extend_ladder()
            keep = {digest for one in self.models() for digest in one.journal.referenced_points}
            limit = min(STORE_LIMIT_BYTES, int(STORE_SHARE_OF_DISK * shutil.disk_usage(self._files.store).total))
            removed = self._store.prune(max_bytes=limit, keep=keep)
        except (EdgeDacError, OSError) as error:
            _log.warning("store not tidied", extra={"reason": str(error)})
            return
        if removed:
            _log.info("points evicted", extra={"count": len(removed)})
        managed.points.offer()

    def close(self) -> None:
        """End the compiler, answer whoever waits, give up the state directory."""
        self._queue.close()
        for managed in self.models():
            managed.close()
        self._claim.close()
