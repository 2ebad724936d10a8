"""Watches requests and sensors, feeds the governors with them once a second, and makes the changes they decide on."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_dac.device.sensors import SensorReading, Sensors
from edge_dac.errors import EdgeDacError
from edge_dacd.changes import ChangeRequest
from edge_dacd.control_messages import sensors_message
from edge_dacd.drift import DriftWatch
from edge_dacd.events import EventHub
from edge_dacd.governor import Decision, Governor, Rung
from edge_dacd.managed_model import ManagedModel
from edge_dacd.metrics import Family
from edge_dacd.models import ServedModel
from edge_dacd.operating_points import MEMORY_RESERVE_BYTES
from edge_dacd.reconfiguration import Reconfigurator
from edge_dacd.statistics import Observation
from edge_dacd.status import RequestError, from_library

_log = logging.getLogger(__name__)
_PERIOD_S = 1.0
_STATISTIC_WINDOW_S = 60.0


@dataclass(eq=False, slots=True)
class _Watched:
    """One model: what its requests took, and its governor while it has a budget in milliseconds and is not pinned."""

    model: ServedModel
    arrived: deque[tuple[float, Observation]] = field(default_factory=lambda: deque(maxlen=4096))
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=4096))
    drift: DriftWatch = field(default_factory=DriftWatch)
    governor: Governor | None = None
    generation: int = -1
    decisions: int = 0


class Governing:
    """The thread of all governors.

    Attach :meth:`attach` to ``ModelRepository.on_loaded`` and :meth:`detach` to ``on_unloaded``.

    Args:
        clock: seconds, as ``time.monotonic``.

    Attributes:
        governs: whether operating points are changed to hold a latency budget; drift and memory are watched all the same.
    """

    def __init__(
        self,
        reconfigurator: Reconfigurator,
        events: EventHub,
        sensors: Sensors,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reconfigurator = reconfigurator
        self._events = events
        self._sensors = sensors
        self._clock = clock
        self.governs = True
        self._watched: dict[str, _Watched] = {}
        self._throttled: bool | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="governor", daemon=True)

    def start(self) -> None:
        """Begin to decide."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def attach(self, model: ServedModel) -> None:
        """Listen to the requests of a model."""
        watched = _Watched(model)
        model.statistics.subscribe(lambda observation: watched.arrived.append((self._clock(), observation)))
        self._watched[model.name] = watched

    def detach(self, model: ServedModel) -> None:
        """Forget a model that is no longer served."""
        watched = self._watched.get(model.name)
        if watched is not None and watched.model is model:
            del self._watched[model.name]

    def service_p95_ms(self, model: str) -> float | None:
        """95th percentile of queue and compute time over the last minute; None without requests."""
        watched = self._watched.get(model)
        if watched is None:
            return None
        now_s = self._clock()
        values = sorted(ms for when, ms in list(watched.recent) if now_s - when <= _STATISTIC_WINDOW_S)
        return values[int(0.95 * (len(values) - 1))] if values else None

    def collect(self) -> list[Family]:
        """Metrics of the control plane."""
        generation = Family("edge_dac_generation", "gauge", "Newest applied generation.")
        decisions = Family("edge_dac_governor_decisions_total", "counter", "Changes of the operating point by itself.")
        budget = Family("edge_dac_budget", "gauge", "The budget in force, in the unit that its key names.")
        for managed in self._reconfigurator.models():
            applied = managed.journal.applied
            for key, value in (managed.budget.to_json() if managed.budget else {}).items():
                if key != "layer_ranks":
                    budget.add(value, model=managed.name, key=key)
            generation.add(applied.number if applied else 0, model=managed.name)
            watched = self._watched.get(managed.name)
            decisions.add(watched.decisions if watched else 0, model=managed.name)
        return [generation, decisions, budget]

    def _work(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            try:
                self.look()
            except Exception:  # noqa: BLE001
                # A model without a governor is better than a daemon without any; the trace is for the maintainers.
                _log.exception("the governor failed in one round")

    def look(self) -> None:
        """One round over all models, as the thread makes one every second."""
        reading = self._sensors.read()
        self._report_throttling(reading)
        for managed in self._reconfigurator.models():
            watched = self._watched.get(managed.name)
            if watched is not None:
                self._step(managed, watched, reading)

    def _step(self, managed: ManagedModel, watched: _Watched, reading: SensorReading) -> None:
        now_s = self._clock()
        self._renew(managed, watched, now_s)
        ladder = managed.points.ladder
        active = next((point for point in ladder if point.id == managed.points.active_id), ladder[0])
        watched.drift.follow(active.id, active.latency_ms)
        governor = watched.governor
        while watched.arrived:
            when_s, seen = watched.arrived.popleft()
            watched.recent.append((when_s, seen.queue_ms + seen.compute_ms))
            watched.drift.observe(seen.compute_ms, seen.point_id)
            if governor is not None:
                governor.observe(when_s, seen.queue_ms, seen.compute_ms, seen.point_id)
        available = reading.available_memory_bytes
        if available is not None and available < MEMORY_RESERVE_BYTES and len(managed.points.loaded_ids()) > 1:
            _log.warning("memory is short: idle points released", extra={"model": managed.name})
            managed.points.shed()
        managed.points.revive()
        if governor is not None and managed.pending is None:
            decision = governor.decide(now_s, reading)
            if decision is not None:
                self._make(managed, watched, governor, decision)
        reason = watched.drift.check(now_s)
        if reason is not None and managed.pending is None and not managed.pinned_point:
            self._measure_again(managed, reason)

    def _measure_again(self, managed: ManagedModel, reason: str) -> None:
        _log.warning("the device has changed: measuring again", extra={"model": managed.name, "reason": reason})
        request = ChangeRequest(managed.name, "reprofile", best_effort=True, allow_gap=managed.allows_gap())
        try:
            self._reconfigurator.change(request, wait=False, is_wanted=lambda: True)
        except RequestError as error:
            managed.report(0, error)

    def _renew(self, managed: ManagedModel, watched: _Watched, now_s: float) -> None:
        """A governor for the configuration in force; none if there is nothing to govern."""
        applied, budget = managed.journal.applied, managed.budget
        rungs = [Rung(point.id, point.latency_ms) for point in managed.points.ladder]
        is_free = self.governs and applied is not None and not applied.pinned_point
        if not is_free or applied is None or budget is None or budget.latency_ms is None or budget.fixes_ranks:
            watched.governor = None
            return
        governor = watched.governor
        if governor is None or watched.generation != applied.number:
            governor = Governor(budget.latency_ms, budget.percentile, rungs, managed.points.active_id)
            governor.switched(now_s, managed.points.active_id)
            watched.governor, watched.generation = governor, applied.number
        governor.rungs = rungs
        if governor.active != managed.points.active_id:
            governor.switched(now_s, managed.points.active_id)

    def _make(self, managed: ManagedModel, watched: _Watched, governor: Governor, decision: Decision) -> None:
        with managed.lock:
            if managed.pending is not None or managed.points.active_id != decision.from_point:
                return
            try:
                managed.points.activate(decision.to_point, decision.reason, allow_gap=managed.allows_gap())
            except EdgeDacError as error:
                managed.report(0, from_library(error))
                governor.switched(self._clock(), decision.from_point)  # wait before the next attempt
                return
        watched.decisions += 1
        governor.switched(self._clock(), decision.to_point)
        values = {"from_point": decision.from_point, "to_point": decision.to_point, "reason": decision.reason}
        self._events.publish(managed.name, decision=values)
        managed.announce_swap(watched.generation, decision.from_point)

    def _report_throttling(self, reading: SensorReading) -> None:
        if reading.throttled == self._throttled:
            return
        if reading.throttled or self._throttled:
            _log.warning("throttling", extra={"flags": reading.throttle_flags})
            self._events.publish("", throttling={"sensors": sensors_message(reading)})
        self._throttled = reading.throttled
