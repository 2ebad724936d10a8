"""``edge-dac serve``: the daemon in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NoReturn

from edge_dac.errors import UsageError


def add_parser(subparsers: Any) -> None:
    subparsers.add_parser("serve", help="the daemon in the foreground; its options: edge-dac serve --help")


def become_daemon(words: Sequence[str]) -> NoReturn:
    """Become the daemon with its own options: same process, so that signals and a supervisor's process id stay right.

    Raises:
        UsageError: the daemon is not installed.
    """
    if find_spec("edge_dacd") is None:
        raise UsageError("serve: expected the package edge_dacd beside edge_dac, found none")
    os.execv(sys.executable, [sys.executable, "-m", "edge_dacd", *words])
