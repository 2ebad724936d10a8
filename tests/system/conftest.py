"""The daemon as a real process, and the models that clients talk to in these tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

DEADLINE_S = 30.0


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until ``condition`` gives something true."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class DaemonProcess:
    """A running ``edge-dacd``; its log is read as JSON lines."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self.log: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "edge_dacd", "--log-format", "json", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.raw.append(line.rstrip())
                if line.startswith("{"):
                    self.log.append(json.loads(line))

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [entry for entry in list(self.log) if entry["message"] == message]

    def wait_ready(self) -> DaemonProcess:
        """Until it listens."""

        def listening() -> bool:
            assert self.process.poll() is None, "\n".join(self.raw)
            return bool(self.logged("listening"))

        wait_until(listening, "the daemon listens")
        return self

    @property
    def address(self) -> str:
        """The TCP address of the first listener."""
        return str(next(entry["address"] for entry in self.logged("listening") if ":/" not in entry["address"]))

    @property
    def stats(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code


StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture(scope="module")
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    """``start_daemon(*arguments, environment={})``: a daemon on a free port; ended with the module."""
    with ExitStack() as stack:

        def start(*arguments: str | Path, environment: dict[str, str] | None = None) -> DaemonProcess:
            folder = tmp_path_factory.mktemp("daemon")
            shown = [str(argument) for argument in arguments]
            if "--listen" not in shown:
                shown += ["--listen", "127.0.0.1:0"]
            daemon = DaemonProcess([*shown, "--state-dir", str(folder / "state")], environment or {}, folder)
            stack.callback(daemon.stop)
            return daemon

        yield start


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def identity(path: Path, kind: int, shape: list[Any]) -> Path:
    value = helper.make_tensor_value_info
    return save(
        path,
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        [value("INPUT0", kind, shape)],
        [value("OUTPUT0", kind, shape)],
    )


def add_sub(path: Path, offset: int = 0) -> Path:
    """``OUTPUT0 = INPUT0 + INPUT1 + offset`` and ``OUTPUT1 = INPUT0 - INPUT1`` on INT32 [1, 16]."""
    value = helper.make_tensor_value_info
    tensors = [value(name, TensorProto.INT32, [1, 16]) for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["sum"]),
        helper.make_node("Add", ["sum", "offset"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    constant = numpy_helper.from_array(np.array(offset, np.int32), "offset")
    return save(path, nodes, tensors[:2], tensors[2:], [constant])


def slow(path: Path) -> Path:
    """As many 256x256 matrix products as ``iterations`` says, one after the other."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("MatMul", ["matrix", "weight"], ["next"]),
        ],
        "body",
        [
            value("index", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            value("matrix", TensorProto.FLOAT, [256, 256]),
        ],
        [value("still", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [256, 256])],
    )
    nodes = [
        helper.make_node("Squeeze", ["iterations"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "start"], ["product"], body=body),
        helper.make_node("ReduceSum", ["product"], ["total"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(np.eye(256, dtype=np.float32), "weight"),
        numpy_helper.from_array(np.eye(256, dtype=np.float32), "start"),
    ]
    return save(
        path,
        nodes,
        [value("iterations", TensorProto.INT64, [1])],
        [value("total", TensorProto.FLOAT, [])],
        constants,
    )


def rows(path: Path) -> Path:
    """``OUTPUT0``: the sum of each row of ``INPUT0``, FLOAT [n, 4]."""
    value = helper.make_tensor_value_info
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    return save(
        path,
        [helper.make_node("ReduceSum", ["INPUT0", "axes"], ["OUTPUT0"], keepdims=0)],
        [value("INPUT0", TensorProto.FLOAT, ["n", 4])],
        [value("OUTPUT0", TensorProto.FLOAT, ["n"])],
        [axes],
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository folder with every model of these tests."""
    folder = tmp_path_factory.mktemp("models")
    add_sub(folder / "simple.onnx")
    slow(folder / "slow.onnx")
    rows(folder / "rows.onnx")
    identity(folder / "text.onnx", TensorProto.STRING, [-1, -1])
    identity(folder / "half.onnx", TensorProto.FLOAT16, ["n", 4])
    identity(folder / "floats.onnx", TensorProto.FLOAT, ["n", "m"])
    identity(folder / "scalar.onnx", TensorProto.FLOAT, [])
    for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT64", "DOUBLE"):
        identity(folder / f"{name.lower()}.onnx", getattr(TensorProto, name), ["n"])
    return folder


@pytest.fixture(scope="session")
def configuration(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file that serves ``model_folder``, with a short line before ``slow``."""
    path = tmp_path_factory.mktemp("configuration") / "config.toml"
    path.write_text(
        f'[repository]\npath = "{model_folder}"\n[compute]\nthreads = 1\n[compression]\nenabled = false\n'
        f'[models.slow]\npath = "{model_folder / "slow.onnx"}"\nqueue_size = 2\n'
        f'[models.rows]\npath = "{model_folder / "rows.onnx"}"\nmax_batch_size = 8\n'
    )
    return path


@pytest.fixture(scope="module")
def daemon(start_daemon: StartDaemon, configuration: Path) -> DaemonProcess:
    """A daemon that serves every model of ``model_folder``, shared by the tests of a module."""
    return start_daemon("--config", configuration).wait_ready()


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    """:func:`wait_until`."""
    return wait_until


@pytest.fixture(scope="session")
def make_add_sub() -> Callable[[Path, int], Path]:
    """:func:`add_sub`."""
    return add_sub


@pytest.fixture(scope="session")
def make_identity() -> Callable[[Path, int], Path]:
    """:func:`identity` on FP32 of this many elements."""
    return lambda path, elements: identity(path, TensorProto.FLOAT, [elements])
