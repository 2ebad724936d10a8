"""Timing probes: whole models run side by side, with the kernel time of every node.

Latency is taken in context: isolated one-layer models count layout reorders that do not happen inside a network. All
runs of one probe are interleaved, so that a noisy or throttling device changes the figures but not their ratios.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from edge_dac.errors import ModelFormatError
from edge_dac.graph.detached import DetachedModel, open_detached

Feeds = Mapping[str, npt.NDArray[Any]]
AnyModel: TypeAlias = bytes | Path | DetachedModel


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options that all sessions of edge-dac share: ``threads`` intra-op threads that do not spin, one inter-op thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(model: AnyModel, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU. ``options`` serve one session where the model is detached.

    Raises:
        ModelFormatError: ONNX Runtime does not accept the model; the message carries its reason.
    """
    try:
        if isinstance(model, DetachedModel):
            return open_detached(model, options)
        source = str(model) if isinstance(model, Path) else model
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelFormatError(f"ONNX Runtime does not accept the model: {reason}") from error


PROBE_PRECISION = 0.03
"""Standard error, relative, to which a probe wants to know the ratio of two models' times."""

UNDISTURBED_PERCENTILE = 30
"""Kernel times are read at this percentile of the runs: other work on the device can only add to them."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one model over the rounds of a probe.

    Attributes:
        node_ms: kernel time by profiled node name, in execution order, as undisturbed as the device allows.
    """

    node_ms: dict[str, float]

    @property
    def total_ms(self) -> float:
        """Sum of all kernels."""
        return sum(self.node_ms.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whole-model times of several models, interleaved; the first is the reference.

    Attributes:
        round_ms: ``[models, rounds]``, wall time.
        busy_ms: ``[models, rounds]``, processor time of the calling thread, where that does all the work; else wall time.
    """

    round_ms: npt.NDArray[np.float64]
    busy_ms: npt.NDArray[np.float64]

    def ratio(self, index: int) -> float:
        """Median over rounds of (busy time of model ``index`` / busy time of the reference in the same round)."""
        return float(np.median(self.busy_ms[index] / self.busy_ms[0]))

    def undisturbed_ratio(self, index: int) -> float:
        """Time of model ``index`` over that of the reference, as other work on the device bends it least.

        On a busy device a long run is interrupted more often than a short one, and the ratio of wall times flatters the
        short.
        """
        times = np.percentile(self.busy_ms, UNDISTURBED_PERCENTILE, axis=1)
        return float(times[index] / times[0])

    def spread(self, index: int) -> float:
        """Half the distance of the quartiles of that ratio, relative to it."""
        ratios = self.busy_ms[index] / self.busy_ms[0]
        low, high = np.percentile(ratios, [25, 75])
        return float((high - low) / 2 / np.median(ratios))

    def standard_error(self, index: int) -> float:
        """Standard error of that ratio, relative: 1.25 (of a median) x the deviation seen in the quartiles."""
        return float(1.25 * self.spread(index) / 0.674 / np.sqrt(self.round_ms.shape[1]))

    def median_ms(self, index: int) -> float:
        return float(np.median(self.round_ms[index]))

    def percentile_ms(self, index: int, percentile: float) -> float:
        return float(np.percentile(self.round_ms[index], percentile))


def compare(
    sessions: Sequence[onnxruntime.InferenceSession],
    feeds: Feeds,
    *,
    threads: int,
    precision: float = 0.01,
    min_rounds: int = 7,
    max_rounds: int = 400,
    time_budget_s: float = 20.0,
) -> Comparison:
    """Run the sessions in turn, one warm-up each, until every ratio is known to ``precision`` or time is over.

    Args:
        sessions: the reference first.
        threads: intra-op threads of the sessions.
        precision: wanted standard error of the median ratio, relative.
    """
    for session in sessions:
        session.run(None, feeds)
    busy_clock = _busy_clock(threads)
    wall: list[list[float]] = []
    busy: list[list[float]] = []
    started = time.perf_counter()
    while len(wall) < max_rounds:
        # Turning the order round cancels what one model leaves in the caches for the next.
        order = range(len(sessions)) if len(wall) % 2 == 0 else range(len(sessions) - 1, -1, -1)
        wall.append([0.0] * len(sessions))
        busy.append([0.0] * len(sessions))
        for index in order:
            begin, busy_begin = time.perf_counter(), busy_clock()
            sessions[index].run(None, feeds)
            busy[-1][index] = (busy_clock() - busy_begin) * 1e3
            wall[-1][index] = (time.perf_counter() - begin) * 1e3
        if len(wall) >= min_rounds:
            if time.perf_counter() - started > time_budget_s:
                break
            others = range(1, len(sessions))
            comparison = Comparison(np.array(wall).T, np.array(busy).T)
            if others and all(comparison.standard_error(index) < precision for index in others):
                break
    return Comparison(np.array(wall).T, np.array(busy).T)


def _busy_clock(threads: int) -> Callable[[], float]:
    """With one thread the caller does all the work, and its processor time leaves out what others interrupted it for."""
    return time.thread_time if threads == 1 else time.perf_counter


class ProfiledModel:
    """A session with ONNX Runtime's profiler on. Use as a context manager; the profile file does not outlive it."""

    def __init__(self, model: AnyModel, threads: int) -> None:
        self._clock = _busy_clock(threads)
        self._busy_shares: list[float] = []
        self._folder = tempfile.TemporaryDirectory(prefix="edge-dac-probe-")
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        try:
            self.session = open_session(model, options)
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> ProfiledModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, feeds: Feeds) -> float:
        """Busy seconds of a run."""
        begin, busy_begin = time.perf_counter(), self._clock()
        self.session.run(None, feeds)
        busy_s = self._clock() - busy_begin
        self._busy_shares.append(min(busy_s / (time.perf_counter() - begin), 1.0))
        return busy_s

    def node_runs(self) -> dict[str, npt.NDArray[np.float64]]:
        """Kernel milliseconds ``[runs]`` by node name, in execution order. Ends the profile: call once.

        What runs inside an ``If`` or ``Loop`` counts for itself and not for the node around it.
        """
        events = json.loads(Path(self.session.end_profiling()).read_text())
        starts = np.array(sorted(event["ts"] for event in events if event.get("name") == "model_run"))
        kernels = [e for e in events if e.get("cat") == "Node" and e.get("name", "").endswith("_kernel_time")]
        durations: dict[str, npt.NDArray[np.float64]] = {}
        around: list[tuple[float, npt.NDArray[np.float64]]] = []
        """Of the kernels that a kernel runs in: when they end, and where their time is kept."""
        for event in sorted(kernels, key=lambda event: (event["ts"], -event["dur"])):
            run = int(np.searchsorted(starts, event["ts"], side="right")) - 1
            row = durations.setdefault(event["name"].removesuffix("_kernel_time"), np.zeros(len(starts)))
            row[run] += event["dur"] / 1e3
            while around and around[-1][0] <= event["ts"]:
                around.pop()
            if around:
                around[-1][1][run] -= event["dur"] / 1e3
            around.append((event["ts"] + event["dur"], row))
        return durations

    def timing(self, warm_up: int) -> Timing:
        """Kernel times without those of the first runs. Ends the profile: call once."""
        rows = {name: runs[warm_up:] for name, runs in self.node_runs().items()}
        return Timing(undisturbed_ms(rows, self._busy_shares[warm_up:]))


