"""Where things lie below the daemon's state directory, and the claim to be alone there."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

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

    def claim(self) -> int:
        """Become the only daemon with this state; returns the descriptor that holds the claim.

        Raises:
            UsageError: another daemon has it, or it cannot be written.
        """
        try:
            make_private_directory(self.root)
            descriptor = os.open(self.root / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise UsageError(f"state directory {self.root}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UsageError(f"state directory {self.root}: expected to be alone, another daemon uses it") from error
        return descriptor
