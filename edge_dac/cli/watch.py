"""`edge-dac watch`: what happens on devices, as it happens."""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from edge_dac.cli.output import print_error
from edge_dac.cli.remote import add_target, connect, targets_of
from edge_dac.cli.status import show_budget
from edge_dac.control_values import Event
from edge_dac.errors import EdgeDacError, RemoteError


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac watch``."""
    parser = subparsers.add_parser("watch", help="follow what devices do: progress, swaps, decisions, failures")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--for", dest="duration", type=float, metavar="S", help="end after so many seconds")
    parser.add_argument("--until-idle", action="store_true", help="end as soon as no change is pending")
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Follow all targets until they end, each on a thread of its own; ``--json`` prints one object a line."""
    events: queue.Queue[tuple[str, Event | EdgeDacError | None]] = queue.Queue()
    targets = targets_of(arguments)
    for target in targets:
        threading.Thread(target=_follow, args=(arguments, target, events), daemon=True).start()
    exit_code, left = 0, len(targets)
    while left:
        target, event = events.get()
        if event is None:
            left -= 1
        elif isinstance(event, EdgeDacError):
            print_error(str(event))
            exit_code = event.exit_code
        else:
            line = json.dumps({"target": target, **event.to_json()}) if arguments.json else show(target, event)
            print(line, flush=True)
    sys.stdout.flush()
    return exit_code


def _follow(arguments: argparse.Namespace, target: str, events: queue.Queue[Any]) -> None:
    pending: dict[str, bool] = {}
    try:
        with connect(arguments, target) as client:
            expected = len(arguments.model) or len(client.models())
            for event in client.watch(arguments.model, timeout_s=arguments.duration):
                events.put((target, event))
                _note(pending, event)
                if arguments.until_idle and len(pending) >= expected and not any(pending.values()):
                    break
    except RemoteError as error:
        events.put((target, error))
    finally:
        events.put((target, None))


def _note(pending: dict[str, bool], event: Event) -> None:
    """Whether a change is on its way, model by model."""
    if event.snapshot is not None:
        pending[event.model] = event.snapshot.pending_generation != 0
    elif event.kind == "accepted":
        pending[event.model] = True
    elif event.kind == "applied" or (event.kind == "failure" and event.values["generation"]):
        pending[event.model] = False


def show(target: str, event: Event) -> str:
    """An event on one line."""
    when = datetime.fromtimestamp(event.time_unix_ms / 1000, UTC).strftime("%H:%M:%S")
    return " ".join(part for part in (when, target, event.model, _words(event)) if part)


def _words(event: Event) -> str:
    values = event.values
    if event.snapshot is not None:
        model = event.snapshot
        point = model.active_point[:12]
        return f"is at generation {model.generation}, budget {show_budget(model.budget)}, point {point}"
    if event.kind == "progress":
        eta = "" if values["eta_s"] is None else f", {values['eta_s']:.0f} s left"
        return f"{values['phase']} {values['percent']:.0f} %{eta} {values['message']}"
    if event.kind in ("swap", "decision"):
        who = "governor: " if event.kind == "decision" else ""
        return f"{who}{values['from_point'][:12]} -> {values['to_point'][:12]}: {values['reason']}"
    if event.kind == "accepted":
        return f"accepted generation {values['generation']} ({values['cause']})"
    if event.kind == "applied":
        return f"applied generation {values['generation']}, point {values['active_point'][:12]}"
    if event.kind == "failure":
        return f"failed generation {values['generation']}: {values['code']}: {values['message']}"
    return f"{event.kind} {dict(values)}"
