"""The calls of the control protocol, whoever makes them: what to send, how to read the answer, what went wrong."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import grpc

from edge_dac import wire
from edge_dac.budget_messages import set_layer_ranks
from edge_dac.control_values import (
    ChangeResult,
    Device,
    Event,
    ModelState,
    device_from,
    event_from,
    model_from,
    result_from,
)
from edge_dac.errors import RemoteError
from edge_dac.planning.budget import LayerRank
from edge_dac.tls import ClientTls

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_CHANGE_TIMEOUT_S = 3600.0
ATTEMPTS = 4
FIRST_PAUSE_S = 0.2
_SERVICE = "edge_dac.control.v1.Control"
_Result = TypeVar("_Result")


class ControlError(RemoteError):
    """A daemon answered with an error, or could not be reached.

    Attributes:
        code: name of the gRPC status, for example ``NOT_FOUND``, ``ABORTED`` or ``UNAVAILABLE``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BudgetRefusedError(ControlError):
    """The budget cannot be met on that device, and nothing was changed.

    Attributes:
        best_latency_ms, best_error: the best that can be reached; None where the daemon does not know.
    """

    exit_code = 4

    def __init__(self, message: str, best_latency_ms: float | None, best_error: float | None) -> None:
        super().__init__("FAILED_PRECONDITION", message)
        self.best_latency_ms = best_latency_ms
        self.best_error = best_error


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """How a change is to be made.

    Attributes:
        expected_generation: make it only if this is the newest generation, pending or applied; else ``ABORTED``.
        dry_run: find the plan and tell; change nothing.
        best_effort: apply the best that can be reached if the budget cannot be met.
        allow_gap: where memory for two points is short, unload first: requests wait until the new one is loaded.
        no_wait: come back as soon as the change is durable, not when it is applied.
        idempotency_key: two changes with one key are one; a fresh key if empty.
    """

    expected_generation: int | None = None
    dry_run: bool = False
    best_effort: bool = False
    allow_gap: bool = False
    no_wait: bool = False
    idempotency_key: str = ""


DEFAULT_OPTIONS = ChangeOptions()


@dataclass(frozen=True, slots=True)
class Call(Generic[_Result]):
    """One call: what to send, how to read the answer, how long it may take."""

    method: str
    request: Any
    read: Callable[[Any], _Result]
    changes: bool = False


def _message(name: str, **values: Any) -> Any:
    return wire.message(f"edge_dac.control.v1.{name}")(**values)


def _change(model: str, options: ChangeOptions) -> Any:
    message = _message(
        "Change",
        model=model,
        idempotency_key=options.idempotency_key or uuid.uuid4().hex,
        dry_run=options.dry_run,
        best_effort=options.best_effort,
        allow_gap=options.allow_gap,
        no_wait=options.no_wait,
    )
    if options.expected_generation is not None:
        message.expected_generation = options.expected_generation
    return message


def changing(method: str, model: str, options: ChangeOptions, **values: Any) -> Call[ChangeResult]:
    """A change: ``method`` of the protocol with the fields of its request besides ``change``."""
    request = _message(f"{method}Request", change=_change(model, options), **values)
    return Call(method, request, result_from, changes=True)


def get_device() -> Call[Device]:
    """``GetDevice``."""
    return Call("GetDevice", _message("GetDeviceRequest"), device_from)


def list_models() -> Call[tuple[ModelState, ...]]:
    """``ListModels``."""
    return Call("ListModels", _message("ListModelsRequest"), lambda answer: tuple(map(model_from, answer.models)))


def get_model(model: str, with_layers: bool) -> Call[ModelState]:
    """``GetModel``."""
    return Call("GetModel", _message("GetModelRequest", model=model, with_layers=with_layers), model_from)


def set_ranks(
    model: str,
    uniform_rank: int | None,
    total_rank: int | None,
    layers: Mapping[str, LayerRank],
    mac_fraction: float | None,
    options: ChangeOptions,
) -> Call[ChangeResult]:
    """``SetRanks``."""
    call = changing("SetRanks", model, options)
    if uniform_rank is not None:
        call.request.uniform_rank = uniform_rank
    if total_rank is not None:
        call.request.total_rank = total_rank
    if mac_fraction is not None:
        call.request.mac_fraction = mac_fraction
    set_layer_ranks(call.request.layers, layers)
    return call


def watch(models: Iterable[str]) -> Call[Event]:
    """``Watch``."""
    return Call("Watch", _message("WatchRequest", models=list(models)), event_from)


@dataclass(frozen=True, slots=True)
class Connection:
    """What the two clients have in common."""

    address: str
    timeout_s: float
    change_timeout_s: float
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)

    @classmethod
    def to(
        cls, address: str, token: str | None, tls: ClientTls | None, timeout_s: float, change_timeout_s: float
    ) -> Connection:
        """To ``address``, with the operator's token where the daemon wants one, and TLS unless on a Unix socket."""
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        credentials = None if tls is None or address.startswith("unix:") else tls.credentials()
        return cls(address, timeout_s, change_timeout_s, metadata, credentials)

    def open(self, grpc_kind: Any) -> Any:
        """A channel of ``grpc_kind``: the module ``grpc`` or ``grpc.aio``."""
        if self.credentials is None:
            return grpc_kind.insecure_channel(self.address)
        return grpc_kind.secure_channel(self.address, self.credentials)

    def timeout_of(self, call: Call[Any]) -> float:
        """Seconds that the call may take."""
        return self.change_timeout_s if call.changes else self.timeout_s

    def bind(self, channel: Any, call: Call[Any], *, stream: bool = False) -> Any:
        """The gRPC callable for a call on ``channel``, synchronous or not as the channel is."""
        method = wire.service(_SERVICE).methods[call.method]
        kind = channel.unary_stream if stream else channel.unary_unary
        return kind(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def error(self, error: grpc.RpcError) -> ControlError:
        """What a failed call means."""
        code, details = error.code().name, " ".join((error.details() or "").split())
        best = {key: value for key, value in error.trailing_metadata() or () if key.startswith("edge-dac-best-")}
        if best:
            return BudgetRefusedError(
                f"{self.address}: {details}",
                _number(best.get("edge-dac-best-latency-ms")),
                _number(best.get("edge-dac-best-error")),
            )
        if self.credentials is None and details.endswith("Socket closed"):
            details += "; does the daemon speak TLS?"
        return ControlError(code, f"{self.address}: {code}: {details}")


def _number(text: str | bytes | None) -> float | None:
    return None if text is None else float(text)


def is_passing(error: grpc.RpcError) -> bool:
    """Whether the same call may succeed in a moment."""
    return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
