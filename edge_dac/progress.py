"""Progress of long work, as values handed to a callback. Light: the daemon imports it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of progress.

    Attributes:
        phase: ``load``, ``probe``, ``moments``, ``fit``, ``sensitivity``, ``plan``, ``verify``.
        fraction: share of the phase that is done, 0 to 1.
        message: one line for people.
    """

    phase: str
    fraction: float
    message: str


ProgressCallback: TypeAlias = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The callback of those who do not care."""
