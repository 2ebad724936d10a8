"""ddddocr ``common.onnx``: a captcha reader (convolutions, LSTM, CTC). Measure: share of texts read exactly."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.models import cache_folder, fetch_file
from benchmarks.tasks.lettering import ALPHANUMERICS, DIGITS, draw_captchas, render_texts
from benchmarks.tasks.task import Array, Images, Run

HEIGHT = 64
PER_KIND = 200
SET_FILE = "captcha_ocr_600.npz"


class CaptchaOcr:
    """600 labelled images: captchas of digits, captchas of digits and letters, rendered text; 200 each."""

    name = "ddddocr common"
    metric = "accuracy"
    higher_is_better = True
    speedups: tuple[float, ...] = (1.35, 1.5, 2.0)
    input_name = "input1"
    input_shapes: Mapping[str, tuple[int, ...]] = {"input1": (1, 1, HEIGHT, 160)}
    input_options: Mapping[str, Any] = {"low_high": (0.0, 1.0)}

    def model_path(self) -> Path:
        return fetch_file("ddddocr/common.onnx")

    def calibration(self) -> Array:
        images = draw_captchas(DIGITS, (4, 4), 11, 71)[0] + draw_captchas(ALPHANUMERICS.upper(), (4, 4), 11, 72)[0]
        images += render_texts(ALPHANUMERICS, (4, 8), 10, 73)[0]
        return np.concatenate([_as_input(to_gray(image, 160)) for image in images])

    def evaluate(self, run: Run) -> dict[str, float]:
        images, texts, kinds = self._labelled
        right = [self._read(run, image) == text.lower() for image, text in zip(images, texts, strict=True)]
        shares = {
            kind: float(np.mean([r for r, k in zip(right, kinds, strict=True) if k == kind])) for kind in set(kinds)
        }
        return {"accuracy": float(np.mean(right)), **dict(sorted(shares.items()))}

    def _read(self, run: Run, image: Images) -> str:
        """Greedy CTC over ``[steps, 1, characters]``: drop repeats, then blanks (index 0); case is warped away."""
        scores = run({self.input_name: _as_input(image)})[0]
        indices = scores.reshape(-1, len(self._charset)).argmax(axis=1)
        kept = [index for index, before in zip(indices, [0, *indices[:-1]], strict=True) if index not in (before, 0)]
        return "".join(self._charset[index] for index in kept).lower()

    @cached_property
    def _charset(self) -> list[str]:
        """The package keeps it as a Python list; read as a literal, not executed."""
        tree = ast.parse(fetch_file("ddddocr/charsets.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHARSET_BETA":
                return list(ast.literal_eval(node.value))
        raise LookupError("ddddocr/charsets.py: expected a list CHARSET_BETA")

    @cached_property
    def _labelled(self) -> tuple[list[Images], list[str], list[str]]:
        path = cache_folder() / SET_FILE
        if not path.is_file():
            _write_set(path)
        with np.load(path) as stored:
            images = np.split(stored["pixels"], np.cumsum(stored["widths"])[:-1], axis=1)
            return images, stored["texts"].tolist(), stored["kinds"].tolist()


def to_gray(image: Images, width: int | None = None) -> Images:
    """The reader's own preprocessing: height 64 with the ratio kept (or ``width``), Lanczos, gray ``[64, w]``."""
    picture = Image.fromarray(image)
    width = width or int(picture.width * HEIGHT / picture.height)
    return np.asarray(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS).convert("L"))


def _as_input(gray: Images) -> Array:
    return (gray.astype(np.float32) / 255)[np.newaxis, np.newaxis]


def _write_set(path: Path) -> None:
    sets = {
        "digits": draw_captchas(DIGITS, (4, 4), PER_KIND, 1),
        "alphanumerics": draw_captchas(ALPHANUMERICS.upper(), (4, 4), PER_KIND, 2),
        "rendered": render_texts(ALPHANUMERICS, (4, 8), PER_KIND, 3),
    }
    images = [to_gray(image) for drawn, _ in sets.values() for image in drawn]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        pixels=np.concatenate(images, axis=1),
        widths=[image.shape[1] for image in images],
        texts=[text for _, texts in sets.values() for text in texts],
        kinds=[kind for kind, (_, texts) in sets.items() for _ in texts],
    )
    partial.replace(path)
