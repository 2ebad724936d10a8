"""`edge-dac reprofile`: measure devices anew, and plan again for the budget in force."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.cli.remote import add_change, add_target, change_all, options_of


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac reprofile``."""
    parser = subparsers.add_parser("reprofile", help="measure devices anew and plan again for the budget in force")
    add_change(parser, plans=True)
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reprofile all targets."""
    options = options_of(arguments)
    return change_all(arguments, lambda client, model: client.reprofile(model, options))
