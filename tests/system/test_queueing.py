"""Lines before the executor: bounded, by priority, with deadlines; and what the metrics say of them."""

from __future__ import annotations

import os
import queue
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

FOREVER = 10_000_000
LONG = 8_000
EXHAUSTED, EXPIRED = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def request(iterations: int, **parameters: int) -> Any:
    result = service_pb2.ModelInferRequest(model_name="slow")
    result.inputs.add(name="iterations", datatype="INT64", shape=[1]).contents.int64_contents.append(iterations)
    for name, value in parameters.items():
        result.parameters[name].int64_param = value
    return result


class Metrics:
    def __init__(self, daemon: Any) -> None:
        self._url = f"http://{daemon.logged('metrics')[0]['address']}/metrics"

    def read(self) -> dict[str, float]:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def waiting(self) -> float:
        return self.read()['edge_dac_waiting_requests{model="slow"}']

    def running(self) -> float:
        return self.read()["edge_dac_running_requests"]


@pytest.fixture(scope="module")
def daemon(start_daemon: Any, configuration: Any) -> Any:
    return start_daemon("--config", configuration, "--metrics-listen", "127.0.0.1:0").wait_ready()


@pytest.fixture
def metrics(daemon: Any) -> Metrics:
    return Metrics(daemon)


@pytest.fixture
def stub(daemon: Any) -> Iterator[Any]:
    with grpc.insecure_channel(daemon.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def busy(stub: Any, metrics: Metrics, wait: Any) -> Iterator[Any]:
    """A run that goes on until it is cancelled."""
    call = stub.ModelInfer.future(request(FOREVER), timeout=60)
    wait(lambda: metrics.running() == 1, "the run has started")
    yield call
    call.cancel()
    wait(lambda: metrics.running() == 0 and metrics.waiting() == 0, "everything has left")


def test_full_line_is_refused_at_once(stub: Any, busy: Any, metrics: Metrics, wait: Any) -> None:
    waiting = [stub.ModelInfer.future(request(1), timeout=60) for _ in range(2)]
    wait(lambda: metrics.waiting() == 2, "two wait")
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(1), timeout=60)
    assert caught.value.code() is EXHAUSTED
    assert "model 'slow': expected at most 2 waiting requests" in caught.value.details()
    busy.cancel()
    assert [call.result(timeout=20).model_name for call in waiting] == ["slow", "slow"]


def test_urgent_requests_go_first(stub: Any, busy: Any, metrics: Metrics, wait: Any) -> None:
    finished: queue.Queue[str] = queue.Queue()
    for waiting, (name, priority) in enumerate((("patient", 5), ("urgent", 1)), start=1):
        call = stub.ModelInfer.future(request(50, priority=priority), timeout=60)
        call.add_done_callback(lambda _, name=name: finished.put(name))
        wait(lambda waiting=waiting: metrics.waiting() == waiting, f"{name} waits")
    busy.cancel()
    assert [finished.get(timeout=20) for _ in range(2)] == ["urgent", "patient"]


def test_expired_requests_are_never_started(stub: Any, busy: Any, metrics: Metrics) -> None:
    runs = metrics.read().get('edge_dac_batch_size_total{model="slow",size="1"}', 0)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(1, timeout=50_000), timeout=60)
    assert caught.value.code() is EXPIRED
    assert "before the run could start" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(1), timeout=0.05)
    assert caught.value.code() is EXPIRED
    assert metrics.read().get('edge_dac_batch_size_total{model="slow",size="1"}', 0) == runs


def test_its_shared_memory_is_cut_while_a_request_waits(stub: Any, busy: Any, metrics: Metrics, wait: Any) -> None:
    path = Path(f"/dev/shm/edge_dac_cut_{os.getpid()}")
    path.write_bytes(np.array([1], np.int64).tobytes())
    path.chmod(0o666)  # so others than the daemon's user could cut it, who have no other way to end the daemon
    try:
        stub.SystemSharedMemoryRegister(
            service_pb2.SystemSharedMemoryRegisterRequest(name="cut", key=path.name, byte_size=8)
        )
        asked = service_pb2.ModelInferRequest(model_name="slow")
        parameters = asked.inputs.add(name="iterations", datatype="INT64", shape=[1]).parameters
        parameters["shared_memory_region"].string_param = "cut"
        parameters["shared_memory_byte_size"].int64_param = 8
        call = stub.ModelInfer.future(asked, timeout=60)
        wait(lambda: metrics.waiting() == 1, "it waits")
        os.truncate(path, 0)
        busy.cancel()
        assert call.result(timeout=20).model_name == "slow"
        with pytest.raises(grpc.RpcError, match="shorter than when it was registered"):
            stub.ModelInfer(asked, timeout=20)
    finally:
        path.unlink()


