"""What every benchmark task offers: a real network, real inputs, a real measure of what compression costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

Array: TypeAlias = npt.NDArray[Any]
Images: TypeAlias = npt.NDArray[np.uint8]
Run: TypeAlias = Callable[[dict[str, Array]], list[Array]]
"""Feeds by input name to outputs in the model's order, as ``InferenceSession.run(None, feeds)``."""


class Task(Protocol):
    """One network with a fixed set of inputs; evaluating twice gives the same numbers."""

    name: str
    metric: str
    """The key of :meth:`evaluate` that stands in the tables; empty where only speed can be judged."""
    higher_is_better: bool
    speedups: tuple[float, ...]
    """Budgets that are asked of edge-dac: original latency divided by the plan's."""
    input_name: str
    input_shapes: Mapping[str, tuple[int, ...]]
    """Shapes that latency is measured at."""
    input_options: Mapping[str, Any]
    """What a user would tell edge-dac about the values: ``low_high``, ``mean``, ``std`` of ``InputRange``."""

    def model_path(self) -> Path:
        """The original network; fetched on first use."""

    def calibration(self) -> Array:
        """32 real inputs ``[32, *shape]`` of the kind evaluated, none of them evaluated."""

    def evaluate(self, run: Run) -> dict[str, float]:
        """Measures of a network that stands in the original's place."""


def session_run(model: Path | bytes, threads: int = 1) -> Run:
    """Run a network in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # ddddocr declares a wrong output shape, which is warned of at every run
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(feeds: dict[str, Array]) -> list[Array]:
        return list(session.run(None, feeds))

    return run


def collect_outputs(run: Run, input_name: str, inputs: Sequence[Array]) -> list[list[Array]]:
    """Outputs for each of ``inputs``, one at a time."""
    return [run({input_name: array}) for array in inputs]
