"""ddddocr ``common_det.onnx``: a YOLOX-type detector of characters. Measure: F1 of its boxes against the original's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import fetch_file
from benchmarks.tasks.lettering import ALPHANUMERICS, DIGITS, draw_captchas, letter_photo, render_texts
from benchmarks.tasks.photos import imagenet_photos, photo_crops, resize, skimage_photos
from benchmarks.tasks.task import Array, Images, Run, collect_outputs, session_run

SIDE = 416
STRIDES = (8, 16, 32)
PADDING_GRAY = 114
SCORE_THRESHOLD = 0.1
SUPPRESSION_IOU = 0.45
MATCH_IOU = 0.5


class CaptchaBoxes:
    """20 photos, the same photos with characters over them, 20 captchas and 20 lines of text."""

    name = "ddddocr det"
    metric = "box_f1"
    higher_is_better = True
    speedups: tuple[float, ...] = (1.6, 2.2)
    input_name = "images"
    input_shapes: Mapping[str, tuple[int, ...]] = {"images": (1, 3, SIDE, SIDE)}
    input_options: Mapping[str, Any] = {"low_high": (0.0, 255.0)}

    def model_path(self) -> Path:
        return fetch_file("ddddocr/common_det.onnx")

    def calibration(self) -> Array:
        crops = photo_crops(skimage_photos(), 20, 8)
        images = [letter_photo(crop, seed) if seed % 2 else crop for seed, crop in enumerate(crops)]
        images += draw_captchas(DIGITS, (4, 6), 6, 81)[0] + render_texts(ALPHANUMERICS, (4, 8), 6, 82)[0]
        return np.concatenate([_as_input(image) for image in images])

    def evaluate(self, run: Run) -> dict[str, float]:
        hits = found = expected = 0
        for boxes, originals in zip(self._boxes(run), self._original_boxes, strict=True):
            hits += _count_matches(boxes, originals)
            found += len(boxes)
            expected += len(originals)
        return {"box_f1": 2 * hits / (found + expected), "boxes": float(found), "original_boxes": float(expected)}

    @cached_property
    def _inputs(self) -> list[Array]:
        photos = imagenet_photos()
        images = photos + [letter_photo(photo, 100 + index) for index, photo in enumerate(photos)]
        images += draw_captchas(ALPHANUMERICS, (4, 6), 20, 11)[0] + render_texts(ALPHANUMERICS, (4, 8), 20, 12)[0]
        return [_as_input(image) for image in images]

    @cached_property
    def _original_boxes(self) -> list[Array]:
        return self._boxes(session_run(self.model_path()))

    def _boxes(self, run: Run) -> list[Array]:
        return [decode_boxes(outputs[0][0]) for outputs in collect_outputs(run, self.input_name, self._inputs)]


def decode_boxes(rows: Array) -> Array:
    """``[3549, 6]`` (centre offsets, log sizes, objectness, class) to boxes ``[n, 4]`` (x0, y0, x1, y1), best first.

    Rows run over the three grids in turn, row by row; offsets count in cells, sizes are exponents of cells.
    """
    cells = [np.stack(np.meshgrid(np.arange(SIDE // s), np.arange(SIDE // s)), -1).reshape(-1, 2) for s in STRIDES]
    strides = np.concatenate([np.full((len(grid), 1), s) for grid, s in zip(cells, STRIDES, strict=True)])
    centres = (rows[:, :2] + np.concatenate(cells)) * strides
    halves = np.exp(np.minimum(rows[:, 2:4], 10)) * strides / 2
    scores = rows[:, 4] * rows[:, 5:].max(axis=1)
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    kept = np.flatnonzero(scores > SCORE_THRESHOLD)
    return _suppress(boxes[kept[np.argsort(-scores[kept], kind="stable")]])


def _suppress(boxes: Array) -> Array:
    """Greedy non-maximum suppression of boxes that come best first."""
    chosen: list[Array] = []
    while len(boxes):
        chosen.append(boxes[0])
        boxes = boxes[1:][_overlaps(boxes[0], boxes[1:]) <= SUPPRESSION_IOU]
    return np.array(chosen).reshape(-1, 4)


def _count_matches(boxes: Array, originals: Array) -> int:
    """Greedy one-to-one matches, best boxes first."""
    free = originals
    for box in boxes:
        overlaps = _overlaps(box, free)
        if len(free) and overlaps.max() >= MATCH_IOU:
            free = np.delete(free, int(overlaps.argmax()), axis=0)
    return len(originals) - len(free)


def _overlaps(box: Array, others: Array) -> Array:
    """Intersection over union of one box with ``[n, 4]`` others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.asarray(shared / (areas - shared))


def _as_input(image: Images) -> Array:
    """Fitted into the upper left of a gray 416x416, BGR 0..255, NCHW."""
    ratio = SIDE / max(image.shape[:2])
    height, width = (int(extent * ratio) for extent in image.shape[:2])
    canvas = np.full((SIDE, SIDE, 3), PADDING_GRAY, dtype=np.float32)
    canvas[:height, :width] = resize(image, width, height)[..., ::-1]
    return np.ascontiguousarray(canvas.transpose(2, 0, 1))[np.newaxis]
