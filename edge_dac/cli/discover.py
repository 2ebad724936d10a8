"""`edge-dac discover`: daemons on the local network, by mDNS."""

from __future__ import annotations

import argparse
import time
from typing import Any

from edge_dac.cli.arguments import add_json
from edge_dac.cli.output import print_json, print_table
from edge_dac.discovery import find_daemons


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac discover``."""
    parser = subparsers.add_parser("discover", help="find daemons on the local network")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long to listen (3)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Listen, then print what was found."""
    found = find_daemons(until=time.monotonic() + arguments.seconds)
    if arguments.json:
        print_json([{"name": one.name, "address": one.address, "models": list(one.models)} for one in found])
    else:
        rows = [(one.name, one.address, ", ".join(one.models)) for one in found]
        print_table("edge-dac discover", ("name", "address", "models"), rows)
    return 0
