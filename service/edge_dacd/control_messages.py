"""From the daemon's state to the messages of ``edge_dac.control.v1``."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from edge_dac import wire
from edge_dac.artifacts.generations import Generation
from edge_dac.budget_messages import budget_to_message, rank_numbers
from edge_dac.device.profile import DeviceProfile
from edge_dac.device.sensors import SensorReading
from edge_dac.planning.budget import Budget
from edge_dac.planning.plan import Plan
from edge_dacd.changes import Outcome
from edge_dacd.managed_model import ManagedModel
from edge_dacd.operating_points import LadderPoint

_PACKAGE = "edge_dac.control.v1"


def _message(name: str, values: Mapping[str, Any]) -> Any:
    """A message with the values that are known; None leaves a field unset."""
    return wire.message(f"{_PACKAGE}.{name}")(**{key: value for key, value in values.items() if value is not None})


def device_message(profile: DeviceProfile) -> Any:
    """``Device``."""
    names = [field.name for field in wire.message(f"{_PACKAGE}.Device").DESCRIPTOR.fields]
    values = {name: getattr(profile, name) for name in names if hasattr(profile, name)}
    return _message(
        "Device",
        {
            **values,
            "host_name": platform.node(),
            "edge_dac_version": version("edge-dac"),
            "sensors": sensors_message(profile.reading),
        },
    )


def sensors_message(reading: SensorReading) -> Any:
    """``Sensors``."""
    return _message(
        "Sensors",
        {
            "temperature_c": reading.temperature_c,
            "frequency_mhz": reading.frequency_mhz,
            "throttled": reading.throttled,
            "throttle_flags": reading.throttle_flags,
            "available_memory_bytes": reading.available_memory_bytes,
        },
    )


def model_message(managed: ManagedModel, *, with_layers: bool = False, service_p95_ms: float | None = None) -> Any:
    """``Model``: what it was asked to be and what it is."""
    with managed.lock:
        applied, pending = managed.journal.applied, managed.journal.pending
        active, loaded = managed.points.active_id, managed.points.loaded_ids()
        points = [
            point_message(point, loaded=point.id in loaded, active=point.id == active, with_layers=with_layers)
            for point in managed.points.ladder
        ]
        return _message(
            "Model",
            {
                "name": managed.name,
                "version": managed.model.source.version,
                "digest": managed.model.digest,
                "generation": applied.number if applied else 0,
                "pending_generation": pending.number if pending else 0,
                "budget": None if managed.budget is None else budget_to_message(managed.budget),
                "best_effort": applied.best_effort if applied else False,
                "pinned_point": managed.pinned_point,
                "active_point": active,
                "active_reason": managed.points.reason,
                "points": points,
                "history": [_generation_message(one) for one in managed.journal.history],
                "last_failure": managed.last_failure,
                "service_p95_ms": service_p95_ms,
            },
        )


def point_message(point: LadderPoint, *, loaded: bool, active: bool, with_layers: bool = False) -> Any:
    """``OperatingPoint``."""
    plan = point.plan
    message = _message(
        "OperatingPoint",
        {
            "id": point.id,
            "latency_ms": point.latency_ms,
            "latency_p95_ms": point.latency_p95_ms,
            "predicted_error": point.predicted_error,
            "size_bytes": point.size_bytes,
            "mac_fraction": plan.macs / plan.original_macs if plan and plan.original_macs else None,
            "loaded": loaded,
            "active": active,
            "warnings": plan.warnings if plan else None,
        },
    )
    if plan is not None and with_layers:
        message.layers.extend(_layer_messages(plan))
    return message


def _layer_messages(plan: Plan) -> list[Any]:
    return [
        _message(
            "LayerChoice",
            {
                "layer": choice.layer,
                "scheme": choice.scheme,
                "rank": rank_numbers(choice.rank),
                "lowering": choice.lowering,
                "macs": choice.macs,
                "dense_macs": choice.dense_macs,
                "latency_ms": choice.latency_ms,
                "dense_latency_ms": choice.dense_latency_ms,
                "error": choice.error,
            },
        )
        for choice in plan.choices
    ]


def _generation_message(generation: Generation) -> Any:
    budget = generation.budget
    return _message(
        "Generation",
        {
            "number": generation.number,
            "state": generation.state.value,
            "cause": generation.cause,
            "budget": None if budget is None else budget_to_message(Budget.from_json(budget)),
            "pinned_point": generation.pinned_point,
            "active_point": generation.active_point,
            "created_unix_s": generation.created_unix_s,
            "message": generation.message,
        },
    )


def result_message(outcome: Outcome, *, active: bool) -> Any:
    """``ChangeResult``."""
    return _message(
        "ChangeResult",
        {
            "generation": outcome.generation,
            "applied": outcome.applied,
            "point": point_message(outcome.point, loaded=active, active=active, with_layers=True),
            "original_latency_ms": outcome.original_latency_ms,
            "budget_met": outcome.budget_met,
        },
    )
