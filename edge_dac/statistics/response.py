"""Which values a model was trained on, judged by how its first layer responds to candidates.

Batch normalisation remembers the mean and variance that the first layer had in training: the right candidate
reproduces them. Where it was folded into the weights, the right candidate still gives responses that spread by about
one and are not far off zero, since that is what the normalisation had produced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edge_dac.statistics.execution import extract, feeds, node_inputs, open_session
from edge_dac.statistics.images import synthetic_inputs
from edge_dac.statistics.input_values import InputSpec
from edge_dac.statistics.normalization import Normalization

_SAMPLES = 8
_SEED = 20181219
_CERTAIN = 1.5
"""A runner-up this many times worse leaves no doubt."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CANDIDATES: tuple[Normalization, ...] = (
    Normalization(0.0, 1.0),
    Normalization(0.0, 255.0),
    Normalization(-1.0, 1.0),
    Normalization(0.0, 1.0, _IMAGENET_MEAN, _IMAGENET_STD),
    Normalization(0.0, 255.0, (103.9, 116.8, 123.7), (1.0,)),
)
"""What published models use; the first wins a tie."""

_Statistics = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def respond_to_ranges(model: onnx.ModelProto, specs: Sequence[InputSpec], index: int) -> InputSpec:
    """``specs[index]`` with the candidate that the first layer after it responds to best.

    The other inputs are fed by their own ``specs``. Without a layer that could respond, 0 to 1 is assumed.
    """
    spec = specs[index]
    node = _first_layer(model, spec.name)
    if node is None:
        return Normalization(0.0, 1.0, source="assumed: no layer with constant weights responds to it").applied_to(spec)
    expected = _remembered(model, node)
    part = extract(model, [node.output[0]])
    session = open_session(part, threads=1)
    scores = []
    for candidate in CANDIDATES:
        tried = [*specs[:index], candidate.applied_to(spec), *specs[index + 1 :]]
        responses = _respond(session, tried, channel_axis=1 if node.op_type == "Conv" else -1)
        scores.append(_surprise(*responses, expected))
    order = np.argsort(scores, kind="stable")
    best, second = CANDIDATES[order[0]], scores[order[1]]
    witness = "its batch normalisation" if expected else "its weights"
    doubt = "" if second > _CERTAIN * scores[order[0]] else ", not certain"
    source = f"assumed from the response of the first layer and {witness}{doubt}"
    return Normalization(best.low, best.high, best.mean, best.std, source).applied_to(spec)


def _first_layer(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """The first node with constant weights that depends on the input ``name``."""
    constants = {initializer.name for initializer in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    reached = {name}
    nodes: list[onnx.NodeProto] = list(model.graph.node)
    for node in nodes:
        if not reached.intersection(node_inputs(node)):
            continue
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1 and node.input[1] in constants:
            return node
        reached.update(node.output)
    return None


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


def _respond(session: object, specs: Sequence[InputSpec], *, channel_axis: int) -> _Statistics:
    """Mean and deviation of each channel of the response."""
    names = [value.name for value in session.get_inputs()]  # type: ignore[attr-defined]
    inputs = synthetic_inputs(specs, _SAMPLES, _SEED)
    shapes = {spec.name: spec.shape for spec in specs}
    responses = [
        np.moveaxis(session.run(None, feed)[0], channel_axis, -1)  # type: ignore[attr-defined]
        for feed in feeds(inputs, shapes, names)
    ]
    rows = np.concatenate([response.reshape(-1, response.shape[-1]) for response in responses]).astype(np.float64)
    return rows.mean(axis=0), rows.std(axis=0)


def _surprise(mean: npt.NDArray[np.float64], deviation: npt.NDArray[np.float64], expected: _Statistics | None) -> float:
    """How far responses are from the expected ones (from mean 0 and deviation 1 if those are not known)."""
    alive = deviation > 1e-9 * max(float(deviation.max(initial=0.0)), 1e-300)
    if not alive.any():
        return float("inf")
    target_mean, target = expected or (np.zeros_like(mean), np.ones_like(deviation))
    spread = np.abs(np.log(deviation[alive] / np.maximum(target[alive], 1e-12)))
    offset = np.abs(mean[alive] - target_mean[alive]) / np.maximum(
        target[alive] if expected else deviation[alive], 1e-12
    )
    return float(np.median(spread) + np.median(offset))
