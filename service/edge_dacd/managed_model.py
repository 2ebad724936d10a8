"""One model under control: its journal, its operating points, and the change that is on its way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import grpc

from edge_dac.artifacts.generations import Generation, GenerationJournal, State
from edge_dac.artifacts.store import ArtifactStore, StoredPoint
from edge_dac.errors import ArtifactError, EdgeDacError
from edge_dac.planning.budget import Budget
from edge_dacd.changes import ChangeRequest, Outcome, Pending, aborted
from edge_dacd.events import EventHub
from edge_dacd.models import ServedModel
from edge_dacd.operating_points import LadderPoint, MemoryShortError, ModelPoints, from_stored, pareto
from edge_dacd.runtime import ORIGINAL
from edge_dacd.status import RequestError, from_library

_log = logging.getLogger(__name__)
MAX_LADDER_POINTS = 8
_KEYS_KEPT = 256


class ManagedModel:
    """State of one model's configuration. All writes happen under ``lock``, one at a time.

    Args:
        fingerprint: of this device: operating points that were measured elsewhere are not put on the ladder.
        allow_gap: whether every change may unload first where memory is short, also one that does not say so.
    """

    def __init__(
        self,
        points: ModelPoints,
        journal: GenerationJournal,
        store: ArtifactStore,
        events: EventHub,
        fingerprint: str,
        *,
        allow_gap: Callable[[], bool],
    ) -> None:
        self.points = points
        self.journal = journal
        self.lock = threading.RLock()
        self.last_failure = "; ".join(journal.damage)
        self.pending: Pending | None = None
        self._arrivals = 0
        self._outdated: frozenset[str] = frozenset()
        self._keys: dict[str, Pending] = {}
        self._store = store
        self._events = events
        self._fingerprint = fingerprint
        self._allow_gap = allow_gap

    @property
    def name(self) -> str:
        return self.points.model.name

    @property
    def model(self) -> ServedModel:
        return self.points.model

    @property
    def pinned_point(self) -> str | None:
        """The point that an operator fixed."""
        return self.journal.applied.pinned_point if self.journal.applied else None

    @property
    def budget(self) -> Budget | None:
        """The budget in force."""
        applied = self.journal.applied
        return Budget.from_json(applied.budget) if applied and applied.budget is not None else None

    def allows_gap(self, generation: Generation | None = None) -> bool:
        """Whether the model may be unloaded before another point is loaded, by this generation or the one in force."""
        deciding = generation or self.journal.applied
        return self._allow_gap() or (deciding is not None and deciding.allow_gap)

    def begin(self) -> None:
        """Write the first generation: the original as it is. There is always something to roll back to."""
        start = Generation(0, State.PENDING, "start", active_point=ORIGINAL, created_unix_s=time.time())
        accepted = self.journal.accept(start)
        self.journal.decide(replace(accepted, state=State.APPLIED), model_digest=self.model.digest)

    def restore(self) -> None:
        """Serve the last good operating point at once; what is missing or damaged is reported."""
        applied = self.journal.applied
        if applied is None or self.journal.model_digest != self.model.digest:
            return
        problems = self.points.set_ladder(applied.points)
        wanted = applied.pinned_point or applied.active_point or ORIGINAL
        try:
            # No request can have come yet: a gap harms nobody.
            reason = f"the last good operating point, of generation {applied.number}"
            self.points.activate(wanted, reason, allow_gap=True)
        except EdgeDacError as error:
            problems.append(str(error))
        self._note_fixed()
        if problems:
            self.last_failure = "; ".join(dict.fromkeys([*self.journal.damage, *problems]))
            _log.error("stored points", extra={"model": self.name, "reason": self.last_failure})

    def outdate(self) -> None:
        """The measurements so far are not believed any more: the points made by them leave the ladder."""
        self._outdated = frozenset(stored.digest for stored in self._store.points(self.model.digest))

    # Accepting.

    def arrive(self, request: ChangeRequest) -> int | None:
        """The place of an unconditional budget in the order of arrival, before it waits for the lock; else None."""
        if request.expected_generation is not None or request.cause not in ("set_budget", "set_ranks"):
            return None
        self._arrivals += 1
        return self._arrivals

    def check_newest(self, arrival: int | None) -> None:
        """Spare the disk in a storm: a budget that another has overtaken while it waited is not even written.

        Raises:
            RequestError: ABORTED.
        """
        if arrival is not None and arrival < self._arrivals:
            raise aborted(f"model {self.name!r}: superseded by a newer request")

    def known_answer(self, request: ChangeRequest) -> Pending | None:
        """What a request with the same idempotency key came to, if there was one."""
        pending = self._keys.get(request.idempotency_key) if request.idempotency_key else None
        if pending is not None:
            return pending
        known = self.journal.find_key(request.idempotency_key)
        if known is None or known.state is State.PENDING:
            return None
        answer = Pending(known.number)
        if known.state is State.APPLIED:
            point = self._point_or_original(known.active_point)
            answer.resolve(Outcome(known.number, True, point, self._original_ms(point)))
        else:
            answer.reject(RequestError(grpc.StatusCode.FAILED_PRECONDITION, known.message))
        return answer

    def accept(self, request: ChangeRequest, draft: Generation) -> tuple[Generation, Pending]:
        """Make a change durable; the one that was on its way ends with ABORTED.

        Raises:
            RequestError: ABORTED if ``expected_generation`` is not the newest.
        """
        self.check_expected(request)
        noted = {"configured_budget": draft.budget} if request.cause == "configuration" else {}
        draft = replace(draft, idempotency_key=request.idempotency_key, created_unix_s=time.time())
        accepted = self.journal.accept(draft, **noted)
        if self.pending is not None:
            self.pending.reject(aborted(f"model {self.name!r}: superseded by generation {accepted.number}"))
        return accepted, self.take_up(accepted)

    def take_up(self, accepted: Generation) -> Pending:
        """Work on a durable generation begins, or goes on after a restart."""
        self.pending = Pending(accepted.number)
        if accepted.idempotency_key:
            self._keys[accepted.idempotency_key] = self.pending
            if len(self._keys) > _KEYS_KEPT:
                del self._keys[next(iter(self._keys))]
        self._events.publish(self.name, accepted={"generation": accepted.number, "cause": accepted.cause})
        _log.info("accepted", extra={"model": self.name, "generation": accepted.number, "cause": accepted.cause})
        return self.pending

    def check_expected(self, request: ChangeRequest) -> None:
        """
        Raises:
            RequestError: ABORTED if ``expected_generation`` is not the newest.
        """
        expected = request.expected_generation
        if expected is not None and expected != self.journal.head:
            raise aborted(f"model {self.name!r}: expected generation {expected}, the newest is {self.journal.head}")

    # Deciding.

    def apply(self, generation: Generation, point_id: str, reason: str, *, budget_met: bool = True) -> None:
        """Swap to the point and make the generation durable as applied; whoever waits is told.

        A generation that is no longer the pending one is left alone. If anything fails, the model computes with the
        point it had, and the generation has failed.
        """
        with self.lock:
            if self.pending is None or self.pending.generation != generation.number:
                return
            before, ladder = self.points.active_id, self.points.ladder
            try:
                self._take(generation, point_id, reason)
            except EdgeDacError as error:
                self.points.set_ladder([one.id for one in ladder if one.id != ORIGINAL])
                self.announce_swap(generation.number, before)  # if what came back is not what was there
                self.fail(generation, _status_of(error))
                return
            self._note_fixed()
            self.last_failure = ""
            self.announce_swap(generation.number, before)
            self._events.publish(self.name, applied={"generation": generation.number, "active_point": point_id})
            point = self._point_or_original(point_id)
            self._settle().resolve(Outcome(generation.number, True, point, self._original_ms(point), budget_met))

    def _take(self, generation: Generation, point_id: str, reason: str) -> None:
        """Swap to the point and make that durable; if it cannot be made durable, swap back."""
        before, allow_gap = self.points.active_id, self.allows_gap(generation)
        self.points.set_ladder(self._ladder_digests(generation, point_id))
        self.points.activate(point_id, reason, allow_gap=allow_gap)
        points = tuple(one.id for one in self.points.ladder if one.id != ORIGINAL)
        applied = replace(generation, state=State.APPLIED, points=points, active_point=point_id)
        try:
            self.journal.decide(applied, model_digest=self.model.digest)
        except OSError as error:
            self.points.activate(before, "the change could not be stored", allow_gap=allow_gap)
            raise ArtifactError(f"model {self.name!r}: cannot be stored: {error.strerror}") from error

    def fail(self, generation: Generation, error: RequestError) -> None:
        """The pending generation cannot be: it is durable as failed, and whoever waits is told why."""
        with self.lock:
            if self.pending is None or self.pending.generation != generation.number:
                return
            self.last_failure = error.message
            try:
                self.journal.decide(replace(generation, state=State.FAILED, message=error.message))
            except OSError as cause:
                # It stays pending on the disk: the next start tries again.
                _log.error("failure not stored", extra={"model": self.name, "reason": cause.strerror})
            self.report(generation.number, error)
            self._settle().reject(error)

    def report(self, number: int, error: RequestError) -> None:
        """Log a failure and send it to those who watch; ``number`` 0 if it belongs to no change."""
        _log.warning("change failed", extra={"model": self.name, "generation": number, "reason": error.message})
        self._events.publish(
            self.name, failure={"generation": number, "code": error.code.name, "message": error.message}
        )

    def announce_swap(self, number: int, before: str) -> None:
        """Log a swap and send it to those who watch; nothing if the point is the same."""
        after, reason = self.points.active_id, self.points.reason
        if before == after:
            return
        _log.info("swapped", extra={"model": self.name, "from": before[:12], "to": after[:12], "reason": reason})
        swap = {"generation": number, "from_point": before, "to_point": after, "reason": reason}
        self._events.publish(self.name, swap=swap)

    def extend_ladder(self) -> None:
        """Put what a compilation has added to the store on the ladder of the applied generation."""
        with self.lock:
            applied = self.journal.applied
            if applied is None or applied.state is not State.APPLIED:
                return
            digests = self._ladder_digests(applied, applied.active_point or ORIGINAL)
            self.points.set_ladder(digests)
            if digests != list(applied.points):
                self.journal.decide(replace(applied, points=tuple(digests)))

    def close(self) -> None:
        """Let nobody wait for ever."""
        with self.lock:
            if self.pending is not None:
                self._settle().reject(RequestError(grpc.StatusCode.UNAVAILABLE, "the daemon is stopping"))

    def _note_fixed(self) -> None:
        budget = self.budget
        self.model.is_fixed = bool(self.pinned_point) or (budget is not None and budget.fixes_ranks)

    # The ladder.

    def ladder_is_thin(self) -> bool:
        """Whether the governor has too few points to move along, and more could be made."""
        budget = self.budget
        return budget is not None and not budget.fixes_ranks and len(self.points.ladder) < 4

    def _ladder_digests(self, generation: Generation, chosen: str) -> list[str]:
        """The points that the governor may use under this generation, most exact first, the chosen one among them."""
        if generation.points and (generation.cause == "rollback" or generation.pinned_point):
            return list(generation.points)
        budget = Budget.from_json(generation.budget or {})
        candidates = [
            from_stored(stored)
            for stored in self._store.points(self.model.digest)
            if stored.digest == chosen or self._is_comparable(stored)
        ]
        if budget.fixes_ranks:
            return [one.id for one in candidates if one.id == chosen]
        fitting = [
            one
            for one in pareto(candidates)
            if (budget.max_error is None or one.predicted_error <= budget.max_error)
            and (budget.memory_bytes is None or one.size_bytes <= budget.memory_bytes)
        ]
        kept = _thin_out(fitting, MAX_LADDER_POINTS)
        kept += [one for one in candidates if one.id == chosen and one not in kept]
        kept.sort(key=lambda one: (one.predicted_error, -(one.latency_ms or 0.0)))
        return [one.id for one in kept]

    def _is_comparable(self, stored: StoredPoint) -> bool:
        """Whether a point was made by the planner's choice and measured on this device as it is now."""
        fixes_ranks = Budget.from_json(stored.plan.budget).fixes_ranks
        here = stored.plan.device_fingerprint == self._fingerprint and stored.digest not in self._outdated
        return here and not fixes_ranks

    def _point_or_original(self, point_id: str | None) -> LadderPoint:
        ladder = self.points.ladder
        return next((one for one in ladder if one.id == point_id), ladder[0])

    @staticmethod
    def _original_ms(point: LadderPoint) -> float | None:
        return point.plan.original_latency_ms if point.plan else point.latency_ms

    def _settle(self) -> Pending:
        assert self.pending is not None
        pending, self.pending = self.pending, None
        return pending


def _status_of(error: EdgeDacError) -> RequestError:
    if isinstance(error, MemoryShortError):
        return RequestError(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    return from_library(error)


def _thin_out(points: list[LadderPoint], most: int) -> list[LadderPoint]:
    """At most ``most`` of the points, evenly over the ladder, both ends among them."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return [points[round(index * step)] for index in range(most)]
