"""The daemon as a process: how it starts, tells systemd, reloads, refuses, and ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_dacd.main import main

TOO_LARGE = (
    "requests for this model are larger than server.max_message_bytes lets in: restart, with 0 or a larger value"
)
ONES = np.ones((1, 16), np.int32)


def inputs() -> list[triton.InferInput]:
    result = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    for each in result:
        each.set_data_from_numpy(ONES)
    return result


def ask(address: str) -> int:
    """The first element of what ``simple`` answers."""
    with triton.InferenceServerClient(address) as client:
        return int(client.infer("simple", inputs(), client_timeout=20).as_numpy("OUTPUT0")[0, 0])


@pytest.fixture
def simple(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(model_folder / "simple.onnx", tmp_path / "simple.onnx"))


def test_serves_the_demo_without_arguments(start_daemon: Any) -> None:
    daemon = start_daemon("--no-compress").wait_ready()
    with triton.InferenceServerClient(daemon.address) as client:
        metadata = client.get_model_metadata("demo")
        image = triton.InferInput(metadata.inputs[0].name, [1, 1, 28, 28], "FP32")
        image.set_data_from_numpy(np.zeros((1, 1, 28, 28), np.float32))
        assert client.infer("demo", [image]).as_numpy(metadata.outputs[0].name).shape == (1, 10)
    assert daemon.stop() == 0


def test_unix_socket(start_daemon: Any, simple: Path, tmp_path: Path) -> None:
    path = tmp_path / "inference.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    daemon = start_daemon(simple, "--listen", f"unix:{path}").wait_ready()
    assert ask(f"unix:{path}") == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    second = start_daemon(simple, "--listen", f"unix:{path}")
    assert second.wait() == 1
    assert second.raw == [f"edge-dacd: unix:{path}: cannot listen there; the address is in use"]
    assert ask(f"unix:{path}") == 2
    assert daemon.stop() == 0


def test_port_in_use(start_daemon: Any, simple: Path) -> None:
    first = start_daemon(simple).wait_ready()
    second = start_daemon(simple, "--listen", first.address)
    assert second.wait() == 1
    assert second.raw == [f"edge-dacd: {first.address}: cannot listen there: Address already in use"]
    assert ask(first.address) == 2


WRONG_STARTS: list[tuple[list[str], int, str]] = [
    (["missing.onnx"], 3, "missing.onnx: expected an ONNX file, found none"),
    (["text.onnx"], 3, "text.onnx: ONNX Runtime cannot load it"),
    (["--config", "missing.toml"], 2, "missing.toml: cannot be read"),
    (["--config", "unknown.toml"], 2, "unknown.toml: server.port: unknown key; expected one of"),
    (["--budget-ms", "0"], 2, "latency_ms: expected a number above 0, got 0"),
    (["--budget-ms", "nan"], 2, "latency_ms: expected a finite number, got nan"),
    (["--speedup", "-1"], 2, "speedup: expected a number above 0"),
    (["--listen", "nowhere"], 2, "server.listen: expected host:port or unix:/path, got 'nowhere'"),
    (["--shape", "x=1,2"], 2, "--shape: expected one MODEL beside it, got 0"),
    (["missing.onnx", "--shape", "x=1,-2"], 2, "--shape: expected NAME=1,3,224,224, got 'x=1,-2'"),
    (["rows.onnx", "--shape", "INPUT0=2,5"], 3, "a run on zeros of INPUT0=[2, 5] failed"),
    (["--threads", "-1"], 2, "compute.threads: expected at least 0, got -1"),
]


@pytest.fixture(scope="module")
def wrong_starts(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, start_daemon: Any) -> list[Any]:
    """A daemon for each case, all at once."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copy(model_folder / "rows.onnx", folder)
    (folder / "text.onnx").write_text("this is text")
    (folder / "unknown.toml").write_text("[server]\nport = 1\n")
    return [
        start_daemon(*(str(folder / part) if part.endswith((".onnx", ".toml")) else part for part in arguments))
        for arguments, _, _ in WRONG_STARTS
    ]


