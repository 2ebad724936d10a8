"""What a model itself states about the values it expects: metadata, and a normalisation at the head of the graph."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from edge_dac.graph.scopes import tensor_value
from edge_dac.statistics.input_values import InputSpec

_NOMINAL_RANGES: Mapping[str, tuple[float, float]] = {
    "NominalRange_0_255": (0.0, 255.0),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
    "NominalRange_16_235": (16.0, 235.0),
}
"""Values of the ONNX metadata key ``Image.NominalPixelRange``."""

_PIXEL_MEAN, _PIXEL_STD = 0.45, 0.26
"""Usual mean and deviation of a photograph's pixels between 0 and 1."""

_PASSED_THROUGH = frozenset({"Identity", "Cast", "Transpose", "Squeeze", "Unsqueeze", "Reshape"})


@dataclass(frozen=True, slots=True)
class Normalization:
    """Range, mean and deviation as in :class:`InputSpec`, and where they come from."""

    low: float
    high: float
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    source: str = ""

    def applied_to(self, spec: InputSpec) -> InputSpec:
        """``spec`` with these values, if the number of channels fits; else the means over the channels."""
        mean, std = (self._fitting(values, spec.channels) for values in (self.mean, self.std))
        note = f"{spec.name}: values {self.low:g} to {self.high:g}"
        if any(mean) or any(value != 1.0 for value in std):
            note += f", mean {_listed(mean)} subtracted, divided by {_listed(std)}"
        note += f"; {self.source}"
        return replace(spec, low=self.low, high=self.high, mean=mean, std=std, assumptions=(*spec.assumptions, note))

    @staticmethod
    def _fitting(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
        return values if len(values) in (1, channels) else (float(np.mean(values)),)


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4g}" for value in values)


def stated_normalization(model: onnx.ModelProto, spec: InputSpec) -> Normalization | None:
    """What metadata or the head of the graph say about ``spec``'s values; None if they say nothing."""
    if np.dtype(spec.dtype) == np.uint8:
        return Normalization(0.0, 255.0, source="element type uint8")
    return _from_metadata(model) or _from_head(model, spec)


def _from_metadata(model: onnx.ModelProto) -> Normalization | None:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    nominal = _NOMINAL_RANGES.get(metadata.get("Image.NominalPixelRange", ""))
    if nominal is not None:
        return Normalization(*nominal, source="metadata Image.NominalPixelRange")
    mean, std = _numbers(metadata.get("mean")), _numbers(metadata.get("std"))
    if mean is None or std is None or min(std) <= 0:
        return None
    high = 255.0 if max(*mean, *std) > 2.0 else 1.0
    return Normalization(0.0, high, mean, std, "metadata mean and std")


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """A JSON list of finite numbers, or None for anything else."""
    try:
        values = json.loads(text) if text else None
    except ValueError:
        return None
    if not isinstance(values, list) or not values:
        return None
    numbers = tuple(float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value))
    return numbers if len(numbers) == len(values) else None


def _from_head(model: onnx.ModelProto, spec: InputSpec) -> Normalization | None:
    """Follow the input through ``Sub``, ``Div``, ``Mul``, ``Add`` with constants up to the first other node."""
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    name, scale, found = spec.name, 1.0, False
    while True:
        consumers = [node for node in model.graph.node if name in node.input]
        if len(consumers) != 1:
            break
        node = consumers[0]
        if node.op_type in _PASSED_THROUGH and node.input[0] == name:
            name = node.output[0]
            continue
        if node.op_type == "BatchNormalization":
            return _from_statistics(constants, node, scale) if not found else None
        constant = next((constants[other] for other in node.input if other != name and other in constants), None)
        if node.op_type not in ("Sub", "Add", "Mul", "Div") or constant is None:
            break
        size = float(np.mean(np.abs(tensor_value(constant))))
        if node.op_type == "Mul":
            scale *= size
        elif node.op_type == "Div" and node.input[0] == name:
            scale /= max(size, 1e-12)
        name, found = node.output[0], True
    return _likely_range(scale) if found else None


def _likely_range(scale: float) -> Normalization:
    """The usual range that, times ``scale``, comes closest to a span of 2."""
    low, high = min(
        ((0.0, 1.0), (0.0, 255.0)), key=lambda limits: abs(math.log(max(scale, 1e-12) * (limits[1] - limits[0]) / 2.0))
    )
    return Normalization(low, high, source="normalisation at the head of the graph")


def _from_statistics(
    constants: Mapping[str, onnx.TensorProto], node: onnx.NodeProto, scale: float
) -> Normalization | None:
    """Batch normalisation of the input itself: its running statistics are those of the training images."""
    if scale != 1.0 or node.input[3] not in constants or node.input[4] not in constants:
        return None
    mean, variance = (
        onnx.numpy_helper.to_array(constants[name]).astype(np.float64) for name in (node.input[3], node.input[4])
    )
    deviation: npt.NDArray[np.float64] = np.sqrt(np.maximum(variance, 1e-12))
    # A pixel p becomes mean + deviation * (p - pixel mean) / pixel deviation: solve (p - m) / s for m and s.
    std = _PIXEL_STD / deviation
    shift = _PIXEL_MEAN - mean * std
    return Normalization(0.0, 1.0, tuple(shift.tolist()), tuple(std.tolist()), "batch normalisation of the input")
