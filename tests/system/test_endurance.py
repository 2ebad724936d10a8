"""What shows only over time: idle cost, memory over many requests, a flood. Figures: ``-o log_cli=true``."""

from __future__ import annotations

import logging
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

pytestmark = pytest.mark.slow
_log = logging.getLogger(__name__)
REQUESTS = 100_000
FLOOD_S = 60.0


def slow_request(iterations: int) -> Any:
    request = service_pb2.ModelInferRequest(model_name="slow")
    request.inputs.add(name="iterations", datatype="INT64", shape=[1]).contents.int64_contents.append(iterations)
    return request


def test_idle_costs_next_to_nothing(start_daemon: Any, model_folder: Path) -> None:
    daemon = start_daemon(model_folder / "simple.onnx").wait_ready()
    with grpc.insecure_channel(daemon.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20)
        begin = daemon.stats.cpu_times()
        time.sleep(20)
        end = daemon.stats.cpu_times()
    share = (end.user + end.system - begin.user - begin.system) / 20
    _log.warning("idle: %.2f %% of a core, %.0f MB resident", 100 * share, daemon.stats.memory_info().rss / 1e6)
    assert share <= 0.01
    assert daemon.stats.memory_info().rss <= 120e6


def test_memory_stays_flat(start_daemon: Any, model_folder: Path) -> None:
    daemon = start_daemon(model_folder / "simple.onnx").wait_ready()
    raw = np.ones((1, 16), np.int32).tobytes()
    request = service_pb2.ModelInferRequest(model_name="simple", raw_input_contents=[raw, raw])
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
    resident = []

    def ask(count: int) -> None:
        with grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(count):
                stub.ModelInfer(request, timeout=20)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            list(pool.map(ask, [REQUESTS // 40] * 4))
            resident.append(daemon.stats.memory_info().rss)
    # The allocator takes its last half a megabyte in one step, somewhere in the first half.
    slope_bytes = np.polyfit(range(5, 10), resident[5:], 1)[0] / (REQUESTS / 10)
    _log.warning("%.1f bytes a request; MB: %s", slope_bytes, [round(value / 1e6, 1) for value in resident])
    assert slope_bytes < 10


def test_flood(start_daemon: Any, model_folder: Path, tmp_path: Path) -> None:
    """Four times as many requests as can be computed: the accepted stay quick, the others hear so at once."""
    path = tmp_path / "flood.toml"
    path.write_text(f'[compute]\nthreads = 1\n[models.slow]\npath = "{model_folder / "slow.onnx"}"\n')
    daemon = start_daemon("--config", path).wait_ready()
    request = slow_request(40)
    answers: queue.SimpleQueue[tuple[float, grpc.StatusCode]] = queue.SimpleQueue()
    with grpc.insecure_channel(daemon.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def send() -> None:
            begin = time.perf_counter()
            call = stub.ModelInfer.future(request, timeout=20)
            call.add_done_callback(lambda done: answers.put((time.perf_counter() - begin, done.code())))

        calm = []
        for _ in range(300):
            send()
            calm.append(answers.get(timeout=30)[0])
        interval = float(np.median(calm)) / 4
        start = time.monotonic()
        sent = 0
        while (now := time.monotonic()) < start + FLOOD_S:
            time.sleep(max(0.0, start + sent * interval - now))
            send()
            sent += 1
        ended = [answers.get(timeout=30) for _ in range(sent)]
    accepted = [duration for duration, code in ended if code is grpc.StatusCode.OK]
    refused = [duration for duration, code in ended if code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    for name, durations in (("calm", calm), ("accepted", accepted), ("refused", refused)):
        p50, p99 = np.percentile(durations, [50, 99]) * 1e3
        _log.warning("%s: %d requests, p50 %.1f ms, p99 %.1f ms", name, len(durations), p50, p99)
    assert len(accepted) + len(refused) == sent
    assert len(accepted) > FLOOD_S / np.median(calm) / 4
    assert np.median(refused) < np.median(accepted) < 3 * np.median(calm)
