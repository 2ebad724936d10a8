"""``edge-dac check-config FILE``: whether the daemon would accept a configuration, without starting it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_dac.cli.serve import become_daemon


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("check-config", help="check a daemon's configuration without starting it")
    parser.add_argument("config", type=Path, metavar="FILE", help="TOML configuration")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    become_daemon(["--check", "--config", str(arguments.config)])
