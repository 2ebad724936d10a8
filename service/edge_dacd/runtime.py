"""One loaded model file: an ONNX Runtime session, what it takes and gives, what is known of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from edge_dac.errors import InputShapeError, ModelFormatError, ModelNotFoundError
from edge_dacd.memory import give_back
from edge_dacd.status import unavailable
from edge_dacd.tensors import BY_ONNX, Array, TensorSpec

_log = logging.getLogger(__name__)
ORIGINAL = "original"
"""Operating-point id of the model file itself."""
_FREE_EXTENTS_TRIED = (1, 32, 64, 224)
_UNUSUAL = 2.0
_MEMORY_OF_RUNS = 16
"""A run is unusual if its inputs are more than twice as large as those of the last sixteen or so."""
ORT_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(ort_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)
"""What ONNX Runtime raises; its own exceptions have no base class in common."""


@dataclass(frozen=True, slots=True)
class PointFigures:
    """What was measured and predicted of an operating point; None where nothing is known.

    Attributes:
        latency_ms, latency_p95_ms: whole model on this device, compute only.
        predicted_error: relative error of the outputs on held-out synthetic images; 0 for the original.
    """

    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    predicted_error: float | None = None


class Runtime:
    """A session of ONNX Runtime with its operating-point id, digest and figures; ``run`` from any thread.

    It is released with the last reference to it: a request holds one from its start to its end, so a runtime that was
    swapped out lives exactly as long as its last request.
    """

    def __init__(
        self, session: ort.InferenceSession, *, point_id: str, digest: str, size_bytes: int, figures: PointFigures
    ) -> None:
        self._session: ort.InferenceSession | None = session
        self.point_id = point_id
        self.digest = digest
        self.size_bytes = size_bytes
        self.figures = figures
        self.inputs = _specs(session.get_inputs())
        self.outputs = _specs(session.get_outputs())
        self._usual_bytes = 0.0

    def __del__(self) -> None:
        self.release()

    @property
    def is_loaded(self) -> bool:
        """Whether it can run; false after :meth:`release`."""
        # Where making it failed there is no such attribute.
        return getattr(self, "_session", None) is not None

    def release(self) -> None:
        """Give its memory back now, whoever still holds it. Only while none of its runs goes on."""
        if self.is_loaded:
            self._session = None
            give_back()

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        threads: int,
        point_id: str = ORIGINAL,
        digest: str | None = None,
        figures: PointFigures | None = None,
    ) -> Runtime:
        """Load the ONNX file ``path`` for at most ``threads`` intra-op threads.

        ``digest`` is the sha256 of the file in hex if the caller has checked it already; else it is computed.

        Raises:
            ModelNotFoundError: there is no such file.
            ModelFormatError: ONNX Runtime cannot make a session of it, or a tensor has a type outside the protocol.
        """
        if not path.is_file():
            raise ModelNotFoundError(f"{path.name}: expected an ONNX file, found none")
        before = path.stat()
        digest = digest or file_digest(path)
        try:
            session = ort.InferenceSession(path, _session_options(threads), providers=["CPUExecutionProvider"])
        except ORT_ERRORS as error:
            raise ModelFormatError(f"{path.name}: ONNX Runtime cannot load it: {_one_line(error, path)}") from error
        after = path.stat()
        if (before.st_ino, before.st_mtime_ns, before.st_size) != (after.st_ino, after.st_mtime_ns, after.st_size):
            raise ModelFormatError(f"{path.name}: expected a file at rest, it changed while it was being loaded")
        return cls(
            session,
            point_id=point_id,
            digest=digest,
            size_bytes=after.st_size,
            figures=figures or PointFigures(predicted_error=0.0 if point_id == ORIGINAL else None),
        )

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None, options: ort.RunOptions | None = None
    ) -> list[Array]:
        """The ``outputs`` (all if None) for ``feeds``, which have been validated against ``inputs``.

        Raises:
            RequestError: UNAVAILABLE after :meth:`release`.
        """
        if self._session is None:
            raise unavailable(f"operating point {self.point_id[:12]}: it is not loaded, and nothing else could be")
        size_bytes = sum(feed.nbytes for feed in feeds.values())
        if size_bytes > _UNUSUAL * self._usual_bytes:
            # ONNX Runtime keeps the memory of its largest run for good (demo network after a batch of 128: 208 MB,
            # with this 100 MB). Giving it back costs 3 % of a run, so only runs that are unusually large do.
            options = options or ort.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._usual_bytes += (size_bytes - self._usual_bytes) / _MEMORY_OF_RUNS
        result: list[Array] = self._session.run(outputs, feeds, options)
        return result

    def warm_up(
        self, shapes: Mapping[str, Sequence[int]] | None = None, values: Mapping[str, float] | None = None
    ) -> None:
        """Run once on zeros, so that the first request finds everything allocated.

        ``shapes`` are for inputs with free extents, ``values`` for those that hold another number than 0. Where a shape is
        missing, a few sizes are tried; a model that runs at none of them is still good: nobody has said what it takes.

        Raises:
            InputShapeError: the model does not run at the ``shapes`` given.
        """
        guessed = any(-1 in spec.shape and spec.name not in (shapes or {}) for spec in self.inputs)
        for free_extent in _FREE_EXTENTS_TRIED if guessed else (1,):
            feeds = self._zeros(shapes or {}, values or {}, free_extent)
            try:
                self.run(feeds)
            except ORT_ERRORS as error:
                if not guessed:
                    shown = ", ".join(f"{name}={list(feed.shape)}" for name, feed in feeds.items())
                    raise InputShapeError(f"a run on zeros of {shown} failed") from error
            else:
                return
        _log.warning("no warm-up: give the model's shapes", extra={"inputs": [spec.name for spec in self.inputs]})

    def _zeros(
        self, shapes: Mapping[str, Sequence[int]], values: Mapping[str, float], free_extent: int
    ) -> dict[str, Array]:
        feeds = {}
        for spec in self.inputs:
            shape = tuple(shapes.get(spec.name, spec.example_shape(free_extent)))
            number = "" if spec.datatype.name == "BYTES" else values.get(spec.name, 0)
            feeds[spec.name] = np.full(shape, number, dtype=spec.datatype.numpy)
        return feeds


def file_digest(path: Path) -> str:
    """sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Errors are raised, and logged by us in our form; a run that is terminated is none.
    options.log_severity_level = 4
    # A worker that spins for the next task would burn the core that the next request or the device needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _specs(arguments: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    specs = []
    for argument in arguments:
        datatype = BY_ONNX.get(argument.type)
        if datatype is None:
            raise ModelFormatError(f"{argument.name}: expected a tensor type of the protocol, got {argument.type}")
        shape = tuple(extent if isinstance(extent, int) and extent >= 0 else -1 for extent in argument.shape)
        specs.append(TensorSpec(argument.name, datatype, shape))
    return tuple(specs)


def _one_line(error: Exception, path: Path) -> str:
    text = " ".join(str(error).split())
    # Clients read it: no folder of the device in it.
    return text.replace(str(path), path.name).replace(f"{path.parent}/", "")[:300]
