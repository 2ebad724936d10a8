"""The models that are served, and the runtime each of them computes with at the moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import grpc

from edge_dac.errors import EdgeDacError, VerificationError
from edge_dac.planning.budget import Budget
from edge_dacd.runtime import Runtime
from edge_dacd.statistics import ModelStatistics
from edge_dacd.status import RequestError, not_found, unavailable
from edge_dacd.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from and how it is to be served.

    Attributes:
        path: the original ONNX file.
        version: as clients see it.
        shapes: input shapes to warm up and plan at, for inputs with free extents.
        values: the one number that an input holds in every run: what to warm up and plan with.
        queue_size: requests that may wait in a burst; more are refused at once.
        budget: what the model shall be compressed to, None to leave it as it is.
    """

    name: str
    path: Path
    version: str = "1"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    queue_size: int = 16
    max_batch_size: int = 1
    budget: Budget | None = None


class ServedModel:
    """One model under one name: its source, its statistics, the active runtime and those for single requests.

    ``active`` may be replaced at any time by :meth:`swap`. A request takes the runtime once, at its start, and ends on
    it; the runtime that was replaced is released with its last request.
    """

    def __init__(self, source: ModelSource, original: Runtime, load_s: float) -> None:
        self.source = source
        self.load_s = load_s
        self.digest = original.digest
        self.inputs: tuple[TensorSpec, ...] = original.inputs
        self.outputs: tuple[TensorSpec, ...] = original.outputs
        self.statistics = ModelStatistics()
        self.is_fixed = False
        """Whether an operator has fixed the operating point or the ranks: a deadline alone then chooses no other."""
        self._lock = threading.Lock()
        self._active = original
        self._registered: dict[str, Runtime] = {}

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def is_batchable(self) -> bool:
        """Whether requests may be stacked: the first dimension of every input and output is free."""
        return all(spec.shape[:1] == (-1,) for spec in (*self.inputs, *self.outputs))

    @property
    def active(self) -> Runtime:
        """The runtime of requests that have no wish of their own."""
        return self._active

    @property
    def registered(self) -> Mapping[str, Runtime]:
        """Runtimes by operating-point id that single requests may wish for, beside ``active``. A snapshot."""
        return MappingProxyType(dict(self._registered))

    def swap(self, runtime: Runtime) -> Runtime:
        """Make ``runtime`` the active one and return the one before. Requests that have started are not touched.

        Load and warm it up before. The caller drops the returned runtime to release it.

        Raises:
            VerificationError: it takes or gives other tensors than the model.
        """
        self._check_interface(runtime)
        with self._lock:
            before, self._active = self._active, runtime
        return before

    def register(self, runtime: Runtime) -> None:
        """Offer ``runtime`` to requests that wish for its latency or error.

        Raises:
            VerificationError: it takes or gives other tensors than the model.
        """
        self._check_interface(runtime)
        with self._lock:
            self._registered[runtime.point_id] = runtime

    def unregister(self, point_id: str) -> None:
        """Take the runtime of this operating point from the offer; unknown ids are ignored."""
        with self._lock:
            self._registered.pop(point_id, None)

    def runtime_for(self, max_latency_ms: float | None = None, max_error: float | None = None) -> Runtime:
        """The loaded runtime for a wish: the most faithful that is fast enough, or the fastest that is faithful enough.

        Without a wish, or where nothing loaded fulfils it, the active one. A point whose figures are unknown fulfils
        no wish.
        """
        if max_latency_ms is None and max_error is None:
            return self._active
        loaded = self._loaded()
        fitting = [
            (figures.predicted_error, figures.latency_ms, index)
            for index, figures in enumerate(runtime.figures for runtime in loaded)
            if figures.latency_ms is not None
            and figures.predicted_error is not None
            and (max_latency_ms is None or figures.latency_ms <= max_latency_ms)
            and (max_error is None or figures.predicted_error <= max_error)
        ]
        if not fitting:
            return self._active
        if max_latency_ms is not None:
            return loaded[min(fitting)[2]]
        return loaded[min(fitting, key=lambda point: (point[1], point[0]))[2]]

    def in_time(self, chosen: Runtime, remaining_ms: float, max_error: float | None = None) -> Runtime:
        """``chosen``, unless a request with so much time left would miss its deadline on it, by measured latency.

        Then the most faithful loaded runtime that would not; where all would, the fastest. Never another where the
        operator has fixed the operating point.

        Args:
            max_error: what the request has wished for.
        """
        latency_ms = chosen.figures.latency_ms
        if self.is_fixed or latency_ms is None or latency_ms <= remaining_ms:
            return chosen
        known = [
            (figures.latency_ms, figures.predicted_error, runtime)
            for runtime in self._loaded()
            if (figures := runtime.figures).latency_ms is not None
            and figures.predicted_error is not None
            and (max_error is None or figures.predicted_error <= max_error)
        ]
        fast_enough = [one for one in known if one[0] <= remaining_ms]
        if fast_enough:
            return min(fast_enough, key=lambda one: one[1])[2]
        return min(known, key=lambda one: one[0], default=(latency_ms, 0.0, chosen))[2]

    def _loaded(self) -> list[Runtime]:
        with self._lock:
            return [self._active, *self._registered.values()]

    def _check_interface(self, runtime: Runtime) -> None:
        for kind, ours, theirs in (
            ("input", self.inputs, runtime.inputs),
            ("output", self.outputs, runtime.outputs),
        ):
            expected = [(spec.name, spec.datatype.name) for spec in ours]
            got = [(spec.name, spec.datatype.name) for spec in theirs]
            if expected != got:
                raise VerificationError(f"model {self.name!r}: expected the {kind}s {expected}, got {got}")


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of the repository index. ``state``: READY, LOADING or UNAVAILABLE; ``reason`` is empty when ready."""

    name: str
    version: str
    state: str
    reason: str


class ModelRepository:
    """All models of the daemon: what could be served, what is.

    Args:
        find_sources: looks up the models that could be served, by name, at each call, so that a reload sees new files.
        threads: intra-op threads of a run.
    """

    def __init__(self, find_sources: Callable[[], Mapping[str, ModelSource]], threads: int) -> None:
        self.threads = threads
        self._find_sources = find_sources
        self._models: dict[str, ServedModel] = {}
        self._failures: dict[str, str] = {}
        self._loading: set[str] = set()
        self._unloaded: set[str] = set()
        # Loading takes seconds and one at a time is enough for a small device; lookups never wait for it.
        self._change = threading.Lock()
        self._loaded_listeners: list[Callable[[ServedModel], None]] = []
        self._unloaded_listeners: list[Callable[[ServedModel], None]] = []

    def on_loaded(self, listener: Callable[[ServedModel], None]) -> None:
        """Call ``listener`` for each model that was loaded or replaced, before the first request can reach it.

        This is the place to swap in a stored operating point.
        """
        self._loaded_listeners.append(listener)

    def on_unloaded(self, listener: Callable[[ServedModel], None]) -> None:
        """Call ``listener`` for each model that was unloaded or replaced, after it can no longer be reached."""
        self._unloaded_listeners.append(listener)

    def models(self) -> tuple[ServedModel, ...]:
        """The models that are ready, by name."""
        return tuple(self._models[name] for name in sorted(self._models))

    def get(self, name: str, version: str = "") -> ServedModel:
        """The ready model ``name``; an empty ``version`` means the one that is served.

        Raises:
            RequestError: NOT_FOUND if there is no such model or version, UNAVAILABLE if it is known but not ready.
        """
        model = self._models.get(name)
        if model is None:
            if name in self._loading or name in self._failures or name in self._unloaded:
                raise unavailable(f"model {name!r}: {self._why_not_ready(name)}")
            raise not_found(f"model {name!r}: expected one of {sorted(self._models)}")
        if version not in ("", model.source.version):
            raise not_found(f"model {name!r}: expected version {model.source.version}, got {version!r}")
        return model

    def load(self, name: str) -> ServedModel:
        """Load the model ``name``, or load it again; requests in flight finish on the model they started on.

        A model whose file has not changed is left alone. When loading fails, the model that was served before goes on.

        Raises:
            RequestError: NOT_FOUND if there is no such model in the repository, FAILED_PRECONDITION if it cannot be
                loaded.
        """
        with self._change:
            source = self._find_sources().get(name)
            if source is None:
                raise not_found(f"model {name!r}: no such model in the repository")
            return self._load(source)

    def unload(self, name: str) -> None:
        """Stop serving ``name``; requests in flight finish.

        Raises:
            RequestError: NOT_FOUND if it is not loaded.
        """
        with self._change:
            model = self._models.pop(name, None)
            if model is None:
                raise not_found(f"model {name!r}: expected a loaded model")
            self._unloaded.add(name)
            for listener in self._unloaded_listeners:
                listener(model)

    def reload(self) -> dict[str, str]:
        """Bring all models up to date with their sources: load new ones, replace changed ones, drop vanished ones.

        Returns the failures by model name; a model that failed goes on as it was.
        """
        failures: dict[str, str] = {}
        with self._change:
            sources = self._find_sources()
            for name in [name for name in self._models if name not in sources]:
                model = self._models.pop(name)
                for listener in self._unloaded_listeners:
                    listener(model)
            for name, source in sources.items():
                try:
                    self._load(source)
                except RequestError as error:
                    failures[name] = error.message
        return failures

    def index(self) -> list[ModelStatus]:
        """Every model that is known, ready or not, by name."""
        with_files = self._find_sources()
        lines = []
        for name in sorted({*with_files, *self._models, *self._failures}):
            model = self._models.get(name)
            if model is not None:
                lines.append(ModelStatus(name, model.source.version, "READY", self._failures.get(name, "")))
                continue
            version = with_files[name].version if name in with_files else ""
            state = "LOADING" if name in self._loading else "UNAVAILABLE"
            lines.append(ModelStatus(name, version, state, self._why_not_ready(name)))
        return lines

    def _why_not_ready(self, name: str) -> str:
        if name in self._loading:
            return "is being loaded"
        return self._failures.get(name, "is not loaded")

    def _load(self, source: ModelSource) -> ServedModel:
        self._loading.add(source.name)
        try:
            started = time.monotonic()
            original = Runtime.load(source.path, threads=self.threads)
            before = self._models.get(source.name)
            if before is not None and (before.digest, before.source) == (original.digest, source):
                return before
            original.warm_up(source.shapes, source.values)
            model = ServedModel(source, original, time.monotonic() - started)
            for listener in self._loaded_listeners:
                listener(model)
        except EdgeDacError as error:
            self._failures[source.name] = str(error)
            raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, f"model {source.name!r}: {error}") from error
        finally:
            self._loading.discard(source.name)
        self._models[source.name] = model
        self._failures.pop(source.name, None)
        self._unloaded.discard(source.name)
        if before is not None:
            for listener in self._unloaded_listeners:
                listener(before)
        return model
