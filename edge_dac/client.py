"""Remote control of a daemon from Python, synchronous and with asyncio.

::

    with ControlClient("camera-7.local:8001") as client:
        client.set_budget("detector", Budget(latency_ms=30, percentile=95))
        for event in client.watch():
            print(event.kind, event.values)

Inference needs no client of ours: any of the Open Inference Protocol will do, for example ``tritonclient``.
A call that only looks is repeated when the daemon cannot be reached for a moment. So is a change: each carries a key by
which the daemon knows that it has made it already.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from edge_dac import wire
from edge_dac.budget_messages import budget_to_message, set_layer_ranks
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
from edge_dac.planning.budget import Budget, LayerRank

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_CHANGE_TIMEOUT_S = 3600.0
_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.2
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
        no_wait: come back as soon as the change is durable, not when it is applied.
        idempotency_key: two changes with one key are one; a fresh key if empty.
    """

    expected_generation: int | None = None
    dry_run: bool = False
    best_effort: bool = False
    no_wait: bool = False
    idempotency_key: str = ""


DEFAULT_OPTIONS = ChangeOptions()


@dataclass(frozen=True, slots=True)
class _Call(Generic[_Result]):
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
        no_wait=options.no_wait,
    )
    if options.expected_generation is not None:
        message.expected_generation = options.expected_generation
    return message


def _changing(method: str, model: str, options: ChangeOptions, **values: Any) -> _Call[ChangeResult]:
    request = _message(f"{method}Request", change=_change(model, options), **values)
    return _Call(method, request, result_from, changes=True)


def _get_device() -> _Call[Device]:
    return _Call("GetDevice", _message("GetDeviceRequest"), device_from)


def _list_models() -> _Call[tuple[ModelState, ...]]:
    return _Call("ListModels", _message("ListModelsRequest"), lambda answer: tuple(map(model_from, answer.models)))


def _get_model(model: str, with_layers: bool) -> _Call[ModelState]:
    return _Call("GetModel", _message("GetModelRequest", model=model, with_layers=with_layers), model_from)


def _set_ranks(
    model: str,
    uniform_rank: int | None,
    layers: Mapping[str, LayerRank],
    mac_fraction: float | None,
    options: ChangeOptions,
) -> _Call[ChangeResult]:
    call = _changing("SetRanks", model, options)
    if uniform_rank is not None:
        call.request.uniform_rank = uniform_rank
    if mac_fraction is not None:
        call.request.mac_fraction = mac_fraction
    set_layer_ranks(call.request.layers, layers)
    return call


def _watch(models: Iterable[str]) -> _Call[Event]:
    return _Call("Watch", _message("WatchRequest", models=list(models)), event_from)


