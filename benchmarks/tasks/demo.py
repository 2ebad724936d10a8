"""The shipped demo network. Measure: accuracy on its 500 held-out digits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks.task import Array, Run
from edge_dac.assets import demo_images, demo_model_path

CALIBRATION_IMAGES = 32


class DemoDigits:
    """The first 32 held-out digits may calibrate; the other 468 are evaluated."""

    name = "demo"
    metric = "accuracy"
    higher_is_better = True
    speedups: tuple[float, ...] = (1.67, 3.0)
    input_name = "image"
    input_shapes: Mapping[str, tuple[int, ...]] = {"image": (1, 1, 28, 28)}
    input_options: Mapping[str, Any] = {"low_high": (0.0, 1.0)}

    def model_path(self) -> Path:
        return demo_model_path()

    def calibration(self) -> Array:
        return demo_images()[0][:CALIBRATION_IMAGES]

    def evaluate(self, run: Run) -> dict[str, float]:
        images, labels = (array[CALIBRATION_IMAGES:] for array in demo_images())
        guesses = [int(run({self.input_name: image[np.newaxis]})[0].argmax()) for image in images]
        return {"accuracy": float(np.mean(guesses == labels))}
