"""What serving costs: session.run, edge-dac (TCP, Unix socket, shared memory), bare gRPC, KServe, MLServer, interleaved.

The same models, the same client (tritonclient), one compute thread each:

    python -m benchmarks.serving --install        # once: KServe and MLServer, into environments of their own
    python -m benchmarks.serving [--rounds N] [--seconds S] [--output FILE] [--json FILE]

One client: every round asks each server once, and the overhead is the difference to ``session.run`` in the same round.
Four clients: processes that ask as fast as they can, the servers in turn, several times over; beside the rate, the
server's processor time for an answer, which a busy machine bends less.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import psutil
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

from benchmarks.report import machine
from benchmarks.serving_page import page

Array = npt.NDArray[np.float32]
Ask = Callable[[], object]
SERVERS = Path(__file__).parent / "servers"
CACHE = Path(os.environ.get("EDGE_DAC_CACHE", Path.home() / ".cache" / "edge-dac"))
PEERS = {"kserve": "kserve==0.21.0", "mlserver": "mlserver==1.7.1"}
PACKAGES = ("grpcio", "onnxruntime", "tritonclient")
SHAPES = {"image": (1, 3, 224, 224), "small": (1, 16)}
START_LIMIT_S = 90.0
CLIENTS = 4


@dataclass(frozen=True)
class Endpoint:
    """One way to reach one server."""

    name: str
    address: str
    pid: int
    shared_memory: bool = False


def write_models(folder: Path) -> dict[str, Path]:
    """A light convolution on 1x3x224x224 and a matrix product on 1x16; so light that serving is what is measured."""
    random = np.random.default_rng(0)
    kernel = numpy_helper.from_array(random.normal(size=(16, 3, 3, 3)).astype(np.float32), "kernel")
    matrix = numpy_helper.from_array(random.normal(size=(16, 16)).astype(np.float32), "matrix")
    nodes = {
        "image": [
            helper.make_node("Conv", ["x", "kernel"], ["map"], strides=[4, 4]),
            helper.make_node("GlobalAveragePool", ["map"], ["y"]),
        ],
        "small": [helper.make_node("MatMul", ["x", "matrix"], ["y"])],
    }
    paths = {}
    for name, shape in SHAPES.items():
        out = [1, 16, 1, 1] if name == "image" else [1, 16]
        graph = helper.make_graph(
            nodes[name],
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
            [kernel if name == "image" else matrix],
        )
        paths[name] = folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), paths[name])
    return paths


# Servers.


def install() -> None:
    """KServe and MLServer, each into a virtual environment below the cache: they pin what they need differently."""
    for name, requirement in PEERS.items():
        folder = CACHE / "servers" / name
        if not peer_python(name).exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [peer_python(name), "-m", "pip", "install", "-q", requirement, "onnxruntime"]
        subprocess.run(pip, check=True)


def peer_python(name: str) -> Path:
    return CACHE / "servers" / name / "bin" / "python"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], folder: Path, address: str, name: str) -> Iterator[int]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            wait_ready(process, address, folder / f"{name}.log")
            yield process.pid
        finally:
            process.terminate()
            process.wait(30)


def wait_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{log.stem} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            with triton.InferenceServerClient(address) as client:
                if all(client.is_model_ready(name) for name in SHAPES):
                    return
        except InferenceServerException:
            time.sleep(0.1)
    raise RuntimeError(f"{log.stem} did not get ready:\n{log.read_text()[-2000:]}")


def start_servers(stack: ExitStack, folder: Path, models: dict[str, Path]) -> list[Endpoint]:
    """Start ours and each peer that is installed."""
    port = free_port()
    ours, unix = f"127.0.0.1:{port}", f"unix:{folder / 'ours.sock'}"
    command = [sys.executable, "-m", "edge_dacd", *map(str, models.values()), "--listen", ours, "--listen", unix]
    command += ["--threads", "1", "--no-compress", "--state-dir", str(folder / "state")]
    pid = stack.enter_context(running(command, folder, ours, "edge-dac"))
    endpoints = [
        Endpoint("edge-dac TCP", ours, pid),
        Endpoint("edge-dac Unix socket", unix, pid),
        Endpoint("edge-dac shared memory", unix, pid, shared_memory=True),
    ]
    endpoints += bare_endpoints(stack, folder)
    for name, start in (("kserve", kserve_command), ("mlserver", mlserver_command)):
        if not peer_python(name).exists():
            print(f"{name}: not installed, left out; run with --install first", file=sys.stderr)
            continue
        port = free_port()
        address = f"127.0.0.1:{port}"
        pid = stack.enter_context(running(start(folder, port, models), folder, address, name))
        endpoints.append(Endpoint({"kserve": "KServe", "mlserver": "MLServer"}[name], address, pid))
    return endpoints


def bare_endpoints(stack: ExitStack, folder: Path) -> list[Endpoint]:
    answer = service_pb2.ModelInferResponse(raw_output_contents=[bytes(64)])
    answer.outputs.add(name="y", datatype="FP32", shape=[1, 16])
    (folder / "answer").write_bytes(answer.SerializeToString())
    address = f"unix:{folder / 'bare.sock'}"
    command = [sys.executable, str(SERVERS / "bare_server.py"), address, str(folder / "answer")]
    pid = stack.enter_context(running(command, folder, address, "bare"))
    return [Endpoint("bare gRPC", address, pid), Endpoint("bare gRPC, shared memory", address, pid, shared_memory=True)]


def kserve_command(folder: Path, port: int, models: dict[str, Path]) -> list[str]:
    script = str(SERVERS / "kserve_server.py")
    return [str(peer_python("kserve")), script, str(port), str(free_port()), *(f"{n}={p}" for n, p in models.items())]


def mlserver_command(folder: Path, port: int, models: dict[str, Path]) -> list[str]:
    home = folder / "mlserver"
    home.mkdir()
    settings = {
        "grpc_port": port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "grpc_max_message_length": 1 << 26,
    }
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "mlserver_runtime.py").write_text((SERVERS / "mlserver_runtime.py").read_text())
    for name, path in models.items():
        (home / name).mkdir()
        described = {
            "name": name,
            "implementation": "mlserver_runtime.OnnxRuntime",
            "parameters": {"uri": str(path), "version": "1"},
        }
        (home / name / "model-settings.json").write_text(json.dumps(described))
    # MLServer imports runtimes from the working directory.
    shell = f"cd {home} && PYTHONPATH={home} exec {peer_python('mlserver').with_name('mlserver')} start {home}"
    return ["/bin/sh", "-c", shell]


# Clients.


def ask_through(stack: ExitStack, endpoint: Endpoint, model: str) -> Ask:
    """What a client does for one image: put it into a request, ask, take the output as an array."""
    client = stack.enter_context(triton.InferenceServerClient(endpoint.address))
    array = np.random.default_rng(0).normal(size=SHAPES[model]).astype(np.float32)
    tensor = triton.InferInput("x", list(array.shape), "FP32")
    if not endpoint.shared_memory:

        def ask() -> object:
            tensor.set_data_from_numpy(array)
            return client.infer(model, [tensor]).as_numpy("y")

        return ask
    key, answer_bytes = f"edge_dac_{uuid.uuid4().hex}", 64
    region = shm.create_shared_memory_region(key, key, array.nbytes + answer_bytes)
    stack.callback(shm.destroy_shared_memory_region, region)
    client.register_system_shared_memory(key, key, array.nbytes + answer_bytes)
    stack.callback(client.unregister_system_shared_memory, key)
    tensor.set_shared_memory(key, array.nbytes)
    output = triton.InferRequestedOutput("y")
    output.set_shared_memory(key, answer_bytes, offset=array.nbytes)

    def ask_in_memory() -> object:
        shm.set_shared_memory_region(region, [array])
        client.infer(model, [tensor], outputs=[output])
        return shm.get_contents_as_numpy(region, np.float32, [1, 16], offset=array.nbytes)

    return ask_in_memory


def overheads(
    endpoints: list[Endpoint], models: dict[str, Path], model: str, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of one client, and the overhead over ``session.run`` of the same round."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(models[model], options)
    feed = {"x": np.random.default_rng(0).normal(size=SHAPES[model]).astype(np.float32)}
    with ExitStack() as stack:
        asks: dict[str, Ask] = {"session.run": lambda: session.run(None, feed)}
        asks |= {endpoint.name: ask_through(stack, endpoint, model) for endpoint in endpoints}
        names = list(asks)
        times = np.empty((rounds, len(names)))
        order = np.random.default_rng(0)
        for turn in range(-20, rounds):
            # A new order every round: what a server still does after its answer is in the way of whoever comes next.
            for index in order.permutation(len(names)):
                begin = time.perf_counter()
                asks[names[index]]()
                times[turn, index] = (time.perf_counter() - begin) * 1e3
    over = times - times[:, :1]
    return {
        name: {
            "p50_ms": float(np.median(times[:, index])),
            "p95_ms": float(np.percentile(times[:, index], 95)),
            "overhead_p50_ms": float(np.median(over[:, index])),
        }
        for index, name in enumerate(names)
    }


def client_process(endpoint: Endpoint, model: str, seconds: float, barrier: Any, results: Any) -> None:
    with ExitStack() as stack:
        ask = ask_through(stack, endpoint, model)
        for _ in range(5):
            ask()
        barrier.wait()
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            ask()
            count += 1
        results.put(count)


def throughput(endpoint: Endpoint, model: str, seconds: float) -> tuple[float, float]:
    """Answers a second to four clients, each a process of its own, and the server's CPU milliseconds an answer."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(CLIENTS + 1), context.Queue()
    arguments = (endpoint, model, seconds, barrier, results)
    clients = [context.Process(target=client_process, args=arguments) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    barrier.wait()
    begin = psutil.Process(endpoint.pid).cpu_times()
    counts = [results.get(timeout=60 + seconds) for _ in clients]
    end = psutil.Process(endpoint.pid).cpu_times()
    for client in clients:
        client.join()
    cpu_s = end.user + end.system - begin.user - begin.system
    return sum(counts) / seconds, cpu_s * 1e3 / sum(counts)


def measure(rounds: int, seconds: float, repeats: int) -> dict[str, Any]:
    """The whole comparison."""
    result: dict[str, Any] = {"one_client": {}, "four_clients": {}}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        models = write_models(folder)
        endpoints = start_servers(stack, folder, models)
        for model in SHAPES:
            result["one_client"][model] = overheads(endpoints, models, model, rounds)
            measured: dict[str, list[tuple[float, float]]] = {endpoint.name: [] for endpoint in endpoints}
            for _ in range(repeats):
                for endpoint in endpoints:
                    measured[endpoint.name].append(throughput(endpoint, model, seconds))
            result["four_clients"][model] = {
                name: dict(zip(("answers_per_s", "server_cpu_ms"), np.median(values, axis=0).tolist(), strict=True))
                for name, values in measured.items()
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install the peers and end")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each throughput measurement")
    parser.add_argument("--repeats", type=int, default=3, help="of each throughput measurement")
    parser.add_argument("--output", type=Path, help="also write the page here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.install:
        install()
        return
    result = measure(options.rounds, options.seconds, options.repeats)
    text = page(result, SHAPES, ", ".join([machine(PACKAGES), *(peer.replace("==", " ") for peer in PEERS.values())]))
    print(text)
    if options.output:
        options.output.write_text(text)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
