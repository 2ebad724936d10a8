"""What a daemon tells of itself, as plain frozen values. The client makes them from the messages of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict

from edge_dac.budget_messages import budget_from_message
from edge_dac.convolution import Rank
from edge_dac.planning.budget import Budget

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its daemon sees it; ``values`` are the fields of ``Device`` in ``control.proto`` that are known."""

    host_name: str
    fingerprint: str
    cpu_model: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """What was chosen for one layer of an operating point."""

    layer: str
    scheme: str
    rank: Rank | None
    lowering: str
    macs: int
    dense_macs: int
    latency_ms: float
    dense_latency_ms: float
    error: float


@dataclass(frozen=True, slots=True)
class Point:
    """An operating point. Latencies in milliseconds as measured when it was made; None if unknown."""

    id: str
    latency_ms: float | None
    latency_p95_ms: float | None
    predicted_error: float | None
    size_bytes: int
    mac_fraction: float | None
    loaded: bool
    active: bool
    layers: tuple[Layer, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PastGeneration:
    """One line of a model's history. ``state``: ``pending``, ``applied`` or ``failed``."""

    number: int
    state: str
    cause: str
    budget: Budget | None
    pinned_point: str
    active_point: str
    created_unix_s: float
    message: str


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model: what it was asked to be and what it is.

    Attributes:
        generation: newest applied one; 0 if nobody has ever changed anything.
        pending_generation: accepted and being worked on; 0 if none.
        budget: in force; None if the original is served as it is.
        pinned_point: fixed by an operator; empty if the governor chooses.
        points: the ladder, the original first, most exact first.
        history: oldest first.
        service_p95_ms: queue and compute over the last minute; None without requests.
    """

    name: str
    version: str
    digest: str
    generation: int
    pending_generation: int
    budget: Budget | None
    best_effort: bool
    pinned_point: str
    active_point: str
    active_reason: str
    points: tuple[Point, ...]
    history: tuple[PastGeneration, ...]
    last_failure: str
    service_p95_ms: float | None

    @property
    def active(self) -> Point | None:
        """The point that computes now."""
        return next((point for point in self.points if point.active), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(self)


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What became of a change.

    Attributes:
        generation: of the change; of the applied one after a dry run.
        applied: false after a dry run, and if it was not waited for.
        point: what was reached, with its layers.
        original_latency_ms: of the original in the same measurement.
        budget_met: false only with ``best_effort``.
    """

    generation: int
    applied: bool
    point: Point
    original_latency_ms: float | None
    budget_met: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(self)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        sequence: grows by one; a gap means that this watcher was too slow.
        model: empty if it concerns the device.
        kind: ``snapshot``, ``accepted``, ``progress``, ``swap``, ``decision``, ``throttling``, ``applied`` or
            ``failure``.
        values: the fields of that message in ``control.proto``.
        snapshot: the state of the model, for that kind.
    """

    sequence: int
    time_unix_ms: int
    model: str
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    snapshot: ModelState | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_json(self)


def to_json(value: Any) -> dict[str, Any]:
    """A value of this module as plain JSON; budgets keep only what is set."""
    result: dict[str, Any] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, Budget):
        return value.to_json()
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def _fields(kind: type[_Value], message: Any, **special: Any) -> _Value:
    """A value from the fields of the same name; a field that is unset although it knows the difference is None."""
    values = {}
    descriptors = message.DESCRIPTOR.fields_by_name
    for name in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        if name in special:
            values[name] = special[name]
        else:
            unset = descriptors[name].has_presence and not message.HasField(name)
            values[name] = None if unset else getattr(message, name)
    return kind(**values)


def device_from(message: Any) -> Device:
    """From ``Device``."""
    values = MessageToDict(message, preserving_proto_field_name=True)
    # JSON of protobuf writes 64-bit numbers as text.
    for name in [name for name in values if name.endswith("_bytes")]:
        values[name] = int(values[name])
    return Device(message.host_name, message.fingerprint, message.cpu_model, values)


def model_from(message: Any) -> ModelState:
    """From ``Model``."""
    return _fields(
        ModelState,
        message,
        budget=_budget(message),
        points=tuple(point_from(one) for one in message.points),
        history=tuple(_fields(PastGeneration, one, budget=_budget(one)) for one in message.history),
    )


def point_from(message: Any) -> Point:
    """From ``OperatingPoint``."""
    layers = tuple(_fields(Layer, one, rank=_rank(tuple(one.rank))) for one in message.layers)
    return _fields(Point, message, layers=layers, warnings=tuple(message.warnings))


def result_from(message: Any) -> ChangeResult:
    """From ``ChangeResult``."""
    return _fields(ChangeResult, message, point=point_from(message.point))


def event_from(message: Any) -> Event:
    """From ``Event``."""
    kind = message.WhichOneof("kind") or ""
    if kind == "snapshot":
        return Event(message.sequence, message.time_unix_ms, message.model, kind, snapshot=model_from(message.snapshot))
    inner = getattr(message, kind)
    values = {descriptor.name: getattr(inner, descriptor.name) for descriptor in inner.DESCRIPTOR.fields}
    if kind == "throttling":
        values = {"sensors": MessageToDict(inner.sensors, preserving_proto_field_name=True)}
    if kind == "progress" and not inner.HasField("eta_s"):
        values["eta_s"] = None
    return Event(message.sequence, message.time_unix_ms, message.model, kind, values)


def _budget(message: Any) -> Budget | None:
    return budget_from_message(message.budget) if message.HasField("budget") else None


def _rank(numbers: tuple[int, ...]) -> Rank | None:
    if len(numbers) == 2:
        return (numbers[0], numbers[1])
    return numbers[0] if numbers else None