@dataclass(frozen=True, slots=True)
class _Connection:
    """What the two clients have in common."""

    address: str
    timeout_s: float
    change_timeout_s: float
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def to(cls, address: str, token: str | None, timeout_s: float, change_timeout_s: float) -> _Connection:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return cls(address, timeout_s, change_timeout_s, metadata)

    def timeout_of(self, call: _Call[Any]) -> float:
        return self.change_timeout_s if call.changes else self.timeout_s

    def bind(self, channel: Any, call: _Call[Any], *, stream: bool = False) -> Any:
        method = wire.service(_SERVICE).methods[call.method]
        kind = channel.unary_stream if stream else channel.unary_unary
        return kind(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def error(self, error: grpc.RpcError) -> ControlError:
        code, details = error.code().name, " ".join((error.details() or "").split())
        best = {key: value for key, value in error.trailing_metadata() or () if key.startswith("edge-dac-best-")}
        if best:
            return BudgetRefusedError(
                f"{self.address}: {details}",
                _number(best.get("edge-dac-best-latency-ms")),
                _number(best.get("edge-dac-best-error")),
            )
        return ControlError(code, f"{self.address}: {code}: {details}")


def _number(text: str | bytes | None) -> float | None:
    return None if text is None else float(text)


def _is_passing(error: grpc.RpcError) -> bool:
    return bool(error.code() is grpc.StatusCode.UNAVAILABLE)


class ControlClient:
    """Controls one daemon. Close it, or use it as a context manager. Safe to use from several threads.

    Args:
        address: ``host:port`` or ``unix:/path``.
        token: of the operator, where the daemon wants one.
        timeout_s: for calls that only look.
        change_timeout_s: for changes: planning takes seconds to minutes.

    All calls raise :class:`ControlError`; :meth:`set_budget` and :meth:`set_ranks` also :class:`BudgetRefusedError`.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        change_timeout_s: float = DEFAULT_CHANGE_TIMEOUT_S,
    ) -> None:
        self._connection = _Connection.to(address, token, timeout_s, change_timeout_s)
        self._channel = grpc.insecure_channel(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def device(self) -> Device:
        """What the device is."""
        return self._call(_get_device())

    def models(self) -> tuple[ModelState, ...]:
        """All models of the daemon."""
        return self._call(_list_models())

    def model(self, name: str, *, with_layers: bool = False) -> ModelState:
        """One model; with the layers of every operating point if asked for."""
        return self._call(_get_model(name, with_layers))

    def set_budget(self, model: str, budget: Budget, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Ask for a budget; without any limit, for the fastest exact plan."""
        return self._call(_changing("SetBudget", model, options, budget=budget_to_message(budget)))

    def set_ranks(
        self,
        model: str,
        *,
        uniform_rank: int | None = None,
        layers: Mapping[str, LayerRank] | None = None,
        mac_fraction: float | None = None,
        options: ChangeOptions = DEFAULT_OPTIONS,
    ) -> ChangeResult:
        """Ask for ranks: one for all layers, choices for single layers, or a share of the multiply-accumulates."""
        return self._call(_set_ranks(model, uniform_rank, layers or {}, mac_fraction, options))

    def pin(self, model: str, point: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Stay at an operating point (its id, a unique prefix of it, or ``original``) whatever happens."""
        return self._call(_changing("SetActivePoint", model, options, point=point))

    def unpin(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Return the choice of the operating point to the governor."""
        return self._call(_changing("SetActivePoint", model, options))

    def reprofile(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Forget what was measured on the device, measure and plan again for the budget in force."""
        return self._call(_changing("Reprofile", model, options))

    def rollback(self, model: str, generation: int = 0, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Go back to an earlier generation; 0 is the one before."""
        return self._call(_changing("Rollback", model, options, generation=generation))

    def watch(self, models: Iterable[str] = (), *, timeout_s: float | None = None) -> Iterator[Event]:
        """Events as they happen, a snapshot of each model first; ends after ``timeout_s``, or with the iterator."""
        call = _watch(models)
        stream = self._connection.bind(self._channel, call, stream=True)(
            call.request, timeout=timeout_s, metadata=self._connection.metadata
        )
        try:
            for message in stream:
                yield call.read(message)
        except grpc.RpcError as error:
            if timeout_s is None or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._connection.error(error) from error
        finally:
            stream.cancel()

    def _call(self, call: _Call[_Result]) -> _Result:
        send = self._connection.bind(self._channel, call)
        deadline = time.monotonic() + self._connection.timeout_of(call)
        for attempt in range(_ATTEMPTS):
            try:
                left_s = max(0.001, deadline - time.monotonic())
                return call.read(send(call.request, timeout=left_s, metadata=self._connection.metadata))
            except grpc.RpcError as error:
                pause_s = _FIRST_PAUSE_S * 2**attempt
                if not _is_passing(error) or attempt == _ATTEMPTS - 1 or time.monotonic() + pause_s > deadline:
                    raise self._connection.error(error) from error
                time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")


class AsyncControlClient:
    """:class:`ControlClient` for asyncio; the same calls, to be awaited."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        change_timeout_s: float = DEFAULT_CHANGE_TIMEOUT_S,
    ) -> None:
        self._connection = _Connection.to(address, token, timeout_s, change_timeout_s)
        self._channel = grpc.aio.insecure_channel(address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def device(self) -> Device:
        """See :meth:`ControlClient.device`."""
        return await self._call(_get_device())

    async def models(self) -> tuple[ModelState, ...]:
        """See :meth:`ControlClient.models`."""
        return await self._call(_list_models())

    async def model(self, name: str, *, with_layers: bool = False) -> ModelState:
        """See :meth:`ControlClient.model`."""
        return await self._call(_get_model(name, with_layers))

    async def set_budget(self, model: str, budget: Budget, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.set_budget`."""
        return await self._call(_changing("SetBudget", model, options, budget=budget_to_message(budget)))

    async def set_ranks(
        self,
        model: str,
        *,
        uniform_rank: int | None = None,
        layers: Mapping[str, LayerRank] | None = None,
        mac_fraction: float | None = None,
        options: ChangeOptions = DEFAULT_OPTIONS,
    ) -> ChangeResult:
        """See :meth:`ControlClient.set_ranks`."""
        return await self._call(_set_ranks(model, uniform_rank, layers or {}, mac_fraction, options))

    async def pin(self, model: str, point: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.pin`."""
        return await self._call(_changing("SetActivePoint", model, options, point=point))

    async def unpin(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.unpin`."""
        return await self._call(_changing("SetActivePoint", model, options))

    async def reprofile(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.reprofile`."""
        return await self._call(_changing("Reprofile", model, options))

    async def rollback(self, model: str, generation: int = 0, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.rollback`."""
        return await self._call(_changing("Rollback", model, options, generation=generation))

    async def watch(self, models: Iterable[str] = ()) -> AsyncIterator[Event]:
        """See :meth:`ControlClient.watch`; ends when the iterator is closed."""
        call = _watch(models)
        stream = self._connection.bind(self._channel, call, stream=True)(
            call.request, metadata=self._connection.metadata
        )
        try:
            async for message in stream:
                yield call.read(message)
        except grpc.RpcError as error:
            raise self._connection.error(error) from error
        finally:
            stream.cancel()

    async def _call(self, call: _Call[_Result]) -> _Result:
        send = self._connection.bind(self._channel, call)
        deadline = time.monotonic() + self._connection.timeout_of(call)
        for attempt in range(_ATTEMPTS):
            try:
                left_s = max(0.001, deadline - time.monotonic())
                return call.read(await send(call.request, timeout=left_s, metadata=self._connection.metadata))
            except grpc.RpcError as error:
                pause_s = _FIRST_PAUSE_S * 2**attempt
                if not _is_passing(error) or attempt == _ATTEMPTS - 1 or time.monotonic() + pause_s > deadline:
                    raise self._connection.error(error) from error
                await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")
