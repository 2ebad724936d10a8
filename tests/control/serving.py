"""The daemon as a process, for tests that control it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ServingProcess:
    """A real daemon on a free port, and its log. ``before``: a command that starts it, as ``unshare``."""

    def __init__(self, model: Path, state: Path, *arguments: str, before: tuple[str, ...] = ()) -> None:
        self.log = state.parent / f"{state.name}.log"
        command = [*before, sys.executable, "-W", "error", "-m", "edge_dacd", str(model), "--state-dir", str(state)]
        command += ["--threads", "1", "--log-format", "json", *(arguments or self._defaults(state))]
        with self.log.open("ab") as log:
            self.start = self.log.stat().st_size
            self.process = subprocess.Popen(command, stderr=log, cwd=state.parent)

    @staticmethod
    def _defaults(state: Path) -> tuple[str, ...]:
        """A free port; a compiler that does not give way, so that a busy machine does not starve the test."""
        config = state.parent / "defaults.toml"
        config.write_text("[compression]\nnice = 0\n")
        return ("--listen", "127.0.0.1:0", "--config", str(config))

    def entries(self, message: str) -> list[dict[str, Any]]:
        """The lines of the log with this message, of this process alone."""
        lines = self.log.read_bytes()[self.start :].decode().splitlines()
        return [entry for line in lines if line.startswith("{") and (entry := json.loads(line))["message"] == message]

    @property
    def address(self) -> str:
        """Where it listens, once it does."""

        def listening() -> Any:
            assert self.process.poll() is None, self.log.read_text()
            return self.entries("listening")

        return str(poll(listening, "the daemon listens")[0]["address"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


def poll(condition: Callable[[], Any], what: str, deadline_s: float = 60.0) -> Any:
    """Ask until the answer is true."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError(f"not within {deadline_s} s: {what}")
