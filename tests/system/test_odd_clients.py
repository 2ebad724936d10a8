"""Clients that do odd things: each gets what the protocol says, and everybody else is served as before."""

from __future__ import annotations

import os
import queue
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from http2 import PREFACE, begun_call, frame
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

RAW = np.arange(16, dtype=np.int32).tobytes()
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FOREVER = 10_000_000
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def channel(daemon: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)]) as connected:
        yield connected


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def client(daemon: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(daemon.address) as connected:
        yield connected


def simple(**fields: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="simple", raw_input_contents=[RAW, RAW], **fields)
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
    return request


def slow(iterations: int) -> Any:
    request = service_pb2.ModelInferRequest(model_name="slow")
    request.inputs.add(name="iterations", datatype="INT64", shape=[1]).contents.int64_contents.append(iterations)
    return request


def tensors() -> list[triton.InferInput]:
    made = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    for each in made:
        each.set_data_from_numpy(np.arange(16, dtype=np.int32).reshape(1, 16))
    return made


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


# Shared memory.


@pytest.fixture
def region(client: Any) -> Iterator[Any]:
    """``regions(name, bytes)`` makes an object of this name and registers it."""
    made = []

    def make(name: str, size: int) -> Any:
        handle = shm.create_shared_memory_region(name, f"edge_dac_odd_{name}", size)
        made.append((name, handle))
        client.register_system_shared_memory(name, f"edge_dac_odd_{name}", size)
        return handle

    yield make
    for name, handle in made:
        client.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(handle)


def in_memory(name: str, offset: int = 0) -> list[triton.InferInput]:
    made = tensors()
    made[0].set_shared_memory(name, 64, offset=offset)
    return made


def test_compressed_messages_about_shared_memory(client: Any, region: Any) -> None:
    shm.set_shared_memory_region(region("zipped", 128), [np.full((1, 16), 7, np.int32)])
    output = triton.InferRequestedOutput("OUTPUT1")
    output.set_shared_memory("zipped", 64, offset=64)
    for algorithm in ("gzip", "deflate"):
        result = client.infer("simple", in_memory("zipped"), outputs=[output], compression_algorithm=algorithm)
        assert result.get_response().outputs[0].parameters["shared_memory_byte_size"].uint64_param == 64
        sums = client.infer("simple", in_memory("zipped"), compression_algorithm=algorithm).as_numpy("OUTPUT0")
        np.testing.assert_array_equal(sums[0], np.arange(16) + 7)


def test_a_second_client_can_use_a_region_but_not_register_it_again(daemon: Any, client: Any, region: Any) -> None:
    handle = region("common", 64)
    with triton.InferenceServerClient(daemon.address) as other:
        with pytest.raises(InferenceServerException, match=r"ALREADY_EXISTS.*'common'.*registered already"):
            other.register_system_shared_memory("common", "edge_dac_odd_common", 64)
        other.register_system_shared_memory("alias", "edge_dac_odd_common", 64)
        for value, asking in enumerate((client, other, client)):
            shm.set_shared_memory_region(handle, [np.full((1, 16), value, np.int32)])
            for name in ("common", "alias"):
                answer = asking.infer("simple", in_memory(name)).as_numpy("OUTPUT0")
                np.testing.assert_array_equal(answer[0], np.arange(16) + value)
        other.unregister_system_shared_memory("alias")
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*'alias'"):
        client.infer("simple", in_memory("alias"))
    assert client.infer("simple", in_memory("common")).as_numpy("OUTPUT0")[0, 0] == 2


def test_a_region_that_is_unlinked_cut_or_grown(client: Any, region: Any) -> None:
    shm.set_shared_memory_region(region("moving", 64), [np.full((1, 16), 5, np.int32)])
    path = Path("/dev/shm/edge_dac_odd_moving")
    os.truncate(path, 32)
    with pytest.raises(
        InferenceServerException, match=r"INVALID_ARGUMENT.*'INPUT0'.*shorter than when it was registered"
    ):
        client.infer("simple", in_memory("moving"))
    os.truncate(path, 1 << 20)
    assert client.infer("simple", in_memory("moving")).as_numpy("OUTPUT0")[0, 0] == 5
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*expected at most 64 bytes"):
        client.infer("simple", in_memory("moving", 32))  # what was registered counts
    kept = path.with_name("edge_dac_odd_kept")
    os.link(path, kept)
    path.unlink()
    assert client.infer("simple", in_memory("moving")).as_numpy("OUTPUT0")[0, 0] == 5
    os.rename(kept, path)


def test_an_output_that_does_not_fit_its_region(client: Any, region: Any) -> None:
    handle = region("narrow", 64)
    shm.set_shared_memory_region(handle, [np.full((1, 16), 9, np.int32)])
    output = triton.InferRequestedOutput("OUTPUT0")
    output.set_shared_memory("narrow", 63)
    message = r"INVALID_ARGUMENT.*'OUTPUT0': expected room for 64 bytes in shared memory, got 63"
    with pytest.raises(InferenceServerException, match=message):
        client.infer("simple", tensors(), outputs=[output])
    output.set_shared_memory("narrow", 64, offset=1)
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*'OUTPUT0': expected at most 64 bytes"):
        client.infer("simple", tensors(), outputs=[output])
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.int32, [16]), np.full(16, 9))


