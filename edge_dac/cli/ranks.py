"""`edge-dac ranks`: ask devices for ranks that an operator chose."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.cli.arguments import add_layer_ranks, add_total_rank, parse_layer_ranks, positive_integer
from edge_dac.cli.remote import add_change, add_target, change_all, options_of
from edge_dac.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac ranks``."""
    parser = subparsers.add_parser("ranks", help="set the ranks of a model on devices")
    parser.add_argument("--rank", type=positive_integer, metavar="R", help="DAC with this rank in every layer")
    add_total_rank(parser)
    add_layer_ranks(parser)
    parser.add_argument("--mac-fraction", type=float, metavar="F", help="largest share of the multiply-accumulates")
    add_change(parser, plans=True)
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Set the ranks on all targets."""
    layers = parse_layer_ranks(arguments.layer)
    if arguments.rank is None and arguments.total_rank is None and not layers and arguments.mac_fraction is None:
        raise UsageError("ranks: expected at least one of --rank, --total-rank, --layer, --mac-fraction")
    options = options_of(arguments)
    return change_all(
        arguments,
        lambda client, model: client.set_ranks(
            model,
            uniform_rank=arguments.rank,
            total_rank=arguments.total_rank,
            layers=layers,
            mac_fraction=arguments.mac_fraction,
            options=options,
        ),
    )
