"""`edge-dac ranks`: ask devices for ranks that an operator chose."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.cli.arguments import positive_integer
from edge_dac.cli.remote import add_change, add_target, change_all, options_of
from edge_dac.convolution import Rank
from edge_dac.errors import UsageError
from edge_dac.planning.budget import LayerRank


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac ranks``."""
    parser = subparsers.add_parser("ranks", help="set the ranks of a model on devices")
    parser.add_argument("--rank", type=positive_integer, metavar="R", help="DAC with this rank in every layer")
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME=SCHEME:RANK",
        help="one layer: conv1=dac:3, conv2=tucker:16,24, conv3=dense; may be repeated",
    )
    parser.add_argument("--mac-fraction", type=float, metavar="F", help="largest share of the multiply-accumulates")
    add_change(parser, plans=True)
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Set the ranks on all targets."""
    layers = dict(_layer(text) for text in arguments.layer)
    if arguments.rank is None and not layers and arguments.mac_fraction is None:
        raise UsageError("ranks: expected at least one of --rank, --layer, --mac-fraction")
    options = options_of(arguments)
    return change_all(
        arguments,
        lambda client, model: client.set_ranks(
            model,
            uniform_rank=arguments.rank,
            layers=layers,
            mac_fraction=arguments.mac_fraction,
            options=options,
        ),
    )


def _layer(text: str) -> tuple[str, LayerRank]:
    # A layer's name may hold colons, slashes and equals signs; a choice does not.
    name, _, choice = text.rpartition("=")
    scheme, _, numbers = choice.partition(":")
    if not name or not scheme or bool(numbers) == (scheme == "dense"):
        raise UsageError(f"--layer: expected NAME=SCHEME:RANK or NAME=dense, got {text!r}")
    return name, LayerRank(scheme, _rank(text, numbers))


def _rank(text: str, numbers: str) -> Rank | None:
    if not numbers:
        return None
    try:
        ranks = [int(number) for number in numbers.split(",")]
    except ValueError:
        ranks = []
    if len(ranks) not in (1, 2) or min(ranks) < 1:
        raise UsageError(f"--layer: expected one or two ranks above 0, got {text!r}")
    return ranks[0] if len(ranks) == 1 else (ranks[0], ranks[1])
