"""`edge-dac status`: what devices are and what their models do."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from edge_dac.cli.output import print_json, print_table
from edge_dac.cli.remote import add_target, ask_all, json_of, number, report_errors
from edge_dac.client import ControlClient
from edge_dac.control_values import Device, ModelState
from edge_dac.planning.budget import Budget


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac status``."""
    parser = subparsers.add_parser("status", help="what devices are and what their models do")
    parser.add_argument("--points", action="store_true", help="also list the operating points of each model")
    parser.add_argument("--history", action="store_true", help="also list the generations that can be rolled back to")
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask all targets and print one table, or one with the operating points for each model."""

    def ask(client: ControlClient) -> tuple[Device, tuple[ModelState, ...]]:
        return client.device(), client.models()

    answers = ask_all(arguments, ask)
    if arguments.json:
        print_json(json_of(answers, _to_json))
        return report_errors(answers)
    good = [answer for answer in answers if answer.error is None]
    rows = [_row(answer.target, answer.value[0], model) for answer in good for model in answer.value[1] or (None,)]
    if rows:
        columns = ("device", "host", "model", "gen.", "budget", "point", "latency ms", "p95 now", "note")
        print_table("edge-dac status", columns, rows)
    for answer in good:
        for model in answer.value[1]:
            if arguments.points:
                print_points(answer.target, model)
            if arguments.history:
                print_history(answer.target, model)
    return report_errors(answers)


def print_points(target: str, model: ModelState) -> None:
    """A table of the ladder."""
    rows = [
        (
            "*" if point.active else "",
            point.id[:12],
            number(point.latency_ms),
            number(point.latency_p95_ms),
            number(point.predicted_error, 4),
            number(point.mac_fraction),
            "yes" if point.loaded else "no",
        )
        for point in model.points
    ]
    columns = ("", "point", "latency ms", "p95 ms", "error", "MACs", "loaded")
    print_table(f"{target} {model.name}: {model.active_reason}", columns, rows)


def print_history(target: str, model: ModelState) -> None:
    """A table of the generations, the newest last."""
    rows = [
        (
            generation.number,
            datetime.fromtimestamp(generation.created_unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            generation.state,
            generation.cause,
            show_budget(generation.budget),
            (generation.active_point or "")[:12],
            generation.message,
        )
        for generation in model.history
    ]
    columns = ("gen.", "UTC", "state", "cause", "budget", "point", "note")
    print_table(f"{target} {model.name}: generations", columns, rows)


def show_budget(budget: Budget | None) -> str:
    """A budget in a few words."""
    if budget is None:
        return "none"
    values = budget.to_json()
    percentile = values.pop("percentile", None)
    layers = len(values.pop("layer_ranks", {}))
    words = [f"{name} {value:g}" for name, value in values.items()]
    if percentile is not None:
        words[0] = f"p{percentile} {values['latency_ms']:g} ms"
    if layers:
        words.append(f"{layers} layers fixed")
    return ", ".join(words) or "exact"


def _row(target: str, device: Device, model: ModelState | None) -> tuple[object, ...]:
    if model is None:
        return target, device.host_name, "(no model)", "", "", "", "", "", ""
    note = f"generation {model.pending_generation} pending" if model.pending_generation else model.last_failure
    if not note and model.pinned_point:
        note = "pinned"
    return (
        target,
        device.host_name,
        model.name,
        model.generation,
        show_budget(model.budget),
        model.active_point[:12],
        number(model.active.latency_ms if model.active else None),
        number(model.service_p95_ms),
        note,
    )


def _to_json(value: tuple[Device, tuple[ModelState, ...]]) -> dict[str, Any]:
    device, models = value
    return {"device": dict(device.values), "models": [model.to_json() for model in models]}
