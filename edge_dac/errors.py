"""The exceptions of edge-dac.

::

    EdgeDacError                      base; never raised itself            exit 1
    ├── UsageError                    an argument makes no sense           exit 2
    │   └── BudgetError               a budget is not a usable number      exit 2
    ├── RefusedError                  the input cannot be worked on        exit 3
    │   ├── ModelNotFoundError        no such file, or not a regular file
    │   ├── ModelTooLargeError        over the size limit
    │   ├── ModelFormatError          not ONNX, truncated, invalid graph
    │   ├── ExternalDataError         external tensor data that is not allowed
    │   └── InputShapeError           a shape that the model cannot take
    ├── BudgetUnreachableError        the best found misses the budget     exit 4
    ├── VerificationError             a rewritten model is not what it must be  exit 1
    ├── ArtifactError                 a stored operating point is damaged  exit 1
    └── RemoteError                   a daemon answered with an error      exit 1

Every message is one line that names the thing, what was expected and what came.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EdgeDacError(Exception):
    """Base of all errors that edge-dac raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgeDacError):
    """An argument is wrong by itself, whatever the model."""

    exit_code = 2


class BudgetError(UsageError):
    """A budget is not a usable number (zero, negative, NaN, infinite) or contradicts another."""


class RefusedError(EdgeDacError):
    """The input cannot be worked on; the message says why."""

    exit_code = 3


class ModelNotFoundError(RefusedError):
    """The model file does not exist or is not a regular file."""


class ModelTooLargeError(RefusedError):
    """The model file is over the size limit."""


class ModelFormatError(RefusedError):
    """The file is not a valid ONNX model."""


class ExternalDataError(RefusedError):
    """The model refers to tensor data outside its file in a way that is not allowed."""


class InputShapeError(RefusedError):
    """A requested input name or shape does not fit the model."""


class BudgetUnreachableError(EdgeDacError):
    """No plan meets the budget; the message states the best that was found.

    Attributes:
        best: the nearest result (``edge_dac.compression.Compressed``), or None.
    """

    exit_code = 4

    def __init__(self, message: str, best: Any = None) -> None:
        super().__init__(message)
        self.best = best


class VerificationError(EdgeDacError):
    """A rewritten model does not compute what it must."""


class ArtifactError(EdgeDacError):
    """A stored artifact is missing or damaged."""


class RemoteError(EdgeDacError):
    """A daemon could not be reached or answered with an error."""
