"""The servicer of ``inference.GRPCInferenceService``."""

# ruff: noqa: N802, N815 - methods are called as in proto/

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import onnxruntime as ort

from edge_dac import wire
from edge_dacd import describe
from edge_dacd.executor import Executor, Ticket
from edge_dacd.framing import (
    InferAnswer,
    InferRequest,
    parse_request,
    serialize_answer,
    serialize_stream_error,
    serialize_streamed,
)
from edge_dacd.models import ModelRepository, ServedModel
from edge_dacd.requests import choose_outputs, deadline_of, decode_inputs, encode_answer, read_wishes
from edge_dacd.rpc import explain
from edge_dacd.runtime import ORT_ERRORS, Runtime
from edge_dacd.shared_memory import SharedMemory
from edge_dacd.statistics import Observation
from edge_dacd.status import RequestError, invalid
from edge_dacd.tensors import Array

_log = logging.getLogger(__name__)
SERVICE = "inference.GRPCInferenceService"


@dataclass(slots=True)
class _Run:
    """What is going on for one call at the moment; lets the end of the call stop it."""

    executor: Executor
    ticket: Ticket | None = None
    options: ort.RunOptions | None = None

    def stop(self) -> None:
        """The client has gone: leave the line, or end the run between two nodes."""
        ticket, options = self.ticket, self.options
        if options is not None:
            options.terminate = True
        if ticket is not None:
            self.executor.cancel(ticket)


class InferenceServicer:
    """Answers the Open Inference Protocol.

    Args:
        longest_deadline_s: no request waits longer than this for its run, whatever its client allows; None for no
            limit.
    """

    def __init__(
        self,
        repository: ModelRepository,
        executor: Executor,
        memory: SharedMemory,
        *,
        is_ready: Callable[[], bool],
        longest_deadline_s: float | None = None,
    ) -> None:
        self._repository = repository
        self._executor = executor
        self._memory = memory
        self._is_ready = is_ready
        self._longest_deadline_s = longest_deadline_s

    # Inference. Requests and answers have their own wire form, see `framing`.

    parse_ModelInfer = parse_ModelStreamInfer = staticmethod(parse_request)
    serialize_ModelInfer = serialize_ModelStreamInfer = staticmethod(bytes)

    def ModelInfer(self, request: InferRequest, context: grpc.ServicerContext) -> bytes:
        run = _Run(self._executor)
        if not context.add_callback(run.stop):
            raise RequestError(grpc.StatusCode.CANCELLED, "the client has gone")
        return self._infer(request, context, run, serialize_answer)

    def ModelStreamInfer(self, requests: Iterator[InferRequest], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Answers in the order of the requests; one that fails is answered with its error, and the stream goes on."""
        run = _Run(self._executor)
        context.add_callback(run.stop)
        for request in requests:
            try:
                yield self._infer(request, context, run, _serialize_final)
            except Exception as error:  # noqa: BLE001 - one request's boundary within the stream
                yield serialize_stream_error(request.message.id, explain(error).message)

    def _infer(
        self,
        request: InferRequest,
        context: grpc.ServicerContext,
        run: _Run,
        serialize: Callable[[InferAnswer], bytes],
    ) -> bytes:
        started = time.perf_counter_ns()
        model = self._repository.get(request.message.model_name, request.message.model_version)
        try:
            return self._answer(model, request, context.time_remaining(), run, serialize, started)
        except Exception as error:
            status = explain(error)
            model.statistics.failed(status.code.name, time.perf_counter_ns() - started)
            _log.debug(
                "refused",
                extra={
                    "request_id": request.message.id,
                    "model": model.name,
                    "status": status.code.name,
                    "reason": status.message,
                },
            )
            raise status from error

    def _answer(
        self,
        model: ServedModel,
        request: InferRequest,
        remaining_s: float | None,
        run: _Run,
        serialize: Callable[[InferAnswer], bytes],
        started: int,
    ) -> bytes:
        wishes = read_wishes(request)
        feeds = decode_inputs(model, request, self._memory)
        targets = choose_outputs(model, request, self._memory)
        names = [target.spec.name for target in targets]
        deadline = deadline_of(wishes, remaining_s, self._longest_deadline_s)
        run.ticket = Ticket(model.name, model.source.queue_size, wishes.priority, deadline)
        run.options = ort.RunOptions()
        decoded = time.perf_counter_ns()
        with self._executor.slot(run.ticket):
            run_started = time.perf_counter_ns()
            runtime = model.runtime_for(wishes.max_latency_ms, wishes.max_error)
            arrays = _compute(model, runtime, feeds, names, run)
        computed = time.perf_counter_ns()
        answer = encode_answer(model, request.message.id, targets, arrays)
        data = serialize(answer)
        model.statistics.succeeded(
            Observation(
                runtime.point_id,
                queue_ns=run_started - decoded,
                decode_ns=decoded - started,
                compute_ns=computed - run_started,
                encode_ns=time.perf_counter_ns() - computed,
            )
        )
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
        return describe.model_config(model, self._executor.slots)

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
        _check_repository(request.repository_name)
        if request.parameters:
            raise invalid(
                f"model {request.model_name!r}: expected no parameters, got {sorted(request.parameters)}: models come "
                "from the repository of the device only"
            )
        self._repository.load(request.model_name)
        return wire.message("inference.RepositoryModelLoadResponse")()

    def RepositoryModelUnload(self, request: Any, context: grpc.ServicerContext) -> Any:
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


def _compute(model: ServedModel, runtime: Runtime, feeds: dict[str, Array], names: list[str], run: _Run) -> list[Array]:
    try:
        return runtime.run(feeds, names, run.options)
    except ORT_ERRORS as error:
        if run.options is not None and run.options.terminate:
            raise RequestError(grpc.StatusCode.CANCELLED, "the client has gone") from error
        _log.warning("run failed", extra={"model": model.name, "point": runtime.point_id}, exc_info=error)
        shapes = ", ".join(f"{name} {list(feed.shape)}" for name, feed in feeds.items())
        raise invalid(f"model {model.name!r}: it cannot compute inputs of these shapes or values: {shapes}") from error


def _serialize_final(answer: InferAnswer) -> bytes:
    # Triton marks the last answer to a streamed request; here every request has exactly one.
    answer.message.parameters["triton_final_response"].bool_param = True
    return serialize_streamed(answer)


def _check_repository(name: str) -> None:
    if name:
        raise RequestError(grpc.StatusCode.NOT_FOUND, f"repository {name!r}: there is one repository, without a name")


def _check_local(context: grpc.ServicerContext) -> None:
    if not context.peer().startswith(("unix:", "ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]")):
        raise RequestError(
            grpc.StatusCode.PERMISSION_DENIED, "shared memory: expected a client on this device, got one from outside"
        )
