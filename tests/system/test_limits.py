"""Limits of the configuration: calls at once, the longest wait for a run, the age of a connection."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

EXHAUSTED, EXPIRED = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED


def request(iterations: int) -> Any:
    result = service_pb2.ModelInferRequest(model_name="slow")
    result.inputs.add(name="iterations", datatype="INT64", shape=[1]).contents.int64_contents.append(iterations)
    return result


@pytest.fixture(scope="module")
def daemon(start_daemon: Any, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("limits") / "config.toml"
    path.write_text(
        "[server]\nmax_concurrent_requests = 3\nmax_deadline_s = 0.2\nmax_connection_age_s = 1\n"
        f'[compute]\nthreads = 1\n[models.slow]\npath = "{model_folder / "slow.onnx"}"\n'
    )
    return start_daemon("--config", path).wait_ready()


@pytest.fixture
def stub(daemon: Any) -> Iterator[Any]:
    with grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def status_of(call: Any) -> grpc.StatusCode:
    """How the call of a future ends."""
    status: grpc.StatusCode = call.code()
    return status


def one_answer(stub: Any) -> grpc.StatusCode:
    """How a stream with a single request ends."""
    stream = stub.ModelStreamInfer(iter([request(1)]), timeout=60)
    with suppress(grpc.RpcError):
        list(stream)
    return status_of(stream)


def test_streams_at_once(stub: Any, wait: Any) -> None:
    streams = []
    for _ in range(3):
        requests: queue.Queue[Any] = queue.Queue()
        stream = stub.ModelStreamInfer(iter(requests.get, None), timeout=60)
        requests.put(request(1))
        assert next(stream).infer_response.model_name == "slow"
        streams.append((requests, stream))
    assert one_answer(stub) is EXHAUSTED
    assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20).live
    for requests, stream in streams:
        requests.put(None)
        assert list(stream) == []
    wait(lambda: one_answer(stub) is grpc.StatusCode.OK, "there is room again")


def test_inferences_at_once(stub: Any, wait: Any) -> None:
    running = [stub.ModelInfer.future(request(10_000_000), timeout=60) for _ in range(12)]
    wait(lambda: sum(one.done() for one in running) == 11, "one computes, and no other may wait long")
    statuses = [status_of(one) for one in running if one.done()]
    assert set(statuses) == {EXHAUSTED, EXPIRED}
    assert statuses.count(EXPIRED) >= 2
    next(one for one in running if not one.done()).cancel()
    wait(lambda: status_of(stub.ModelInfer.future(request(1), timeout=60)) is grpc.StatusCode.OK, "there is room again")


def test_longest_wait(stub: Any, wait: Any) -> None:
    forever = stub.ModelInfer.future(request(10_000_000), timeout=60)

    def waits_too_long() -> bool:
        call = stub.ModelInfer.future(request(1), timeout=60)
        return call.code() is EXPIRED and "before the run could start" in call.details()

    wait(waits_too_long, "the first one computes, and the other does not wait longer than is allowed")
    forever.cancel()
    assert stub.ModelInfer(request(1), timeout=60).model_name == "slow"


def test_connections_are_renewed_and_no_call_is_lost(daemon: Any, stub: Any, wait: Any) -> None:
    ports = set()

    def is_renewed() -> bool:
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20).live
        ports.update(one.raddr.port for one in daemon.stats.net_connections("tcp") if one.raddr)
        return len(ports) > 1

    wait(is_renewed, "a second connection")
