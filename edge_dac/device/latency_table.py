"""Measured latency of layer candidates on one device, kept as ratios to the dense layer in the same run.

A ratio survives what milliseconds do not: another load, another temperature. The table belongs to a device fingerprint;
one made on another device, or under another version of ONNX Runtime, is ignored.
"""

from __future__ import annotations

import json
from pathlib import Path

from edge_dac.convolution import ConvLayer, Rank
from edge_dac.files import write_atomically

TABLE_FORMAT = 1


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


class LatencyTable:
    """Ratios (candidate time / dense time of the same layer in the same run) by candidate key.

    Args:
        path: file to load from and :meth:`save` to; None keeps the table in memory.
        fingerprint: of the device; entries of another are not loaded.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._ratios: dict[str, float] = {}
        if path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return  # A damaged cache is measured again; nothing depends on it.
        if not isinstance(content, dict) or content.get("format") != TABLE_FORMAT:
            return
        if content.get("fingerprint") == self.fingerprint and isinstance(content.get("ratios"), dict):
            self._ratios = {str(key): float(value) for key, value in content["ratios"].items()}

    def __len__(self) -> int:
        return len(self._ratios)

    def get(self, key: str) -> float | None:
        """The measured ratio, or None."""
        return self._ratios.get(key)

    def put(self, key: str, ratio: float) -> None:
        """Remember a ratio; a second measurement of the same key is averaged in."""
        known = self._ratios.get(key)
        self._ratios[key] = ratio if known is None else (known + ratio) / 2

    def save(self) -> None:
        """Write the table atomically. Nothing happens for a table without a path."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": TABLE_FORMAT, "fingerprint": self.fingerprint, "ratios": self._ratios}
        write_atomically(self.path, json.dumps(content).encode())
