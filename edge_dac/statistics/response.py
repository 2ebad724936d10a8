"""Which values a model was trained on, judged by how its first layers respond to candidates.

Batch normalisation remembers the mean and variance that a layer had in training: the right candidate reproduces them.
Where it was folded into the weights, the right candidate still gives responses that spread by about one and are not far
off zero, since that is what the normalisation had produced.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from edge_dac.statistics.execution import extract, feeds, node_inputs, open_session
from edge_dac.statistics.images import synthetic_inputs
from edge_dac.statistics.input_values import InputSpec, Layout
from edge_dac.statistics.normalization import Normalization

_MOST_SAMPLES, _LEAST_SAMPLES = 6, 2
_MACS = 2e10
"""Spent on each candidate at most, where that is enough for the least number of samples."""
_LAYERS = 8
_SEED = 20181219
_CERTAIN = 1.5
"""A runner-up this many times worse leaves no doubt."""
_USUAL_SPAN = 16.0
"""Between black and white, in units of the model. What is far wider, bytes and 16-bit sound, must be clearly better."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CANDIDATES: tuple[Normalization, ...] = (
    Normalization(0.0, 1.0),
    Normalization(0.0, 255.0),
    Normalization(-1.0, 1.0),
    Normalization(0.0, 1.0, _IMAGENET_MEAN, _IMAGENET_STD),
    Normalization(0.0, 255.0, (103.9, 116.8, 123.7), (1.0,)),
)
"""What published models of images use; the first wins a tie."""
SIGNAL_CANDIDATES: tuple[Normalization, ...] = (
    Normalization(-1.0, 1.0),
    Normalization(0.0, 1.0),
    Normalization(-32768.0, 32767.0),
)
"""The same for signals: sound in floating point, sensors scaled to their range, sound in 16 bits. The weights of a
spectrum bear any scale, so that another than the first must be clearly better."""

Response: TypeAlias = npt.NDArray[np.float32]
_Statistics: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def respond_to_ranges(model: onnx.ModelProto, specs: Sequence[InputSpec], index: int) -> InputSpec:
    """``specs[index]`` with the candidate that the first layers after it respond to best.

    The other inputs are fed by their own ``specs``. Without a layer that could respond, the first candidate is assumed.
    """
    spec = specs[index]
    candidates = SIGNAL_CANDIDATES if spec.layout is Layout.SIGNAL else CANDIDATES
    layers = _first_layers(model, spec.name)
    if not layers:
        found = replace(candidates[0], source="assumed: no layer with constant weights responds to it").applied_to(spec)
        return found if spec.is_image else replace(found, warnings=(_ask_for_size(spec.name, candidates[0]),))
    session = open_session(extract(model, [layer.output[0] for layer in layers]), threads=len(os.sched_getaffinity(0)))
    remembered = [_remembered(model, layer) for layer in layers]
    samples = _affordable_samples(model, session, specs, layers)
    scores = []
    for candidate in candidates:
        fed = [*specs[:index], candidate.applied_to(spec), *specs[index + 1 :]]
        responses = _respond(session, fed, layers, samples)
        scores.append(float(np.mean([_surprise(*pair) for pair in zip(responses, remembered, strict=True)])))
    best, second = _decide(candidates, scores, spec.layout)
    witness = "their batch normalisation" if any(remembered) else "their weights"
    doubt = "" if scores[second] > _CERTAIN * scores[best] else ", not certain"
    source = f"assumed from the response of the first {len(layers)} layers and {witness}{doubt}"
    found = replace(candidates[best], source=source).applied_to(spec)
    rivals = [index for index, candidate in enumerate(candidates) if not _of_one_scale(candidate, candidates[best])]
    rival = min(rivals, key=lambda index: scores[index])
    if spec.is_image and scores[rival] <= _CERTAIN * scores[best]:
        found = replace(found, warnings=(_ask(spec.name, candidates[best], candidates[rival]),))
    if spec.layout is Layout.SIGNAL and scores[second] <= _CERTAIN * scores[best]:
        found = replace(found, warnings=(_ask_for_size(spec.name, candidates[best]),))
    return found


def _decide(candidates: Sequence[Normalization], scores: Sequence[float], layout: Layout) -> tuple[int, int]:
    """The candidate to take, and the best of the others."""
    usual = [index for index, candidate in enumerate(candidates) if _span(candidate) <= _USUAL_SPAN]
    best = min(usual[:1] if layout is Layout.SIGNAL else usual, key=lambda index: scores[index])
    overall = int(np.argmin(scores))
    if scores[best] > _CERTAIN * scores[overall]:
        best = overall
    return best, min((index for index in range(len(scores)) if index != best), key=lambda index: scores[index])


def _ask(name: str, taken: Normalization, other: Normalization) -> str:
    return (
        f"input {name!r}: the model does not tell whether its values are of the size of {taken.low:g} to {taken.high:g}, as "
        f"assumed, or of {other.low:g} to {other.high:g}; say so by --input-range, --mean and --std"
    )


