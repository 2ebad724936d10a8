"""The governor on this machine: processor hogs beside the daemon make it step down, and it climbs when they are gone."""

import multiprocessing
import signal
import statistics
import threading
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from control.serving import poll
from onnx import TensorProto, helper, numpy_helper

from edge_dac.artifacts.generations import Generation, GenerationJournal, State
from edge_dac.artifacts.store import ArtifactStore
from edge_dac.client import ControlClient
from edge_dac.device.profile import profile_device
from edge_dac.planning.plan import Plan
from edge_dacd.runtime import Runtime, file_digest

SIZE = 384


def write_products(path, count):
    """So many matrix products one after the other: latency without any planner."""
    weight = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32) / SIZE
    names = ["x", *(f"h{index}" for index in range(count - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[index], "w"], [names[index + 1]]) for index in range(count)]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE, SIZE]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "products", tensors[:1], tensors[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def median_ms(path):
    runtime = Runtime.load(path, threads=1)
    times_ms = []
    for _ in range(60):
        begin = time.perf_counter()
        runtime.warm_up()
        times_ms.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times_ms)


def hog():
    while True:
        pass


@pytest.mark.slow
def test_steps_down_under_hogs_and_climbs_afterwards(serve, tmp_path):
    model = write_products(tmp_path / "products.onnx", 16)
    original_ms = median_ms(model)
    state = tmp_path / "state"
    digests = []
    for count, error in ((8, 0.01), (4, 0.02), (2, 0.03)):
        path = write_products(tmp_path / "point.tmp", count)
        latency_ms = median_ms(path)
        plan = Plan(
            file_digest(model), (), (), {}, 1, original_ms, latency_ms, latency_ms, latency_ms / original_ms,
            latency_ms, error, count, 16, profile_device().fingerprint,
        )  # fmt: skip
        digests.append(ArtifactStore(state / "artifacts").put(path.read_bytes(), plan, {}).digest)
    journal = GenerationJournal(state / "generations", "products")
    budget = {"latency_ms": 2 * original_ms, "percentile": 50}
    accepted = journal.accept(Generation(0, State.PENDING, "set_budget", budget=budget))
    applied = replace(accepted, state=State.APPLIED, points=tuple(digests), active_point="original")
    journal.decide(applied, model_digest=file_digest(model))

    daemon = serve(model, state)
    stop = threading.Event()
    failures = []

    def ask():
        tensor = triton.InferInput("x", [SIZE, SIZE], "FP32")
        tensor.set_data_from_numpy(np.ones((SIZE, SIZE), np.float32))
        with triton.InferenceServerClient(daemon.address) as client:
            while not stop.wait(original_ms / 1e3 * 4):
                try:
                    client.infer("products", [tensor])
                except triton.InferenceServerException as error:
                    failures.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    hogs = [multiprocessing.get_context("spawn").Process(target=hog, daemon=True) for _ in range(8)]
    try:
        with ControlClient(daemon.address) as client:
            for process in hogs:
                process.start()
            down = wait_for_decision(client, 60)
            assert "over the budget" in down["reason"]
            for process in hogs:
                process.kill()
                process.join()
            up = wait_for_decision(client, 240)
            assert "leave room" in up["reason"]
    finally:
        stop.set()
        asking.join()
        for process in hogs:
            if process.is_alive():
                process.kill()
    assert failures == []


def wait_for_decision(client, seconds):
    end = time.monotonic() + seconds
    for event in client.watch(timeout_s=seconds):
        if event.kind == "decision":
            return event.values
    raise AssertionError(f"no decision within {seconds} s, {time.monotonic() - end:.0f} s late")


@pytest.mark.slow
def test_sighup_switches_the_governor_on(serve, prepared, tmp_path):
    """A budget that no point can hold: nothing moves without the governor, and the fastest point is taken with it."""
    journal = prepared.journal()
    journal.decide(replace(journal.applied, budget={"latency_ms": 1e-3}))
    config = tmp_path / "config.toml"
    config.write_text("[control]\ngovernor = false\n")
    daemon = serve(prepared.model, prepared.state, "--config", str(config), "--listen", "127.0.0.1:0")
    tensor = triton.InferInput("x", [1, 8], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 8), np.float32))
    with triton.InferenceServerClient(daemon.address) as client:

        def factor():
            return client.infer("scale", [tensor]).as_numpy("y")[0, 0]

        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert factor() == prepared.ids[prepared.slow_point]
        config.write_text("")
        daemon.process.send_signal(signal.SIGHUP)
        poll(lambda: factor() == prepared.ids[prepared.fast_point], "the governor has decided")
    assert not daemon.entries("these changes need a restart")
