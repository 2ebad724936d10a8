"""The servicer of ``inference.GRPCInferenceService``."""

# ruff: noqa: N802, N815 - methods are called as in proto/

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import onnxruntime as ort

from edge_dac import wire
from edge_dacd import describe
from edge_dacd.authorization import Authorizer
from edge_dacd.executor import Executor, Ticket
from edge_dacd.framing import (
    InferRequest,
    parse_request,
    serialize_answer,
    serialize_stream_error,
    serialize_streamed,
)
from edge_dacd.models import ModelRepository, ServedModel
from edge_dacd.requests import Plan, deadline_of, read_wishes
from edge_dacd.rpc import explain
from edge_dacd.running import Run, Work
from edge_dacd.shared_memory import SharedMemory
from edge_dacd.statistics import Observation
from edge_dacd.status import RequestError, invalid
from edge_dacd.tensors import Buffer

_log = logging.getLogger(__name__)
SERVICE = "inference.GRPCInferenceService"


class _Call:
    """One call of a client, with what it waits for or computes at the moment, so that its end can stop that."""

    def __init__(self, executor: Executor[Work, Run], context: Any) -> None:
        self._executor = executor
        # A call on the fast lane lets others pass before it takes time, see `fast_lane`.
        self._lane = {name: getattr(context, name) for name in ("give_way", "when_answered") if hasattr(context, name)}
        self._lock = threading.Lock()
        self._ticket: Ticket[Work, Run] | None = None
        self._ended = False

    def perform(self, ticket: Ticket[Work, Run]) -> Run:
        """See :meth:`Executor.perform`; cancelled if the call has ended."""
        with self._lock:
            self._ticket = ticket
            ended = self._ended
        if ended:
            self._executor.cancel(ticket)
        try:
            return self._executor.perform(ticket, **self._lane)
        finally:
            self._ticket = None

    def end(self) -> None:
        """The client has gone, or has its answer: leave the line, or end the run between two nodes."""
        with self._lock:
            self._ended = True
            ticket = self._ticket
        if ticket is not None:
            ticket.work.options.terminate = True
            self._executor.cancel(ticket)