# Streams.


class Stream:
    """A stream of :class:`triton.InferenceServerClient` with its answers in a queue."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(callback=lambda result, error: self.answers.put((result, error)))

    def ask(self, name: str, inputs: list[Any]) -> tuple[Any, Any]:
        self.client.async_stream_infer(name, inputs)
        return self.answers.get(timeout=20)


def test_a_model_goes_and_comes_back_during_a_stream(daemon: Any, client: Any) -> None:
    with triton.InferenceServerClient(daemon.address) as other:
        stream = Stream(other)
        assert stream.ask("simple", tensors())[1] is None
        client.unload_model("simple")
        try:
            _, error = stream.ask("simple", tensors())
            assert "model 'simple': is not loaded" in str(error)
        finally:
            client.load_model("simple")
        result, error = stream.ask("simple", tensors())
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0")[0], 2 * np.arange(16))
        other.stop_stream()


def test_a_stream_is_cancelled_in_the_middle(daemon: Any, client: Any) -> None:
    forever = triton.InferInput("iterations", [1], "INT64")
    forever.set_data_from_numpy(np.array([FOREVER], np.int64))
    with triton.InferenceServerClient(daemon.address) as other:
        stream = Stream(other)
        assert stream.ask("simple", tensors())[1] is None
        for _ in range(3):
            other.async_stream_infer("slow", [forever])
        other.stop_stream(cancel_requests=True)
    # The slot is free, and what the stream still held is not computed.
    forever.set_data_from_numpy(np.array([1], np.int64))
    assert client.infer("slow", [forever], client_timeout=20).as_numpy("total") == 256


def test_a_stream_whose_answers_are_not_read_holds_up_nobody_else(daemon: Any, stub: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name="floats", raw_input_contents=[bytes(1 << 20)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 1 << 18])
    before = daemon.stats.memory_info().rss
    sent = []
    stream = stub.ModelStreamInfer((sent.append(1) or request for _ in range(200)), timeout=60)
    assert len(next(stream).infer_response.raw_output_contents[0]) == 1 << 20
    for _ in range(50):
        assert stub.ModelInfer(simple(), timeout=20).model_name == "simple"
    assert len(sent) < 100
    assert daemon.stats.memory_info().rss < before + (64 << 20)
    stream.cancel()


def test_streams_that_ask_nothing_or_stop_asking(stub: Any) -> None:
    assert list(stub.ModelStreamInfer(iter([]), timeout=20)) == []
    answers = list(stub.ModelStreamInfer(iter([simple(id="a"), simple(id="b")]), timeout=20))
    assert [answer.infer_response.id for answer in answers] == ["a", "b"]


def test_a_call_without_a_message(channel: grpc.Channel) -> None:
    code, _ = refused(lambda: list(channel.stream_stream(INFER)(iter([]), timeout=20)))
    assert code is INVALID
    answers = list(channel.stream_stream(INFER)(iter([simple().SerializeToString()]), timeout=20))
    assert service_pb2.ModelInferResponse.FromString(answers[0]).model_name == "simple"


# Clients that vanish, or never come to the point.


def test_a_client_is_killed_while_its_request_runs(daemon: Any, client: Any, wait: Any) -> None:
    code = (
        "import sys, numpy, tritonclient.grpc as triton\n"
        "tensor = triton.InferInput('iterations', [1], 'INT64')\n"
        f"tensor.set_data_from_numpy(numpy.array([{FOREVER}]))\n"
        "client = triton.InferenceServerClient(sys.argv[1])\n"
        "client.async_infer('slow', [tensor], callback=print)\n"
        "print('asked', flush=True)\n"
        "client.infer('slow', [tensor])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, daemon.address], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"asked\n"
        wait(lambda: daemon.stats.cpu_percent(0.1) > 20, "it computes")
        killed.send_signal(signal.SIGKILL)
    quick = triton.InferInput("iterations", [1], "INT64")
    quick.set_data_from_numpy(np.array([1], np.int64))
    assert client.infer("slow", [quick], client_timeout=20).as_numpy("total") == 256


def connect(daemon: Any) -> socket.socket:
    host, _, port = daemon.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        PREFACE[:7],
        PREFACE,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        os.urandom(3000),
        PREFACE + frame(4, 0, 0) + begun_call(1, INFER),
        PREFACE + frame(4, 0, 0) + begun_call(1, INFER) + frame(0, 0, 1, b"\0\0\0\x10\0half of it"),
        PREFACE + frame(4, 0, 0) + begun_call(1, INFER) + frame(0, 1, 1, b"\0\0\0\x10\0half of it"),
        PREFACE + frame(4, 0, 0) + begun_call(1, INFER) + frame(0, 1, 1, b"\0\xff\xff\xff\xffhuge"),
    ],
    ids=["nothing", "half a preface", "preface", "HTTP/1", "TLS", "noise", "headers", "half", "half and end", "huge"],
)
def test_connections_that_never_come_to_the_point(daemon: Any, stub: Any, wait: Any, sent: bytes) -> None:
    before = daemon.stats.num_fds()
    connections = [connect(daemon) for _ in range(20)]
    for connection in connections:
        connection.sendall(sent)
    assert stub.ModelInfer(simple(), timeout=20).model_name == "simple"
    for connection in connections:
        connection.close()
    wait(lambda: daemon.stats.num_fds() <= before + 2, "descriptors are back")


def test_calls_that_send_slowly_take_no_place_of_others(daemon: Any, stub: Any) -> None:
    """More of them than may be in work at once, which are 64."""
    with connect(daemon) as connection:
        connection.sendall(PREFACE + frame(4, 0, 0))
        message = simple(id="slow sender").SerializeToString()
        data = b"\0" + struct.pack(">I", len(message)) + message
        streams = range(1, 2 * 80, 2)
        for stream in streams:
            connection.sendall(begun_call(stream, INFER) + frame(0, 0, stream, data[:10]))
        received = b""
        while received.count(b"expected at most 64 calls at once") < len(streams) - 64:
            received += connection.recv(65536)
        for _ in range(20):
            assert stub.ModelInfer(simple(), timeout=20).model_name == "simple"
        connection.sendall(frame(0, 1, streams[-1], data[10:]))
        while b"slow sender" not in received:
            received += connection.recv(65536)


HEALTH = "/grpc.health.v1.Health/Check"


@pytest.mark.parametrize("path", ["/inference.GRPCInferenceService/ServerLive", HEALTH])
def test_calls_that_never_send_take_no_place_of_others(
    daemon: Any, channel: grpc.Channel, stub: Any, path: str
) -> None:
    with connect(daemon) as connection:
        connection.sendall(PREFACE + frame(4, 0, 0))
        streams = range(1, 2 * 80, 2)
        for stream in streams:
            connection.sendall(begun_call(stream, path) + frame(0, 0, stream, b"\0\0\0"))
        received = b""
        while received.count(b"expected at most 64 calls at once") < len(streams) - 64:
            received += connection.recv(65536)
        for _ in range(20):
            assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20).live
            assert channel.unary_unary(HEALTH)(b"", timeout=20) == b"\x08\x01"
        assert stub.ModelInfer(simple(), timeout=20).model_name == "simple"


def test_many_idle_connections(daemon: Any, stub: Any, wait: Any) -> None:
    assert stub.ModelInfer(simple(), timeout=20).model_name == "simple"
    allowed, most = daemon.stats.rlimit(resource.RLIMIT_NOFILE)
    assert allowed == most
    descriptors, threads = daemon.stats.num_fds(), daemon.stats.num_threads()
    idle = [connect(daemon) for _ in range(200)]
    for connection in idle:
        connection.sendall(PREFACE + frame(4, 0, 0))
    wait(lambda: daemon.stats.num_fds() >= descriptors + 200, "all are connected")
    assert stub.ModelInfer(simple(), timeout=20).model_name == "simple"
    assert daemon.stats.num_threads() <= threads + 4
    for connection in idle:
        connection.close()
    wait(lambda: daemon.stats.num_fds() <= descriptors + 2, "descriptors are back")


# Requests.


def test_parameters_of_triton_that_mean_nothing_here(client: Any) -> None:
    result = client.infer(
        "simple",
        tensors(),
        sequence_id=7,
        sequence_start=True,
        sequence_end=True,
        priority=1,
        timeout=20_000_000,
        parameters={"anything": "goes", "n": 1, "yes": True},
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0")[0], 2 * np.arange(16))


@pytest.mark.parametrize("request_id", ["größer ☃", "a\nb\r\0c\x1b[31m", " ", "x" * 1_000_000])
def test_request_ids_come_back_as_they_are(stub: Any, request_id: str) -> None:
    assert stub.ModelInfer(simple(id=request_id), timeout=20).id == request_id
    (answer,) = stub.ModelStreamInfer(iter([simple(id=request_id)]), timeout=20)
    assert answer.infer_response.id == request_id
    wrong = simple(id=request_id, model_version="9")
    (answer,) = stub.ModelStreamInfer(iter([wrong]), timeout=20)
    assert answer.infer_response.id == request_id
    assert "expected version 1, got '9'" in answer.error_message


def many_inputs() -> Any:
    request = simple()
    for index in range(100_000):
        request.inputs.add(name=f"x{index}", datatype="INT32", shape=[1, 16])
    return request


def many_outputs() -> Any:
    request = simple()
    for _ in range(100_000):
        request.outputs.add(name="OUTPUT0")
    return request


def changed(**fields: Any) -> Any:
    request = simple()
    for name, value in fields.items():
        if name == "shape":
            del request.inputs[0].shape[:]
            request.inputs[0].shape.extend(value)
        else:
            setattr(request.inputs[0], name, value)
    return request


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (many_inputs(), "raw_input_contents: expected 100002 entries"),
        (many_outputs(), "output 'OUTPUT0': expected each of ['OUTPUT0', 'OUTPUT1'] at most once"),
        (changed(shape=[1] * 100_000), "input 'INPUT0': expected shape [1, 16] (-1 is free), got [1, 1"),
        (changed(shape=[1, 16, 1]), "input 'INPUT0': expected shape [1, 16] (-1 is free), got [1, 16, 1]"),
        (changed(shape=[1, 1, 16]), "got [1, 1, 16]"),
        (changed(datatype="X" * 1_000_000), "input 'INPUT0': expected datatype INT32, got 'XXX"),
        (changed(name="X" * 1_000_000), "input 'XXX"),
        (changed(name="INPUT0\n"), r"input 'INPUT0\n': expected one of ['INPUT0', 'INPUT1']"),
    ],
    ids=["inputs", "outputs", "extents", "batch behind", "batch before", "datatype", "name", "newline"],
)
def test_requests_that_exaggerate(stub: Any, request_: Any, message: str) -> None:
    code, details = refused(lambda: stub.ModelInfer(request_, timeout=20))
    assert code is INVALID
    assert message in details
    assert len(details) <= 1000
    assert stub.ModelInfer(simple(), timeout=20).model_name == "simple"


def test_the_log_has_nothing_else_in_it(daemon: Any) -> None:
    """After all of the above: runs that were stopped, clients that vanished, bytes that were no HTTP/2."""
    assert daemon.raw
    assert [line for line in daemon.raw if not line.startswith("{")] == []
    assert [entry for entry in daemon.log if entry["level"] == "error"] == []
