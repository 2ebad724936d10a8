"""Where things lie below the daemon's state directory, and the claim to be alone there."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_dac.artifacts.durable import make_private_directory
from edge_dac.errors import UsageError


@dataclass(frozen=True, slots=True)
class StateFiles:
    """Paths below ``root``."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "artifacts"

    @property
    def generations(self) -> Path:
        return self.root / "generations"

    @property
    def latency_table(self) -> Path:
        return self.root / "latency_table.json"

    @property
    def fidelity_table(self) -> Path:
        return self.root / "fidelity_table.json"

    def claim(self) -> BinaryIO:
        """Become the only daemon with this state, until the returned file is closed.

        Raises:
            UsageError: another daemon has it, or it cannot be written.
        """
        try:
            make_private_directory(self.root)
            file = (self.root / "lock").open("ab")
        except OSError as error:
            raise UsageError(f"state directory {self.root}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UsageError(f"state directory {self.root}: expected to be alone, another daemon uses it") from error
        return file
