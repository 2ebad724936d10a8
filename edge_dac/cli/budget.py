"""`edge-dac budget`: ask devices to keep a budget."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.budget_messages import DEFAULT_PERCENTILE
from edge_dac.cli.remote import add_change, add_target, change_all, options_of
from edge_dac.errors import UsageError
from edge_dac.planning.budget import Budget


def add_parser(subparsers: Any) -> None:
    """The arguments of ``edge-dac budget``."""
    parser = subparsers.add_parser("budget", help="set the latency, error or memory budget of a model on devices")
    latency = parser.add_mutually_exclusive_group()
    latency.add_argument("--ms", type=float, metavar="N", help="latency in milliseconds, at --percentile")
    latency.add_argument("--speedup", type=float, metavar="X", help="original latency divided by the new one")
    parser.add_argument(
        "--percentile", type=int, default=DEFAULT_PERCENTILE, metavar="P", help=f"of --ms ({DEFAULT_PERCENTILE})"
    )
    parser.add_argument("--max-error", type=float, metavar="E", help="largest predicted relative error; 0 for exact")
    parser.add_argument("--mac-fraction", type=float, metavar="F", help="largest share of the multiply-accumulates")
    parser.add_argument("--memory-mb", type=float, metavar="N", help="largest size of the model in memory, MiB")
    add_change(parser, plans=True)
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Set the budget on all targets."""
    budget = _budget(arguments)
    options = options_of(arguments)
    return change_all(arguments, lambda client, model: client.set_budget(model, budget, options))


def _budget(arguments: argparse.Namespace) -> Budget:
    memory_mb = arguments.memory_mb
    budget = Budget(
        latency_ms=arguments.ms,
        percentile=arguments.percentile,
        speedup=arguments.speedup,
        max_error=arguments.max_error,
        mac_fraction=arguments.mac_fraction,
        memory_bytes=None if memory_mb is None else int(memory_mb * (1 << 20)),
    )
    if not budget.to_json():
        raise UsageError("budget: expected at least one of --ms, --speedup, --max-error, --mac-fraction, --memory-mb")
    return budget