@pytest.mark.parametrize("case", range(len(WRONG_STARTS)), ids=[" ".join(case[0]) for case in WRONG_STARTS])
def test_one_line_and_the_exit_code(wrong_starts: list[Any], case: int) -> None:
    _, code, message = WRONG_STARTS[case]
    daemon = wrong_starts[case]
    assert daemon.wait() == code
    lines = [line for line in daemon.raw if not line.startswith("{")]
    assert len(lines) == 1
    assert message in lines[0]


def test_no_more_threads_than_cores(start_daemon: Any, simple: Path) -> None:
    daemon = start_daemon(simple, "--threads", "100000").wait_ready()
    assert ask(daemon.address) == 2
    (warning,) = daemon.logged("compute.threads: more than there are cores")
    cores = len(os.sched_getaffinity(0))
    assert (warning["level"], warning["configured"], warning["used"]) == ("warning", 100000, cores)
    assert daemon.stats.num_threads() < 60 + cores


def test_check_config(tmp_path: Path, configuration: Path, capsys: Any) -> None:
    def look(path: Path) -> int:
        return main(["--check", "--config", str(path)])

    assert look(configuration) == 0
    assert "simple" in capsys.readouterr().out
    wrong = tmp_path / "wrong.toml"
    for text, code, message in (
        (
            '[models.a]\npath = "a.onnx"\nqueue_size = "many"\n',
            2,
            f"{wrong}: models.a.queue_size: expected int, got 'many'",
        ),
        ('[models.a]\npath = "a.onnx"\n', 3, f"model 'a': expected an ONNX file, found none at {tmp_path / 'a.onnx'}"),
        ('[repository]\npath = "a"\n', 2, f"repository.path: expected a folder, found none at {tmp_path / 'a'}"),
        ('[control]\ntoken_file = "/no/token"\n', 2, "/no/token: expected a file with the control token: No such file"),
        ('[server]\ntls_certificate = "/no/c"\ntls_key = "/no/k"\n', 2, "server.tls_key: /no/c, /no/k: No such file"),
    ):
        wrong.write_text(text)
        assert look(wrong) == code
        assert message in capsys.readouterr().err


def test_sigterm_under_load(start_daemon: Any, simple: Path) -> None:
    daemon = start_daemon(simple).wait_ready()
    sent: list[tuple[float, BaseException | None]] = []

    def send() -> None:
        with triton.InferenceServerClient(daemon.address) as client:
            while True:
                started = time.monotonic()
                try:
                    client.infer("simple", inputs(), client_timeout=20)
                except triton.InferenceServerException as error:
                    sent.append((started, error))
                    return
                sent.append((started, None))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while len(sent) < 200 and time.monotonic() < end:
        time.sleep(0.01)
    told = time.monotonic()
    assert daemon.stop() == 0
    for thread in threads:
        thread.join(20)
    assert sum(error is None for _, error in sent) >= 200
    assert [error for started, error in sent if error is not None and started < told] == []


def test_requests_in_flight_finish_after_sigterm(start_daemon: Any, model_folder: Path) -> None:
    daemon = start_daemon(model_folder / "slow.onnx", "--threads", "1").wait_ready()
    with triton.InferenceServerClient(daemon.address) as client:
        work = triton.InferInput("iterations", [1], "INT64")
        work.set_data_from_numpy(np.array([300], np.int64))
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(client.infer("slow", [work]).as_numpy("total")))
        thread.start()
        while client.get_inference_statistics("slow").model_stats[0].execution_count == 0 and thread.is_alive():
            if daemon.stats.cpu_percent(0.01) > 50:
                break
        assert daemon.stop() == 0
        thread.join(20)
    assert results == [256.0]


@pytest.fixture(params=["path", "abstract"])
def notify_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@edge-dac-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(20)
        yield name, receiver


