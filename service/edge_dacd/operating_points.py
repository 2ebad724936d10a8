"""The operating points of one served model: which there are, which are loaded, which is active."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from edge_dac.artifacts.store import ArtifactStore, StoredPoint
from edge_dac.errors import ArtifactError, EdgeDacError
from edge_dac.planning.plan import Plan
from edge_dacd.models import ServedModel
from edge_dacd.runtime import ORIGINAL, PointFigures, Runtime

_log = logging.getLogger(__name__)

MEMORY_RESERVE_BYTES = 64 << 20
"""What must stay free on the device after a second runtime was loaded."""
_BYTES_IN_MEMORY_PER_FILE_BYTE = 3
"""A cautious estimate: ONNX Runtime holds the weights, packed copies of them, and activations."""


class MemoryShortError(EdgeDacError):
    """There is no room for a second runtime beside the active one."""


@dataclass(frozen=True, slots=True)
class LadderPoint:
    """What is known of one operating point.

    Attributes:
        id: ``original`` or a digest in the store.
        latency_ms, latency_p95_ms: measured, whole model; None if unknown.
        predicted_error: 0 for the original.
        plan: None for the original.
    """

    id: str
    latency_ms: float | None
    latency_p95_ms: float | None
    predicted_error: float
    size_bytes: int
    plan: Plan | None = None

    @property
    def figures(self) -> PointFigures:
        """As requests' wishes are compared with."""
        return PointFigures(self.latency_ms, self.latency_p95_ms, self.predicted_error)


def from_stored(point: StoredPoint) -> LadderPoint:
    """The ladder's view of a stored point."""
    plan = point.plan
    return LadderPoint(
        point.digest, plan.measured_latency_ms, plan.latency_p95_ms, plan.predicted_error, point.size_bytes, plan
    )


def pareto(points: Iterable[LadderPoint]) -> list[LadderPoint]:
    """The points that no other beats in both latency and error, most exact first; unknown latency is beaten by none."""
    front: list[LadderPoint] = []
    for point in sorted(points, key=lambda one: (one.predicted_error, one.latency_ms or 0.0)):
        fastest = min((one.latency_ms for one in front if one.latency_ms is not None), default=None)
        if fastest is None or point.latency_ms is None or point.latency_ms < fastest:
            front.append(point)
    return front