class InferenceServicer:
    """Answers the Open Inference Protocol.

    Args:
        authorizer: decides who may load and unload models.

    Attributes:
        longest_deadline_s: no request waits longer than this for its run, whatever its client allows; None for no
            limit.
        message_bytes: the largest request that the server lets in.
    """

    def __init__(
        self,
        repository: ModelRepository,
        executor: Executor[Work, Run],
        memory: SharedMemory,
        authorizer: Authorizer,
        *,
        is_ready: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._executor = executor
        self._memory = memory
        self._authorizer = authorizer
        self._is_ready = is_ready
        self.longest_deadline_s: float | None = None
        self.message_bytes = 0

    # Inference. Requests and answers have their own wire form, see `framing`.

    parse_ModelInfer = parse_ModelStreamInfer = staticmethod(parse_request)
    serialize_ModelInfer = serialize_ModelStreamInfer = staticmethod(bytes)

    def ModelInfer(self, request: InferRequest, context: grpc.ServicerContext) -> bytes:
        call = _Call(self._executor, context)
        if not context.add_callback(call.end):
            raise RequestError(grpc.StatusCode.CANCELLED, "the client has gone")
        return self._infer(request, context, call, serialize_answer)

    def ModelStreamInfer(self, requests: Iterator[InferRequest], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Answers in the order of the requests; one that fails is answered with its error, and the stream goes on."""
        call = _Call(self._executor, context)
        context.add_callback(call.end)
        for request in requests:
            try:
                yield self._infer(request, context, call, serialize_streamed)
            except Exception as error:  # noqa: BLE001 - one request's boundary within the stream
                yield serialize_stream_error(request.id, explain(error).message)

    def _infer(
        self,
        request: InferRequest,
        context: grpc.ServicerContext,
        call: _Call,
        serialize: Callable[[Sequence[Buffer]], bytes],
    ) -> bytes:
        started = time.perf_counter_ns()
        message = request.head.message
        model = self._repository.get(message.model_name, message.model_version)
        try:
            return self._answer(model, request, context.time_remaining(), call, serialize, started)
        except RequestError as error:
            # Raised as it is, and in no variable that its traceback holds: it would keep the request until garbage is
            # collected, and in an overload there are many.
            _note_failure(model, request.id, error, started)
            raise
        except Exception as error:
            status = explain(error)
            _note_failure(model, request.id, status, started)
            raise status from error

    def _answer(
        self,
        model: ServedModel,
        request: InferRequest,
        remaining_s: float | None,
        call: _Call,
        serialize: Callable[[Sequence[Buffer]], bytes],
        started: int,
    ) -> bytes:
        client_deadline = None if remaining_s is None else time.monotonic() + remaining_s
        plan: Plan | None = request.head.plan
        if plan is not None and not plan.is_for(model):
            plan = None
        wishes = read_wishes(request.head.message) if plan is None else plan.wishes
        # Before the tensors are decoded: in an overload, refusing must cost next to nothing.
        self._executor.check_room(model.name, model.source.queue_size, wishes.priority)
        if plan is None:
            plan = request.head.plan = Plan(model, request.head.message, wishes, len(request.raw))
        feeds = plan.decode(request.raw, self._memory)
        regions = plan.regions(self._memory)
        work = Work(model, request.id, wishes, feeds, plan.names, ort.RunOptions(), client_deadline)
        kin = work.kin()
        ticket: Ticket[Work, Run] = Ticket(
            work,
            model.name,
            model.source.queue_size,
            wishes.priority,
            deadline_of(wishes, remaining_s, self.longest_deadline_s),
            kin,
            1 if kin is None else work.rows,
            model.source.max_batch_size,
        )
        decoded = time.perf_counter_ns()
        run = call.perform(ticket)
        computed = time.perf_counter_ns()
        data = serialize(plan.encode(request.id, regions, run.arrays))
        observation = Observation(
            run.point_id,
            queue_ns=run.started_ns - decoded,
            decode_ns=decoded - started,
            compute_ns=run.finished_ns - run.started_ns,
            encode_ns=time.perf_counter_ns() - computed,
            batch_size=run.batch_size,
        )
        model.statistics.succeeded(observation, run.runs)
        if _log.isEnabledFor(logging.DEBUG):
            took = {"queue_ms": round(observation.queue_ms, 3), "compute_ms": round(observation.compute_ms, 3)}
            point = {"model": model.name, "point": run.point_id}
            _log.debug("answered", extra={"request_id": request.id, **point, **took})
        return data

    # Health and description.

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return wire.message("inference.ServerLiveResponse")(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return wire.message("inference.ServerReadyResponse")(ready=self._is_ready())

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self._repository.get(request.name, request.version)
        except RequestError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return wire.message("inference.ModelReadyResponse")(ready=False)
        return wire.message("inference.ModelReadyResponse")(ready=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return describe.server_metadata()

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return describe.model_metadata(self._repository.get(request.name, request.version))

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        model = self._repository.get(request.name, request.version)
        return describe.model_config(model, self._executor.slots, self.message_bytes)

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.name:
            return describe.model_statistics([self._repository.get(request.name, request.version)])
        return describe.model_statistics(self._repository.models())

    # The repository.

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:
        _check_repository(request.repository_name)
        lines = [line for line in self._repository.index() if line.state == "READY" or not request.ready]
        return describe.repository_index(lines)

    def RepositoryModelLoad(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._authorizer.check(context, changes=True)
        _check_repository(request.repository_name)
        if request.parameters:
            raise invalid(
                f"model {request.model_name!r}: expected no parameters, got {sorted(request.parameters)}: models come "
                "from the repository of the device only"
            )
        self._repository.load(request.model_name)
        return wire.message("inference.RepositoryModelLoadResponse")()

    def RepositoryModelUnload(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._authorizer.check(context, changes=True)
        _check_repository(request.repository_name)
        self._repository.unload(request.model_name)
        return wire.message("inference.RepositoryModelUnloadResponse")()

    # Shared memory.

    def SystemSharedMemoryStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return describe.shared_memory_status(self._memory.regions(request.name))

    def SystemSharedMemoryRegister(self, request: Any, context: grpc.ServicerContext) -> Any:
        _check_local(context)
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return wire.message("inference.SystemSharedMemoryRegisterResponse")()

    def SystemSharedMemoryUnregister(self, request: Any, context: grpc.ServicerContext) -> Any:
        _check_local(context)
        self._memory.unregister(request.name)
        return wire.message("inference.SystemSharedMemoryUnregisterResponse")()


def _note_failure(model: ServedModel, request_id: str, error: RequestError, started: int) -> None:
    model.statistics.failed(error.code.name, time.perf_counter_ns() - started)
    reason = {"status": error.code.name, "reason": error.message}
    _log.debug("refused", extra={"request_id": request_id, "model": model.name, **reason})


def _check_repository(name: str) -> None:
    if name:
        raise RequestError(grpc.StatusCode.NOT_FOUND, f"repository {name!r}: there is one repository, without a name")


def _check_local(context: grpc.ServicerContext) -> None:
    if not context.peer().startswith(("unix:", "ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]")):
        raise RequestError(
            grpc.StatusCode.PERMISSION_DENIED, "shared memory: expected a client on this device, got one from outside"
        )
