"""Writing files so that they are never half there."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from edge_dac.errors import UsageError


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write ``content`` so that ``path`` holds either what it held before or all of it, also after a power cut.

    Raises:
        UsageError: the folder is missing, not writable or full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot write the file: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
