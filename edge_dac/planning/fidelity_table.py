"""What candidates cost in fidelity, kept between runs: with it a further budget needs no fits but those of the chosen plan.

Errors come from synthetic (or the user's) samples and do not depend on the device; they belong to a model, its samples, the
schemes considered and the version of this package. Latency is kept elsewhere (``device/latency_table.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_dac.files import write_atomically
from edge_dac.planning.candidates import Candidate
from edge_dac.planning.subject import Subject

TABLE_FORMAT = 1
MOST_MODELS = 16
"""The models judged last are kept."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A fitted candidate's relative error at its layer's output, and at the model's with that candidate alone."""

    error: float
    damage: float


def samples_key(subject: Subject, schemes: Iterable[str]) -> str:
    """Digest of everything that judgements depend on."""
    digest = hashlib.sha256(subject.digest.encode())
    parts = (version("edge-dac"), subject.specs, sorted(subject.input_shapes.items()), subject.seed, tuple(schemes))
    digest.update(repr(parts).encode())
    for name, samples in sorted((subject.calibration or {}).items()):
        digest.update(name.encode())
        digest.update(samples.tobytes())
    return digest.hexdigest()


class FidelityTable:
    """Judgements by layer and candidate, for one model and its samples.

    Args:
        path: file to load from and :meth:`save` to; None keeps the table in memory.
        key: from :func:`samples_key`.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._key = key
        self._models = {} if path is None else _load(path)
        self._layers: dict[str, dict[str, list[float] | None]] = self._models.pop(key, {})

    def get(self, layer: str, wanted: Iterable[Candidate]) -> dict[Candidate, Judgement] | None:
        """Judgements of those of the wanted candidates that were worth one; None unless all were considered before."""
        known = self._layers.get(layer, {})
        names = {candidate: _name(candidate) for candidate in wanted}
        if any(name not in known for name in names.values()):
            return None
        entries = {candidate: known[name] for candidate, name in names.items()}
        return {candidate: Judgement(*entry) for candidate, entry in entries.items() if entry is not None}

    def put(self, layer: str, wanted: Iterable[Candidate], judged: Mapping[Candidate, Judgement]) -> None:
        """Remember the judgements of a layer, and which candidates others beat."""
        known = self._layers.setdefault(layer, {})
        for candidate in wanted:
            found = judged.get(candidate)
            known[_name(candidate)] = None if found is None else [found.error, found.damage]

    def save(self) -> None:
        """Write the table atomically. Nothing happens for a table without a path."""
        if self._path is None:
            return
        kept = dict(list(self._models.items())[-(MOST_MODELS - 1) :])
        content = {"format": TABLE_FORMAT, "models": {**kept, self._key: self._layers}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(content).encode())


def _name(candidate: Candidate) -> str:
    """Lowerings of one factorization are equal in fidelity."""
    integers = "|integers" if candidate.computes_integers else ""
    return f"{candidate.scheme}|{candidate.rank}{integers}".replace(" ", "")


def _load(path: Path) -> dict[str, Any]:
    """Models by key; a damaged or older file counts as none, for everything in it can be measured again."""
    try:
        content = json.loads(path.read_text())
        if content["format"] != TABLE_FORMAT:
            return {}
        return {
            key: {
                layer: {name: None if e is None else [float(e[0]), float(e[1])] for name, e in entries.items()}
                for layer, entries in layers.items()
            }
            for key, layers in content["models"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}