def test_cancelled_requests_leave_the_line(stub: Any, busy: Any, metrics: Metrics, wait: Any) -> None:
    call = stub.ModelInfer.future(request(1), timeout=60)
    wait(lambda: metrics.waiting() == 1, "it waits")
    call.cancel()
    wait(lambda: metrics.waiting() == 0, "it has left")
    assert metrics.running() == 1


def test_other_models_have_their_own_line(stub: Any, busy: Any, metrics: Metrics, wait: Any) -> None:
    waiting = [stub.ModelInfer.future(request(1), timeout=60) for _ in range(2)]
    wait(lambda: metrics.waiting() == 2, "the line of slow is full")
    other = service_pb2.ModelInferRequest(model_name="int64")
    other.inputs.add(name="INPUT0", datatype="INT64", shape=[1]).contents.int64_contents.append(7)
    call = stub.ModelInfer.future(other, timeout=60)
    busy.cancel()
    assert call.result(timeout=20).model_name == "int64"
    assert all(call.result(timeout=20) for call in waiting)


def test_a_model_is_unloaded_while_requests_wait_for_it(stub: Any, metrics: Metrics, wait: Any) -> None:
    asked = [stub.ModelInfer.future(request(LONG), timeout=60)]
    wait(lambda: metrics.running() == 1, "one runs")
    asked += [stub.ModelInfer.future(request(1), timeout=60) for _ in range(2)]
    wait(lambda: metrics.waiting() == 2, "two wait")
    stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="slow"), timeout=60)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(1), timeout=60)
        assert (caught.value.code(), caught.value.details()) == (UNAVAILABLE, "model 'slow': is not loaded")
        assert [call.result().model_name for call in asked] == ["slow"] * 3
    finally:
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="slow"), timeout=60)
    assert stub.ModelInfer(request(1), timeout=60).model_name == "slow"


def test_waiting_requests_share_a_run(stub: Any, busy: Any, metrics: Metrics, wait: Any) -> None:
    calls = []
    for number in range(4):
        shared = service_pb2.ModelInferRequest(model_name="rows")
        data = np.full((number % 2 + 1, 4), number, np.float32)
        shared.inputs.add(name="INPUT0", datatype="FP32", shape=data.shape)
        shared.raw_input_contents.append(data.tobytes())
        calls.append(stub.ModelInfer.future(shared, timeout=60))
        wait(lambda number=number: metrics.read()['edge_dac_waiting_requests{model="rows"}'] == number + 1, "it waits")
    busy.cancel()
    for number, call in enumerate(calls):
        sums = np.frombuffer(call.result(timeout=20).raw_output_contents[0], np.float32)
        np.testing.assert_array_equal(sums, np.full(number % 2 + 1, 4.0 * number))
    statistics = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="rows"), timeout=20).model_stats[0]
    assert (statistics.inference_count, statistics.execution_count) == (4, 1)
    assert statistics.batch_stats[0].batch_size == 4
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="rows"), timeout=20).config
    assert config.max_batch_size == 8
    assert list(config.input[0].dims) == [4]


def test_metrics_agree_with_the_statistics(stub: Any, metrics: Metrics) -> None:
    for _ in range(3):
        stub.ModelInfer(request(1), timeout=20)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(service_pb2.ModelInferRequest(model_name="slow"), timeout=20)
    statistics = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="slow"), timeout=20).model_stats[0]
    read = metrics.read()
    assert read['edge_dac_request_seconds_count{model="slow"}'] == statistics.inference_count >= 3
    assert read['edge_dac_request_seconds_bucket{model="slow",le="+Inf"}'] == statistics.inference_count
    failures = sum(value for name, value in read.items() if name.startswith("edge_dac_failures_total"))
    assert failures == statistics.inference_stats.fail.count > 0
    seconds = statistics.inference_stats.compute_infer.ns / 1e9
    assert read['edge_dac_compute_seconds_sum{model="slow"}'] == pytest.approx(seconds)
    assert read["process_resident_memory_bytes"] > 0
    assert read["edge_dac_device_available_memory_bytes"] > 0
    assert read['edge_dac_model_load_seconds{model="slow"}'] > 0
    assert read['edge_dac_active_point_info{model="slow",point="original"}'] == 1
