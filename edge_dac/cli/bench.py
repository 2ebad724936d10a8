"""``edge-dac bench MODEL [OTHER...]``: models side by side in one interleaved run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_dac.cli.arguments import (
    add_allow_external,
    add_json,
    add_model,
    add_shapes,
    add_threads,
    add_values,
    positive_integer,
)
from edge_dac.cli.output import print_json, print_table


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="models side by side in one interleaved run")
    add_model(parser)
    parser.add_argument("others", type=Path, nargs="*", metavar="OTHER", help="compared with MODEL")
    add_shapes(parser)
    add_values(parser)
    add_threads(parser)
    add_allow_external(parser)
    parser.add_argument("--rounds", type=positive_integer, default=100, metavar="N", help="at most (100)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="at most (20)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from edge_dac.cli.named_subject import load_named_subject
    from edge_dac.device.probes import compare, open_session, session_options
    from edge_dac.graph.loading import load_model

    subject = load_named_subject(arguments)
    paths = [arguments.model, *arguments.others]
    for path in arguments.others:
        load_model(path, allow_external=arguments.allow_external)
    sessions = [open_session(path, session_options(arguments.threads)) for path in paths]
    comparison = compare(
        sessions,
        subject.timing_feed,
        threads=arguments.threads,
        precision=0.005,
        min_rounds=min(10, arguments.rounds),
        max_rounds=arguments.rounds,
        time_budget_s=arguments.seconds,
    )
    entries = [
        {
            "model": str(path),
            "p50_ms": comparison.median_ms(index),
            "p95_ms": comparison.percentile_ms(index, 95),
            "ratio": comparison.ratio(index),
            "spread": comparison.spread(index),
            "speedup": 1 / comparison.ratio(index),
        }
        for index, path in enumerate(paths)
    ]
    rounds = comparison.round_ms.shape[1]
    if arguments.json:
        print_json({"rounds": rounds, "threads": arguments.threads, "models": entries})
    else:
        rows = [
            (
                entry["model"],
                f"{entry['p50_ms']:.3f}",
                f"{entry['p95_ms']:.3f}",
                f"{entry['ratio']:.3f}",
                f"±{entry['spread']:.1%}",
                f"{entry['speedup']:.2f}x",
            )
            for entry in entries
        ]
        columns = ("model", "p50 ms", "p95 ms", "ratio", "spread", "speed-up")
        print_table(f"{rounds} interleaved rounds, {arguments.threads} thread(s)", columns, rows)
    return 0