def _ask_for_size(name: str, taken: Normalization) -> str:
    return (
        f"input {name!r}: the model does not tell the size of its values; {taken.low:g} to {taken.high:g} is assumed, as "
        "sound has it; say so by --input-range, above all for signals of mean 0 and deviation 1"
    )


def _span(candidate: Normalization) -> float:
    return (candidate.high - candidate.low) / float(np.mean(candidate.std))


def _of_one_scale(one: Normalization, other: Normalization) -> bool:
    return max(_span(one), _span(other)) <= _USUAL_SPAN * min(_span(one), _span(other))


def _first_layers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    """The first nodes with constant weights that depend on the input ``name``."""
    constants = {initializer.name for initializer in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    reached = {name}
    layers: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if not reached.intersection(node_inputs(node)):
            continue
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1 and node.input[1] in constants:
            layers.append(node)
        if len(layers) == _LAYERS:
            break
        reached.update(node.output)
    return layers


def _remembered(model: onnx.ModelProto, layer: onnx.NodeProto) -> _Statistics | None:
    """Running mean and deviation of a batch normalisation right after ``layer``."""
    arrays = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or node.input[0] != layer.output[0]:
            continue
        if node.input[3] in arrays and node.input[4] in arrays:
            mean = numpy_helper.to_array(arrays[node.input[3]]).astype(np.float64)
            variance = numpy_helper.to_array(arrays[node.input[4]]).astype(np.float64)
            return mean, np.sqrt(np.maximum(variance, 1e-12))
    return None


def _affordable_samples(
    model: onnx.ModelProto, session: ort.InferenceSession, specs: Sequence[InputSpec], layers: Sequence[onnx.NodeProto]
) -> int:
    """How many samples to ask heavy first layers with, from their multiply-accumulates in one run."""
    constants = [*model.graph.initializer, *(n.attribute[0].t for n in model.graph.node if n.op_type == "Constant")]
    weights = {tensor.name: math.prod(tensor.dims) for tensor in constants}
    macs = 0
    for layer, response in zip(layers, next(_runs(session, specs, 1)), strict=True):
        macs += response.size // response.shape[_channel_axis(layer)] * weights.get(layer.input[1], 0)
    return int(np.clip(_MACS / max(macs, 1), _LEAST_SAMPLES, _MOST_SAMPLES))


def _respond(
    session: ort.InferenceSession, specs: Sequence[InputSpec], layers: Sequence[onnx.NodeProto], samples: int
) -> list[_Statistics]:
    """Mean and deviation of each channel of each layer's response."""
    sums: list[_Statistics | None] = [None] * len(layers)
    counts = [0] * len(layers)
    for run in _runs(session, specs, samples):
        for index, (layer, response) in enumerate(zip(layers, run, strict=True)):
            axis = _channel_axis(layer) % response.ndim
            others = tuple(other for other in range(response.ndim) if other != axis)
            first = response.sum(axis=others, dtype=np.float64)
            second = np.square(response, dtype=np.float32).sum(axis=others, dtype=np.float64)
            before = sums[index] or (np.zeros_like(first), np.zeros_like(second))
            sums[index] = (before[0] + first, before[1] + second)
            counts[index] += response.size // response.shape[axis]
    statistics = []
    for total, count in zip(sums, counts, strict=True):
        assert total is not None, "every layer responds in every run"
        mean = total[0] / count
        statistics.append((mean, np.sqrt(np.maximum(total[1] / count - np.square(mean), 0.0))))
    return statistics


def _runs(session: ort.InferenceSession, specs: Sequence[InputSpec], samples: int) -> Iterator[list[Response]]:
    """Responses of the layers, run by run."""
    names = [value.name for value in session.get_inputs()]
    shapes = {spec.name: spec.shape for spec in specs}
    for feed in feeds(synthetic_inputs(specs, samples, _SEED), shapes, names):
        yield session.run(None, feed)


def _channel_axis(layer: onnx.NodeProto) -> int:
    return 1 if layer.op_type == "Conv" else -1


def _surprise(statistics: _Statistics, remembered: _Statistics | None) -> float:
    """How far responses are from the remembered ones (from mean 0 and deviation 1 if those are not known).

    The spread counts twice: the mean depends on what is in the pictures as well as on their range.
    """
    mean, deviation = statistics
    alive = deviation > 1e-9 * max(float(deviation.max(initial=0.0)), 1e-300)
    if not (alive.any() and np.isfinite(deviation).all()):
        return float("inf")
    target_mean, target = remembered or (np.zeros_like(mean), np.ones_like(deviation))
    unit = target if remembered else deviation
    spread = np.abs(np.log(deviation[alive] / target[alive]))
    offset = np.abs(mean - target_mean)[alive] / unit[alive]
    return float(np.median(spread) + 0.5 * np.median(offset))