def test_systemd_notification(start_daemon: Any, simple: Path, notify_socket: tuple[str, socket.socket]) -> None:
    name, receiver = notify_socket
    daemon = start_daemon(simple, environment={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"})
    first = receiver.recv(4096).decode()
    assert first.splitlines()[0] == "READY=1"
    assert "STATUS=serving simple" in first.splitlines()
    assert ask(daemon.wait_ready().address) == 2
    assert receiver.recv(4096) == b"WATCHDOG=1"
    daemon.process.send_signal(signal.SIGHUP)
    messages = [receiver.recv(4096).decode()]
    while "READY=1" not in messages[-1]:
        messages.append(receiver.recv(4096).decode())
    assert any(message.startswith("RELOADING=1\nMONOTONIC_USEC=") for message in messages)
    daemon.process.terminate()
    while messages[-1] != "STOPPING=1":
        messages.append(receiver.recv(4096).decode())
    assert daemon.wait() == 0


def test_sighup_replaces_a_changed_model_and_keeps_one_that_broke(
    start_daemon: Any, simple: Path, wait: Any, make_add_sub: Any
) -> None:
    daemon = start_daemon(simple).wait_ready()
    assert ask(daemon.address) == 2

    def replace(write: Any, log: str) -> None:
        # As an operator should: beside it, then renamed over it.
        beside = simple.with_suffix(".new")
        write(beside)
        beside.rename(simple)
        count = len(daemon.logged(log))
        daemon.process.send_signal(signal.SIGHUP)
        wait(lambda: len(daemon.logged(log)) > count, log)

    replace(lambda path: make_add_sub(path, 10), "reloaded")
    assert ask(daemon.address) == 12
    replace(lambda path: path.write_text("broken"), "model not reloaded")
    assert ask(daemon.address) == 12
    with triton.InferenceServerClient(daemon.address) as client:
        line = client.get_model_repository_index().models[0]
        assert (line.state, line.name) == ("READY", "simple")
        assert "cannot load it" in line.reason
        assert str(simple.parent) not in line.reason
        with pytest.raises(triton.InferenceServerException, match="FAILED_PRECONDITION"):
            client.load_model("simple")
    replace(lambda path: make_add_sub(path, 20), "reloaded")
    assert ask(daemon.address) == 22


def test_sighup_takes_over_a_changed_configuration_and_leaves_one_that_broke(
    start_daemon: Any, model_folder: Path, tmp_path: Path, wait: Any
) -> None:
    path = tmp_path / "config.toml"
    models = {name: f'[models.{name}]\npath = "{model_folder / name}.onnx"\n' for name in ("simple", "slow", "half")}
    path.write_text(models["simple"] + models["slow"])
    daemon = start_daemon("--config", path).wait_ready()

    def reload(text: str) -> None:
        path.write_text(text)
        count = len(daemon.logged("reloaded"))
        daemon.process.send_signal(signal.SIGHUP)
        wait(lambda: len(daemon.logged("reloaded")) > count, "reloaded")

    with triton.InferenceServerClient(daemon.address) as client:
        forever = triton.InferInput("iterations", [1], "INT64")
        forever.set_data_from_numpy(np.array([10_000_000], np.int64))
        running = client.async_infer("slow", [forever], callback=lambda result, error: None)
        reload(
            "[server]\nmax_deadline_s = 0.05\nshared_memory = false\n[compute]\nparallel_runs = 2\n"
            + models["slow"]
            + models["half"]
        )
        assert daemon.logged("these changes need a restart")[0]["keys"] == ["compute.parallel_runs"]
        assert client.is_model_ready("half")
        with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
            client.is_model_ready("simple")
        with pytest.raises(triton.InferenceServerException, match="switched off in the configuration"):
            client.register_system_shared_memory("region", "edge_dac_region", 8)
        with pytest.raises(triton.InferenceServerException, match="before the run could start"):
            client.infer("slow", [forever], client_timeout=20)
        for broken in ("[server]\nport = 1\n", "no TOML", "[compute]\nthreads = -1\n"):
            reload(broken)
        assert [entry["level"] for entry in daemon.logged("configuration not reloaded")] == ["error"] * 3
        assert client.is_model_ready("half")
        reload(models["simple"])
        running.cancel()
    assert ask(daemon.address) == 2


def test_sighup_reads_the_token_again_and_keeps_the_one_before_a_bad_one(
    start_daemon: Any, simple: Path, tmp_path: Path, wait: Any
) -> None:
    token, path = tmp_path / "token", tmp_path / "config.toml"
    token.write_text("correct horse battery staple\n")
    text = f'[models.simple]\npath = "simple.onnx"\n[control]\ntoken_file = "{token}"\n'
    path.write_text(text)
    daemon = start_daemon("--config", path).wait_ready()

    def reload() -> None:
        count = len(daemon.logged("reloaded"))
        daemon.process.send_signal(signal.SIGHUP)
        wait(lambda: len(daemon.logged("reloaded")) > count, "reloaded")

    def check(good: str, bad: str) -> None:
        client.load_model("simple", headers={"authorization": f"Bearer {good}"})
        with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
            client.load_model("simple", headers={"authorization": f"Bearer {bad}"})

    with triton.InferenceServerClient(daemon.address) as client:
        check("correct horse battery staple", "another horse battery staple")
        token.write_text("another horse battery staple\n")
        reload()
        check("another horse battery staple", "correct horse battery staple")
        for broken in (b"short", b"\xff" * 20):
            token.write_bytes(broken)
            reload()
            check("another horse battery staple", "correct horse battery staple")
        assert len(daemon.logged("configuration not reloaded")) == 2
        token.write_text("correct horse battery staple\n")
        path.write_text(text + "allow_gap = true\ngovernor = false\n")
        reload()
        assert not daemon.logged("these changes need a restart")
        check("correct horse battery staple", "another horse battery staple")


def test_a_model_that_is_loaded_later_may_take_larger_messages(
    start_daemon: Any, make_identity: Any, simple: Path, tmp_path: Path, wait: Any
) -> None:
    folder, path = tmp_path / "models", tmp_path / "config.toml"
    folder.mkdir()
    simple.rename(folder / "simple.onnx")
    path.write_text(f'[repository]\npath = "{folder}"\n')
    daemon = start_daemon("--config", path).wait_ready()
    with triton.InferenceServerClient(daemon.address) as client:
        make_identity(folder / "fits.onnx", 2 << 20)
        client.load_model("fits")
        values = np.arange(2 << 20, dtype=np.float32)
        tensor = triton.InferInput("INPUT0", [values.size], "FP32")
        tensor.set_data_from_numpy(values)
        assert np.array_equal(client.infer("fits", [tensor], client_timeout=20).as_numpy("OUTPUT0"), values)
        make_identity(folder / "large.onnx", 17 << 20)
        client.load_model("large")
        (warning,) = wait(lambda: daemon.logged(TOO_LARGE), TOO_LARGE)
        assert (warning["level"], warning["model"], warning["limit_bytes"]) == ("warning", "large", 64 << 20)
        assert client.is_model_ready("large")


def test_loading_and_unloading_need_the_token(start_daemon: Any, simple: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("correct horse battery staple\n")
    path = tmp_path / "config.toml"
    path.write_text(f'[models.simple]\npath = "simple.onnx"\n[control]\ntoken_file = "{tmp_path / "token"}"\n')
    daemon = start_daemon("--config", path).wait_ready()
    with triton.InferenceServerClient(daemon.address) as client:
        for change in (client.unload_model, client.load_model):
            with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
                change("simple")
            change("simple", headers={"authorization": "Bearer correct horse battery staple"})
    assert ask(daemon.address) == 2


def test_health_and_reflection_tell_true_names(start_daemon: Any, simple: Path) -> None:
    daemon = start_daemon(simple).wait_ready()
    with grpc.insecure_channel(daemon.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
        ]
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, ours, other = stub.ServerReflectionInfo(iter(questions), timeout=20)
    names = {service.name for service in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
    assert b"ModelStreamInfer" in b"".join(ours.file_descriptor_response.file_descriptor_proto)
    assert other.file_descriptor_response.file_descriptor_proto


def test_protocol_and_tritonclient_in_one_process() -> None:
    code = (
        "import edge_dac.wire as wire\n"
        "wire.message('inference.ModelInferRequest')\n"
        "import tritonclient.grpc\n"
        "from tritonclient.grpc import service_pb2\n"
        "ours = wire.message('inference.ModelInferRequest')(model_name='a')\n"
        "assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()).model_name == 'a'\n"
    )
    for order in (code, "import tritonclient.grpc\n" + code):
        subprocess.run([sys.executable, "-W", "error", "-c", order], check=True)


def test_the_serving_process_is_light() -> None:
    code = (
        "import sys, edge_dacd.daemon\n"
        "heavy = {'onnx', 'edge_dac.schemes', 'edge_dac.lowerings', 'edge_dac.graph', 'edge_dac.planning.planner'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown == "[]\n"
