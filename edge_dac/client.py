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
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar

import grpc

from edge_dac import control_calls
from edge_dac.budget_messages import budget_to_message
from edge_dac.control_calls import (
    ATTEMPTS,
    DEFAULT_CHANGE_TIMEOUT_S,
    DEFAULT_OPTIONS,
    DEFAULT_TIMEOUT_S,
    FIRST_PAUSE_S,
    BudgetRefusedError,
    Call,
    ChangeOptions,
    Connection,
    ControlError,
    is_passing,
)
from edge_dac.control_values import ChangeResult, Device, Event, ModelState
from edge_dac.planning.budget import Budget, LayerRank
from edge_dac.tls import ClientTls

__all__ = ["AsyncControlClient", "BudgetRefusedError", "ChangeOptions", "ClientTls", "ControlClient", "ControlError"]
_Result = TypeVar("_Result")


class ControlClient:
    """Controls one daemon. Close it, or use it as a context manager. Safe to use from several threads.

    Args:
        address: ``host:port`` or ``unix:/path``.
        token: of the operator, where the daemon wants one.
        tls: the certificates, where the daemon speaks TLS; not used on a Unix socket.
        timeout_s: for calls that only look.
        change_timeout_s: for changes: planning takes seconds to minutes.

    All calls raise :class:`ControlError`; :meth:`set_budget` and :meth:`set_ranks` also :class:`BudgetRefusedError`.

    Raises:
        UsageError: the certificates cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls: ClientTls | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        change_timeout_s: float = DEFAULT_CHANGE_TIMEOUT_S,
    ) -> None:
        self._connection = Connection.to(address, token, tls, timeout_s, change_timeout_s)
        self._channel = self._connection.open(grpc)

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
        return self._call(control_calls.get_device())

    def models(self) -> tuple[ModelState, ...]:
        """All models of the daemon."""
        return self._call(control_calls.list_models())

    def model(self, name: str, *, with_layers: bool = False) -> ModelState:
        """One model; with the layers of every operating point if asked for."""
        return self._call(control_calls.get_model(name, with_layers))

    def set_budget(self, model: str, budget: Budget, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Ask for a budget; without any limit, for the fastest exact plan."""
        return self._call(control_calls.changing("SetBudget", model, options, budget=budget_to_message(budget)))

    def set_ranks(
        self,
        model: str,
        *,
        uniform_rank: int | None = None,
        total_rank: int | None = None,
        layers: Mapping[str, LayerRank] | None = None,
        mac_fraction: float | None = None,
        options: ChangeOptions = DEFAULT_OPTIONS,
    ) -> ChangeResult:
        """Ask for ranks: one for all layers, a sum over all, choices for single layers, or a share of the MACs."""
        return self._call(control_calls.set_ranks(model, uniform_rank, total_rank, layers or {}, mac_fraction, options))

    def pin(self, model: str, point: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Stay at an operating point (its id, a unique prefix of it, or ``original``) whatever happens."""
        return self._call(control_calls.changing("SetActivePoint", model, options, point=point))

    def unpin(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Return the choice of the operating point to the governor."""
        return self._call(control_calls.changing("SetActivePoint", model, options))

    def reprofile(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Forget what was measured on the device, measure and plan again for the budget in force."""
        return self._call(control_calls.changing("Reprofile", model, options))

    def rollback(self, model: str, generation: int = 0, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """Go back to an earlier generation; 0 is the one before."""
        return self._call(control_calls.changing("Rollback", model, options, generation=generation))

    def watch(self, models: Iterable[str] = (), *, timeout_s: float | None = None) -> Iterator[Event]:
        """Events as they happen, a snapshot of each model first; ends after ``timeout_s``, or with the iterator."""
        call = control_calls.watch(models)
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

    def _call(self, call: Call[_Result]) -> _Result:
        send = self._connection.bind(self._channel, call)
        deadline = time.monotonic() + self._connection.timeout_of(call)
        for attempt in range(ATTEMPTS):
            try:
                left_s = max(0.001, deadline - time.monotonic())
                return call.read(send(call.request, timeout=left_s, metadata=self._connection.metadata))
            except grpc.RpcError as error:
                pause_s = FIRST_PAUSE_S * 2**attempt
                if not is_passing(error) or attempt == ATTEMPTS - 1 or time.monotonic() + pause_s > deadline:
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
        tls: ClientTls | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        change_timeout_s: float = DEFAULT_CHANGE_TIMEOUT_S,
    ) -> None:
        self._connection = Connection.to(address, token, tls, timeout_s, change_timeout_s)
        self._channel = self._connection.open(grpc.aio)

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
        return await self._call(control_calls.get_device())

    async def models(self) -> tuple[ModelState, ...]:
        """See :meth:`ControlClient.models`."""
        return await self._call(control_calls.list_models())

    async def model(self, name: str, *, with_layers: bool = False) -> ModelState:
        """See :meth:`ControlClient.model`."""
        return await self._call(control_calls.get_model(name, with_layers))

    async def set_budget(self, model: str, budget: Budget, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.set_budget`."""
        return await self._call(control_calls.changing("SetBudget", model, options, budget=budget_to_message(budget)))

    async def set_ranks(
        self,
        model: str,
        *,
        uniform_rank: int | None = None,
        total_rank: int | None = None,
        layers: Mapping[str, LayerRank] | None = None,
        mac_fraction: float | None = None,
        options: ChangeOptions = DEFAULT_OPTIONS,
    ) -> ChangeResult:
        """See :meth:`ControlClient.set_ranks`."""
        return await self._call(
            control_calls.set_ranks(model, uniform_rank, total_rank, layers or {}, mac_fraction, options)
        )

    async def pin(self, model: str, point: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.pin`."""
        return await self._call(control_calls.changing("SetActivePoint", model, options, point=point))

    async def unpin(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.unpin`."""
        return await self._call(control_calls.changing("SetActivePoint", model, options))

    async def reprofile(self, model: str, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.reprofile`."""
        return await self._call(control_calls.changing("Reprofile", model, options))

    async def rollback(self, model: str, generation: int = 0, options: ChangeOptions = DEFAULT_OPTIONS) -> ChangeResult:
        """See :meth:`ControlClient.rollback`."""
        return await self._call(control_calls.changing("Rollback", model, options, generation=generation))

    async def watch(self, models: Iterable[str] = ()) -> AsyncIterator[Event]:
        """See :meth:`ControlClient.watch`; ends when the iterator is closed."""
        call = control_calls.watch(models)
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

    async def _call(self, call: Call[_Result]) -> _Result:
        send = self._connection.bind(self._channel, call)
        deadline = time.monotonic() + self._connection.timeout_of(call)
        for attempt in range(ATTEMPTS):
            try:
                left_s = max(0.001, deadline - time.monotonic())
                return call.read(await send(call.request, timeout=left_s, metadata=self._connection.metadata))
            except grpc.RpcError as error:
                pause_s = FIRST_PAUSE_S * 2**attempt
                if not is_passing(error) or attempt == ATTEMPTS - 1 or time.monotonic() + pause_s > deadline:
                    raise self._connection.error(error) from error
                await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")
