"""The command `edge-dac`: parses arguments, calls a subcommand, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from edge_dac.cli.output import print_error
from edge_dac.cli.serve import become_daemon
from edge_dac.errors import EdgeDacError

SUBCOMMANDS = (
    "device",
    "inspect",
    "compress",
    "bench",
    "report",
    "serve",
    "check-config",
    "status",
    "budget",
    "ranks",
    "pin",
    "watch",
    "rollback",
    "reprofile",
    "discover",
)
"""One module each in this package; loaded when its name stands on the command line, so that the others cost nothing."""


def build_parser(names: Sequence[str] = SUBCOMMANDS) -> argparse.ArgumentParser:
    """The parser with the subcommands of ``names`` fully described."""
    parser = argparse.ArgumentParser(
        prog="edge-dac",
        description="Make a pretrained ONNX convolutional network faster on this device, without data, and serve it.",
    )
    parser.add_argument("--version", action="version", version=f"edge-dac {version('edge-dac')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        importlib.import_module(f"edge_dac.cli.{name.replace('-', '_')}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (DESIGN: 0 done, 2 usage, 3 refused, 4 budget unreachable, 1 anything else)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    named = next((word for word in words if not word.startswith("-")), None)
    try:
        if named == "serve":
            become_daemon(words[words.index("serve") + 1 :])
        parsed = build_parser((named,) if named in SUBCOMMANDS else SUBCOMMANDS).parse_args(words)
        return int(parsed.run(parsed))
    except EdgeDacError as error:
        print_error(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader went away (``| head``); nothing more can be said, also not while Python closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
