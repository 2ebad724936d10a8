"""The compiler child: one job, in a process that may die without harm to the daemon.

``python -m edge_dacd.compiler PID``, where PID is the daemon's, reads one JSON job (:class:`Job`) from standard input and
writes JSON events, one a line, to standard output:

* ``{"event": "progress", "phase", "percent", "eta_s", "message"}``
* ``{"event": "point", "role", "digest", "plan", "size_bytes"}``: an operating point is in the store; ``role`` is
  ``budget`` or ``ladder``. ``digest`` is null if nothing was stored: in a dry run, or if the model stays as it is.
* ``{"event": "unreachable", "message", "latency_ms", "error"}``: the budget cannot be met; the best that was found,
  latency at the percentile of the budget.
  With ``best_effort`` a ``point`` follows.
* ``{"event": "done"}`` or ``{"event": "failed", "code", "message"}``; ``code`` is a class name of ``edge_dac.errors``,
  ``MemoryError`` or ``InternalError``.

This is the only module of the daemon's package that knows the planner; it imports it late, in the child, so that the
daemon can use :class:`Job` without it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edge_dac.artifacts.store import ArtifactStore
from edge_dac.errors import BudgetUnreachableError, EdgeDacError
from edge_dac.planning.budget import Budget
from edge_dac.progress import Progress

if TYPE_CHECKING:
    from edge_dac.compression import Compressed
    from edge_dac.planning.planner import Planner

_PR_SET_PDEATHSIG = 1
_PROGRESS_INTERVAL_S = 0.2
_VERSIONED = ("edge-dac", "onnxruntime", "onnx", "numpy")


@dataclass(frozen=True, slots=True)
class Job:
    """What the child is to do.

    Attributes:
        model: the original ONNX file.
        store: root of the artifact store.
        latency_table: file that keeps measured ratios between jobs.
        fidelity_table: file that keeps between jobs what candidates cost in fidelity.
        input_shapes: shapes of inputs whose dimensions the model leaves open.
        input_values: by input name, the one number that it holds in every run.
        budget: as ``Budget.to_json()``; None makes only the ladder.
        ladder_points: operating points of the ladder to make after the one for the budget; 0 for none.
        best_effort: store the best found if the budget cannot be met.
        dry_run: store nothing.
        memory_bytes: limit on the child's address space; 0 for none.
        nice: how much the child gives way to serving, 0 to 19.
    """

    model: str
    store: str
    latency_table: str
    fidelity_table: str
    threads: int
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input_values: Mapping[str, float] = field(default_factory=dict)
    budget: Mapping[str, Any] | None = None
    ladder_points: int = 0
    best_effort: bool = False
    dry_run: bool = False
    memory_bytes: int = 0
    nice: int = 10
    seed: int = 0

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Inverse of :meth:`to_json`."""
        values = json.loads(text)
        values["input_shapes"] = {name: tuple(shape) for name, shape in values["input_shapes"].items()}
        return cls(**values)


def emit(event: str, **values: Any) -> None:
    """Write one event."""
    _events.write(json.dumps({"event": event, **values}) + "\n")
    _events.flush()


def _claim_standard_output() -> TextIO:
    """A private copy of standard output; whatever a library prints goes to standard error instead."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return events


_events: TextIO = sys.stdout


def main() -> int:
    """Do the job on standard input."""
    global _events
    _events = _claim_standard_output()
    _die_with(int(sys.argv[1]))
    job = Job.from_json(sys.stdin.readline())
    try:
        _limit(job)
        _run(job)
    except EdgeDacError as error:
        return _failed(type(error).__name__, str(error))
    except MemoryError:
        return _failed("MemoryError", "the compiler ran out of the memory it may use")
    except Exception:  # noqa: BLE001 - the boundary of the process: the trace goes to the log, a name to the client
        traceback.print_exc()
        return _failed("InternalError", "the compiler failed unexpectedly; the log of the daemon says where")
    emit("done")
    return 0


def _failed(code: str, message: str) -> int:
    emit("failed", code=code, message=" ".join(message.split()))
    return 1


def _die_with(daemon: int) -> None:
    """Leave no orphan that computes for a daemon that was killed, be it before this child has got so far."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != daemon:
        os.kill(os.getpid(), signal.SIGKILL)


def _limit(job: Job) -> None:
    os.nice(job.nice)
    if job.memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (job.memory_bytes, job.memory_bytes))


def _run(job: Job) -> None:
    # Imported late: onnx takes half a second and its memory counts against the limit.
    from edge_dac.compression import Options, ladder_for, open_planner
    from edge_dac.device.allocator import return_large_blocks

    return_large_blocks()

    options = Options(
        input_shapes=job.input_shapes,
        input_values=job.input_values,
        threads=job.threads,
        seed=job.seed,
        latency_table=Path(job.latency_table),
        fidelity_table=Path(job.fidelity_table),
    )
    planner = open_planner(Path(job.model), options, _ProgressLine())
    store = ArtifactStore(Path(job.store))
    if job.budget is not None:
        result = _for_budget(planner, job)
        if result is None:
            return
        _deliver(store, job, result, "budget")
    if job.ladder_points:
        for result in ladder_for(planner, job.ladder_points):
            if result.changed:
                _deliver(store, job, result, "ladder")


def _for_budget(planner: Planner, job: Job) -> Compressed | None:
    """The operating point for the budget, or the best found if that will do."""
    from edge_dac.compression import plan_for

    budget = Budget.from_json(job.budget or {})
    try:
        return plan_for(planner, budget)
    except BudgetUnreachableError as error:
        best: Compressed | None = error.best
        latency_ms = predicted_error = None
        if best is not None and best.plan.measured_ratio is not None:
            # At the percentile of the budget, so that asking for this latency asks for what can be.
            latency_ms = planner.original_percentile_ms(budget.percentile) * best.plan.measured_ratio
            predicted_error = best.plan.predicted_error
        emit("unreachable", message=" ".join(str(error).split()), latency_ms=latency_ms, error=predicted_error)
        return best if job.best_effort else None


def _deliver(store: ArtifactStore, job: Job, result: Compressed, role: str) -> None:
    digest = None
    if result.changed and not job.dry_run:
        digest = store.put(result.model, result.plan, {name: version(name) for name in _VERSIONED}).digest
    emit("point", role=role, digest=digest, plan=result.plan.to_json(), size_bytes=len(result.model))


class _ProgressLine:
    """Passes progress on, a few lines a second, with the time that the phase will still take."""

    def __init__(self) -> None:
        self._phase = ""
        self._phase_started = 0.0
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.phase != self._phase:
            self._phase, self._phase_started = progress.phase, now
        elif now - self._last < _PROGRESS_INTERVAL_S and progress.fraction < 1:
            return
        self._last = now
        elapsed = now - self._phase_started
        eta_s = elapsed * (1 / progress.fraction - 1) if progress.fraction > 0 and elapsed > 0 else None
        emit(
            "progress",
            phase=progress.phase,
            percent=round(100 * progress.fraction, 1),
            eta_s=None if eta_s is None else round(eta_s, 1),
            message=progress.message,
        )


if __name__ == "__main__":
    sys.exit(main())