class ModelPoints:
    """Loads, warms, swaps and releases the runtimes of one model. Thread-safe; one swap at a time.

    Args:
        available_memory_bytes: how much can be allocated now; None where unknown, which is taken for enough.
        hold: keeps the model of this name from running inside the block; its requests wait.
    """

    def __init__(
        self,
        model: ServedModel,
        store: ArtifactStore,
        threads: int,
        available_memory_bytes: Callable[[], int | None],
        hold: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.model = model
        self._store = store
        self._threads = threads
        self._available_memory_bytes = available_memory_bytes
        self._hold = hold
        self._lock = threading.RLock()
        self._ladder: tuple[LadderPoint, ...] = ()
        original = model.active
        self._original_size = original.size_bytes
        self._original_ms: float | None = None
        self.reason = "the original, as loaded"
        self.set_ladder(())

    @property
    def ladder(self) -> tuple[LadderPoint, ...]:
        """The original, then the operating points in use, most exact first."""
        return self._ladder

    @property
    def active_id(self) -> str:
        return self.model.active.point_id

    def loaded_ids(self) -> frozenset[str]:
        """Points that can answer at once."""
        return frozenset({self.active_id, *self.model.registered})

    def find(self, point_id: str) -> LadderPoint:
        """The point of the ladder with this id, or the only one whose id begins with it.

        Raises:
            ArtifactError: there is none, or more than one.
        """
        matches = [one for one in self._ladder if one.id == point_id] or [
            one for one in self._ladder if one.id.startswith(point_id)
        ]
        if len(matches) != 1 or not point_id:
            raise ArtifactError(
                f"model {self.model.name!r}: expected one operating point {point_id!r}, found {len(matches)} of "
                f"{', '.join(one.id[:12] for one in self._ladder)}"
            )
        return matches[0]

    def set_ladder(self, digests: Sequence[str]) -> list[str]:
        """Replace the ladder by the original and these stored points; those off it are no longer offered.

        Returns:
            One line for each point that cannot be used.
        """
        with self._lock:
            points, problems = [], []
            for digest in digests:
                try:
                    points.append(from_stored(self._store.look_up(digest)))
                except ArtifactError as error:
                    problems.append(str(error))
            for point in points:
                if point.plan is not None:
                    self._original_ms = point.plan.original_latency_ms
            original = LadderPoint(ORIGINAL, self._original_ms, None, 0.0, self._original_size)
            points.sort(key=lambda one: (one.predicted_error, -(one.latency_ms or 0.0)))
            self._ladder = (original, *points)
            for runtime in (self.model.active, *self.model.registered.values()):
                if runtime.point_id == ORIGINAL:
                    runtime.figures = original.figures  # its latency is known only once a plan was measured
            kept = {one.id for one in self._ladder}
            for point_id in set(self.model.registered) - kept:
                self.model.unregister(point_id)
            return problems

    def activate(self, point_id: str, reason: str, *, allow_gap: bool = False) -> str:
        """Load and warm the point if it is not, then swap to it. Returns the id that was active before.

        Requests in flight finish on the runtime they started on. The runtime before stays loaded, if it is on the
        ladder and memory has room, so that the way back is short.

        Args:
            allow_gap: where memory is short, unload first: requests wait in their line until the point is loaded.

        Raises:
            ArtifactError: the point is absent or damaged.
            MemoryShortError: there is no room for a second runtime, and with ``allow_gap`` not for the point alone.
            EdgeDacError: it cannot be loaded or does not fit the model. In each case the one before computes on.
        """
        with self._lock:
            before = self.model.active
            if before.point_id != point_id or not before.is_loaded:
                try:
                    runtime = self.model.registered.get(point_id) or self._load(point_id, make_room=True)
                except MemoryShortError:
                    if not allow_gap:
                        raise
                    reason += f"; unloaded first, {1e3 * self._exchange(point_id):.0f} ms without a runtime"
                else:
                    self.model.swap(runtime)
                    self._keep_or_release(before)
            self.reason = reason
            return before.point_id

    def _exchange(self, point_id: str) -> float:
        """Unload the active runtime, then load the point in its place; returns the seconds in between.

        If the point cannot be loaded, what was there before comes back, else the original.
        """
        before = self.model.active
        with self._hold(self.model.name):
            started = time.monotonic()
            before.release()
            try:
                self.model.swap(self._load(point_id, make_room=False))
            except BaseException:
                self._bring_back(before.point_id)
                raise
            return time.monotonic() - started

    def _bring_back(self, point_id: str) -> None:
        for candidate in dict.fromkeys((point_id, ORIGINAL)):
            try:
                # Not asked whether there is room: it was there a moment ago.
                self.model.swap(self._open(candidate))
            except EdgeDacError as error:
                _log.error("cannot come back", extra={"model": self.model.name, "reason": str(error)})
            else:
                self.reason = "it came back: another point could not be loaded"
                return

    def revive(self) -> None:
        """Load the active point again, else the original, where both failed after an exchange that failed."""
        with self._lock:
            if not self.model.active.is_loaded:
                self._bring_back(self.active_id)

    def offer(self) -> None:
        """Load the rest of the ladder, as far as memory goes, for the governor and for requests with a wish."""
        for point in self._ladder:
            with self._lock:
                if point.id in self.loaded_ids():
                    continue
                try:
                    self.model.register(self._load(point.id, make_room=False))
                except MemoryShortError:
                    return
                except EdgeDacError as error:
                    _log.warning("point not offered", extra={"model": self.model.name, "reason": str(error)})

    def make_room(self, size_bytes: int) -> bool:
        """Whether a point of this size can be loaded beside the active one, if need be in the place of idle ones."""
        if self._has_room(size_bytes):
            return True
        self.shed()
        return self._has_room(size_bytes)

    def shed(self) -> None:
        """Release every runtime but the active one."""
        with self._lock:
            for point_id in self.model.registered:
                self.model.unregister(point_id)

    def _keep_or_release(self, runtime: Runtime) -> None:
        on_ladder = any(one.id == runtime.point_id for one in self._ladder)
        if on_ladder and self._has_room(0):
            self.model.register(runtime)
        else:
            self.model.unregister(runtime.point_id)

    def _load(self, point_id: str, *, make_room: bool) -> Runtime:
        size_bytes = self._original_size if point_id == ORIGINAL else self._store.look_up(point_id).size_bytes
        if not (self.make_room(size_bytes) if make_room else self._has_room(size_bytes)):
            needed, available = self._needed_bytes(size_bytes), self._available_memory_bytes() or 0
            raise MemoryShortError(
                f"model {self.model.name!r}: expected {needed >> 20} MiB free for operating point {point_id[:12]} "
                f"beside the active one, found {available >> 20} MiB"
            )
        return self._open(point_id)

    def _open(self, point_id: str) -> Runtime:
        """Loaded and warmed."""
        try:
            runtime = self._read(point_id)
            runtime.warm_up(self.model.source.shapes, self.model.source.values)
        except MemoryError as error:
            message = f"model {self.model.name!r}: no memory for operating point {point_id[:12]}"
            raise MemoryShortError(message) from error
        return runtime

    def _read(self, point_id: str) -> Runtime:
        if point_id == ORIGINAL:
            runtime = Runtime.load(self.model.source.path, threads=self._threads, figures=self._ladder[0].figures)
            if runtime.digest != self.model.digest:
                raise ArtifactError(f"model {self.model.name!r}: its file has changed; reload it first")
            return runtime
        stored = self._store.get(point_id)
        return Runtime.load(
            stored.model_path,
            threads=self._threads,
            point_id=point_id,
            digest=stored.model_sha256,
            figures=from_stored(stored).figures,
        )

    def _needed_bytes(self, size_bytes: int) -> int:
        return _BYTES_IN_MEMORY_PER_FILE_BYTE * size_bytes + MEMORY_RESERVE_BYTES

    def _has_room(self, size_bytes: int) -> bool:
        available = self._available_memory_bytes()
        return available is None or available >= self._needed_bytes(size_bytes)
