"""``edge-dac device``: what this device is."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.cli.arguments import add_json
from edge_dac.cli.output import print_json, print_table
from edge_dac.device.profile import profile_device


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("device", help="the device profile")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    profile = profile_device()
    values = {**profile.to_json(), "fingerprint": profile.fingerprint}
    if arguments.json:
        print_json(values)
    else:
        print_table("Device", ("property", "value"), list(_rows("", values)))
    return 0


def _rows(prefix: str, values: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows.extend(_rows(f"{prefix}{key}.", value))
        elif isinstance(value, list | tuple):
            rows.append((prefix + key, " ".join(str(entry) for entry in value) or "-"))
        else:
            rows.append((prefix + key, "-" if value is None else str(value)))
    return rows
