"""Measured latency of layer candidates on one device, kept as ratios to the dense layer in the same run.

A ratio survives what milliseconds do not: another load, another temperature. The table belongs to a device fingerprint;
one made on another device, or under another version of ONNX Runtime, is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_dac.convolution import ConvLayer, Rank
from edge_dac.files import write_atomically

TABLE_FORMAT = 4


def layer_signature(layer: ConvLayer) -> str:
    """What the latency of a layer depends on: operator, shape, attributes, input size, batch, element type."""
    attributes = layer.attributes
    parts = (
        layer.operator,
        (layer.out_channels, layer.in_channels, *layer.kernel),
        attributes.strides,
        attributes.pads,
        attributes.dilations,
        attributes.groups,
        attributes.auto_pad,
        layer.input_size,
        layer.batch * layer.positions,
        str(layer.dtype),
    )
    return "|".join(str(part).replace(" ", "") for part in parts)


def candidate_key(signature: str, scheme: str, rank: Rank | None, lowering: str, threads: int) -> str:
    """Key of one entry."""
    return f"{signature}|{scheme}|{rank}|{lowering}|{threads}".replace(" ", "")


def original_key(digest: str, input_shapes: Mapping[str, Sequence[int]], threads: int) -> str:
    """Key of an untouched model, by the digest of its file."""
    shapes = ";".join(f"{name}={','.join(map(str, shape))}" for name, shape in sorted(input_shapes.items()))
    return f"{digest}|{shapes}|{threads}"


@dataclass(frozen=True, slots=True)
class LayerLatency:
    """Kernel milliseconds of an untouched model: as a whole and by layer, at the profiled shape."""

    model_ms: float
    layer_ms: Mapping[str, float]


class LatencyTable:
    """Ratios (candidate time / dense time of the same layer in the same run) by candidate key, and what models take.

    Args:
        path: file to load from and :meth:`save` to; None keeps the table in memory.
        fingerprint: of the device; entries of another are not loaded.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._ratios: dict[str, float] = {}
        self._originals: dict[str, LayerLatency] = {}
        if path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return  # A damaged cache is measured again; nothing depends on it.
        if not isinstance(content, dict) or content.get("format") != TABLE_FORMAT:
            return
        try:
            if content["fingerprint"] == self.fingerprint:
                self._ratios = {str(key): float(value) for key, value in content["ratios"].items()}
                self._originals = {str(key): _latency(entry) for key, entry in content["originals"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            self._ratios, self._originals = {}, {}

    def __len__(self) -> int:
        return len(self._ratios)

    def get(self, key: str) -> float | None:
        """The measured ratio, or None."""
        return self._ratios.get(key)

    def put(self, key: str, ratio: float) -> None:
        """Remember a ratio; a second measurement of the same key is averaged in."""
        known = self._ratios.get(key)
        self._ratios[key] = ratio if known is None else (known + ratio) / 2

    def original(self, key: str) -> LayerLatency | None:
        """What a model takes, by :func:`original_key`; None if it was not measured yet."""
        return self._originals.get(key)

    def put_original(self, key: str, latency: LayerLatency) -> None:
        """Remember what a model takes: with it the same table gives the same plan."""
        self._originals[key] = latency

    def save(self) -> None:
        """Write the table atomically. Nothing happens for a table without a path."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        originals = {key: asdict(latency) for key, latency in self._originals.items()}
        content = {
            "format": TABLE_FORMAT,
            "fingerprint": self.fingerprint,
            "ratios": self._ratios,
            "originals": originals,
        }
        write_atomically(self.path, json.dumps(content).encode())


def _latency(entry: Any) -> LayerLatency:
    return LayerLatency(float(entry["model_ms"]), {str(name): float(ms) for name, ms in entry["layer_ms"].items()})
