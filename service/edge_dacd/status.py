"""How the daemon says no: an error with a gRPC status code and one line for the client.

A message names the thing, what was expected and what came. It carries no path of the device and no text of an exception
that was not raised on purpose.
"""

from __future__ import annotations

import grpc

from edge_dac.errors import BudgetUnreachableError, EdgeDacError, RefusedError, UsageError

_CODES: tuple[tuple[type[EdgeDacError], grpc.StatusCode], ...] = (
    (UsageError, grpc.StatusCode.INVALID_ARGUMENT),
    (BudgetUnreachableError, grpc.StatusCode.FAILED_PRECONDITION),
    (RefusedError, grpc.StatusCode.FAILED_PRECONDITION),
    (EdgeDacError, grpc.StatusCode.INTERNAL),
)
_LONGEST_MESSAGE = 1000
"""It may carry a name that a client made up, and travels in a header."""


class RequestError(Exception):
    """A request that is answered with an error: ``code`` and a one-line message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message[:_LONGEST_MESSAGE]


def invalid(message: str) -> RequestError:
    """The client asked for something that cannot be right."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> RequestError:
    """The thing asked for is not known here."""
    return RequestError(grpc.StatusCode.NOT_FOUND, message)


def unavailable(message: str) -> RequestError:
    """Known, but not ready; trying again later may help."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, message)


def from_library(error: EdgeDacError) -> RequestError:
    """The status that belongs to an error of the library."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    return RequestError(code, str(error))
