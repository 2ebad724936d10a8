"""`edge-dac rollback`: go back to an earlier generation."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.cli.arguments import positive_integer
from edge_dac.cli.remote import add_change, add_target, change_all, options_of


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac rollback``."""
    parser = subparsers.add_parser("rollback", help="go back to an earlier generation of a model")
    parser.add_argument(
        "--generation", type=positive_integer, default=0, metavar="N", help="which; the one before if not given"
    )
    add_change(parser, plans=False)
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Roll back on all targets."""
    options = options_of(arguments)
    return change_all(arguments, lambda client, model: client.rollback(model, arguments.generation, options))