def undisturbed_ms(node_runs: Mapping[str, npt.NDArray[np.float64]], busy_shares: Sequence[float]) -> dict[str, float]:
    """Milliseconds of every node from its wall times ``[runs]`` and the share of each run that its thread was busy.

    What interrupts a run falls on some of its nodes, nobody knows which. They get the proportions of their own undisturbed
    times, and together the time that the thread was busy.
    """
    node_ms = {name: float(np.percentile(runs, UNDISTURBED_PERCENTILE)) for name, runs in node_runs.items()}
    busy_ms = np.sum(list(node_runs.values()), axis=0) * np.asarray(busy_shares)
    scale = float(np.percentile(busy_ms, UNDISTURBED_PERCENTILE)) / max(sum(node_ms.values()), 1e-9)
    return {name: scale * value for name, value in node_ms.items()}


@contextlib.contextmanager
def profiled(models: Iterable[AnyModel], threads: int) -> Iterator[list[ProfiledModel]]:
    """Open several models for profiling; all temporary files are removed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ProfiledModel(model, threads)) for model in models]


def profile_models(
    models: Iterable[AnyModel], feeds: Feeds, threads: int, *, rounds: int, warm_up: int = 1
) -> list[Timing]:
    """Kernel times of ``models``, one after another in every round, so that a drift of the device meets all of them.

    Rounds go on, up to four times as many as asked for, until the ratio of every model's time to the first one's is
    known to :data:`PROBE_PRECISION`.
    """
    with profiled(models, threads) as opened:
        for _ in range(warm_up):
            for model in opened:
                model.run(feeds)
        times: list[list[float]] = []
        while len(times) < rounds or (len(times) < 4 * rounds and _uncertainty(times) > PROBE_PRECISION):
            times.append([model.run(feeds) for model in opened])
        return [model.timing(warm_up) for model in opened]


def _uncertainty(times: Sequence[Sequence[float]]) -> float:
    """Largest relative standard error of the median ratio to the first model, from ``[rounds][models]`` seconds."""
    rounds = np.array(times).T
    comparison = Comparison(rounds, rounds)
    return max((comparison.standard_error(index) for index in range(1, len(rounds))), default=0.0)
