"""`edge-dac pin`: fix an operating point, or return the choice to the governor."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.cli.remote import add_change, add_target, change_all, options_of


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac pin``."""
    parser = subparsers.add_parser("pin", help="stay at one operating point, or let the governor choose again")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("point", nargs="?", metavar="POINT", help="id of the point, the beginning of it, or `original`")
    what.add_argument("--auto", action="store_true", help="let the governor choose")
    add_change(parser, plans=False)
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Pin on all targets."""
    options = options_of(arguments)
    if arguments.auto:
        return change_all(arguments, lambda client, model: client.unpin(model, options))
    return change_all(arguments, lambda client, model: client.pin(model, arguments.point, options))
