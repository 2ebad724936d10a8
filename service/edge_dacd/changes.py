"""What an operator can ask for, and what comes of it: values between the control service and the reconfigurator."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import grpc

from edge_dac.planning.budget import Budget
from edge_dacd.operating_points import LadderPoint
from edge_dacd.status import RequestError


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """One write of the control API.

    Attributes:
        cause: ``set_budget``, ``set_ranks``, ``set_active_point``, ``reprofile``, ``rollback``, or why the daemon
            itself makes a change.
        budget: the new budget, for ``set_budget`` and ``set_ranks``.
        point: for ``set_active_point``: id or unique prefix; empty returns the choice to the governor.
        generation: for ``rollback``: which; 0 for the one before.
        expected_generation, idempotency_key, dry_run, best_effort, allow_gap: as in ``control.proto``.
    """

    model: str
    cause: str
    budget: Budget | None = None
    point: str = ""
    generation: int = 0
    expected_generation: int | None = None
    idempotency_key: str = ""
    dry_run: bool = False
    best_effort: bool = False
    allow_gap: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change.

    Attributes:
        generation: its number; of the applied one after a dry run.
        applied: false after a dry run.
        point: the operating point that was reached.
        original_latency_ms: of the original in the same measurement, where one was made.
        budget_met: false only with ``best_effort``.
    """

    generation: int
    applied: bool
    point: LadderPoint
    original_latency_ms: float | None = None
    budget_met: bool = True


class BudgetImpossibleError(RequestError):
    """The budget cannot be met; with the best that can be reached, where it is known."""

    def __init__(self, message: str, latency_ms: float | None, error: float | None) -> None:
        super().__init__(grpc.StatusCode.FAILED_PRECONDITION, message)
        self.latency_ms = latency_ms
        self.error = error


def aborted(message: str) -> RequestError:
    """The change was not made because of another one."""
    return RequestError(grpc.StatusCode.ABORTED, message)


@dataclass(eq=False, slots=True)
class Pending:
    """An accepted change on its way: whoever asked for it waits here."""

    generation: int
    _decided: threading.Event = field(default_factory=threading.Event)
    _outcome: Outcome | None = None
    _error: RequestError | None = None

    def resolve(self, outcome: Outcome) -> None:
        """The change was made."""
        self._outcome = outcome
        self._decided.set()

    def reject(self, error: RequestError) -> None:
        """The change was not made. After the first decision, further ones are ignored."""
        if not self._decided.is_set():
            self._error = error
            self._decided.set()

    def wait(self, timeout_s: float) -> Outcome | None:
        """The outcome, or None if it is not decided after ``timeout_s``.

        Raises:
            RequestError: the change was not made.
        """
        if not self._decided.wait(timeout_s):
            return None
        if self._error is not None:
            raise self._error
        return self._outcome
