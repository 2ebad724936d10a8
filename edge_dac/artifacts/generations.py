"""What each model was asked to be and what it became: numbered generations that survive a power cut.

A generation is written ``pending`` before its request is acknowledged, and becomes ``applied`` or ``failed`` later.
Numbers only grow, also over failures and restarts. Two slots take turns: if the newest file is damaged, the one before
it, whole, is what the daemon starts with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge_dac.artifacts.durable import make_private_directory, replace_file
from edge_dac.errors import ArtifactError

KEPT = 10
"""Applied generations that Rollback can go back to."""

_FORMAT = 1


class State(StrEnum):
    """How far a generation got."""

    PENDING = "pending"
    APPLIED = "applied"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration of one model.

    Attributes:
        number: grows by at least one with every accepted request.
        state: pending, applied or failed.
        cause: the request it came from, for example ``set_budget``.
        budget: as ``Budget.to_json()``; None serves the original alone.
        best_effort: whether the best found is applied when the budget cannot be met.
        allow_gap: whether the model may be unloaded before the new point is loaded, where memory is short.
        pinned_point: id of the point to stay at whatever happens; None leaves it to the governor.
        points: digests of its operating points, most exact first, without the original.
        active_point: id of the point that was active when it was applied.
        idempotency_key: key of the request; empty if it had none.
        created_unix_s: when it was accepted.
        message: why it failed.
    """

    number: int
    state: State
    cause: str
    budget: Mapping[str, Any] | None = None
    best_effort: bool = False
    pinned_point: str | None = None
    points: tuple[str, ...] = ()
    active_point: str | None = None
    idempotency_key: str = ""
    created_unix_s: float = 0.0
    message: str = ""
    allow_gap: bool = False


@dataclass(slots=True)
class _Contents:
    model_digest: str = ""
    configured_budget: Mapping[str, Any] | None = None
    last_number: int = 0
    sequence: int = 0
    generations: list[Generation] = field(default_factory=list)


class GenerationJournal:
    """The generations of one model, on disk. One writer."""

    def __init__(self, directory: Path, model: str) -> None:
        """Open or begin the journal of ``model`` below ``directory``.

        ``damage`` then holds a line for each slot that was found damaged.
        """
        make_private_directory(directory)
        stem = hashlib.sha256(model.encode()).hexdigest()[:32]
        self._slots = tuple(directory / f"{stem}.{index}.json" for index in (0, 1))
        self._model = model
        self.damage: list[str] = []
        self._contents = max(
            (contents for slot in self._slots if (contents := self._load(slot)) is not None),
            key=lambda contents: contents.sequence,
            default=_Contents(),
        )

    @property
    def applied(self) -> Generation | None:
        """The newest applied generation."""
        return next((one for one in reversed(self._contents.generations) if one.state is State.APPLIED), None)

    @property
    def pending(self) -> Generation | None:
        """The accepted generation that is not decided yet."""
        return next((one for one in reversed(self._contents.generations) if one.state is State.PENDING), None)

    @property
    def head(self) -> int:
        """Number that ``expected_generation`` is compared with: the pending one, else the applied one, else 0."""
        head = self.pending or self.applied
        return head.number if head else 0

    @property
    def history(self) -> tuple[Generation, ...]:
        """Oldest first: applied ones that can be rolled back to, the last failed one, the pending one."""
        return tuple(self._contents.generations)

    @property
    def model_digest(self) -> str:
        """sha256 of the model file that the generations were applied to; empty at first."""
        return self._contents.model_digest

    @property
    def configured_budget(self) -> Mapping[str, Any] | None:
        """The budget that stood in the daemon's configuration when it last made a generation."""
        return self._contents.configured_budget

    @property
    def referenced_points(self) -> frozenset[str]:
        """Digests of every operating point that a kept generation needs."""
        return frozenset(point for one in self._contents.generations for point in one.points)

    def find_key(self, idempotency_key: str) -> Generation | None:
        """The kept generation that a request with this key made; None for an empty key."""
        matches = (one for one in self._contents.generations if one.idempotency_key == idempotency_key)
        return next(matches, None) if idempotency_key else None

    def accept(self, request: Generation, **noted: Any) -> Generation:
        """Make ``request`` durable as the pending generation, numbered anew; one that was pending has failed.

        Args:
            noted: ``configured_budget``, where the request comes from the daemon's configuration.
        """
        contents = replace(self._contents, **noted)
        number = contents.last_number + 1
        accepted = replace(request, number=number, state=State.PENDING)
        generations = [
            replace(one, state=State.FAILED, message=f"superseded by generation {number}")
            if one.state is State.PENDING
            else one
            for one in contents.generations
        ]
        self._write(replace(contents, last_number=number, generations=[*generations, accepted]))
        return accepted

    def decide(self, decided: Generation, *, model_digest: str | None = None) -> None:
        """Make the outcome of a generation durable; it replaces the one of the same number.

        Raises:
            ArtifactError: there is no such generation (it was superseded and forgotten).
        """
        contents = self._contents
        if not any(one.number == decided.number for one in contents.generations):
            raise ArtifactError(f"model {self._model}: generation {decided.number} is not in the journal")
        generations = [decided if one.number == decided.number else one for one in contents.generations]
        digest = contents.model_digest if model_digest is None else model_digest
        self._write(replace(contents, generations=generations, model_digest=digest))

    def _write(self, contents: _Contents) -> None:
        contents = replace(contents, sequence=contents.sequence + 1, generations=_kept(contents.generations))
        body = json.dumps({"format": _FORMAT, "model": self._model, **asdict(contents)}, sort_keys=True)
        envelope = {"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}
        replace_file(self._slots[contents.sequence % 2], json.dumps(envelope).encode())
        self._contents = contents

    def _load(self, slot: Path) -> _Contents | None:
        try:
            raw = slot.read_bytes()
        except FileNotFoundError:
            return None
        try:
            envelope = json.loads(raw)
            body = envelope["body"]
            if hashlib.sha256(body.encode()).hexdigest() != envelope["sha256"]:
                raise ValueError("checksum mismatch")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            slot.replace(slot.with_suffix(".damaged"))
            self.damage.append(f"model {self._model}: journal slot {slot.name} is damaged ({error}); set aside")
            return None
        values = json.loads(body)
        if values["format"] != _FORMAT:
            raise ArtifactError(f"model {self._model}: journal format {values['format']}, expected {_FORMAT}")
        generations = [_generation(one) for one in values["generations"]]
        return _Contents(
            values["model_digest"],
            values["configured_budget"],
            values["last_number"],
            values["sequence"],
            generations,
        )


def _generation(values: Mapping[str, Any]) -> Generation:
    """From JSON. Fields that a newer version has added are left out, so that a downgrade keeps the history."""
    known = {name: value for name, value in values.items() if name in Generation.__dataclass_fields__}
    return Generation(**{**known, "state": State(values["state"]), "points": tuple(values["points"])})


def _kept(generations: list[Generation]) -> list[Generation]:
    """The last applied ones, the last failed one, and the pending one, in order."""
    applied = [one for one in generations if one.state is State.APPLIED][-KEPT:]
    failed = [one for one in generations if one.state is State.FAILED][-1:]
    pending = [one for one in generations if one.state is State.PENDING]
    return sorted([*applied, *failed, *pending], key=lambda one: one.number)
