"""Wrong requests: each gets its status and a message that names what was expected, and the daemon goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
DENIED, EXISTS = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.ALREADY_EXISTS
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
Change = Callable[[Any], object]
RAW = np.arange(16, dtype=np.int32).tobytes()


def good() -> Any:
    """A request that ``simple`` answers."""
    request = service_pb2.ModelInferRequest(model_name="simple", raw_input_contents=[RAW, RAW])
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
    return request


def parameter(name: str, kind: str, value: Any) -> Change:
    return lambda request: setattr(request.parameters[name], kind, value)


def input_parameter(**values: Any) -> Change:
    def change(request: Any) -> None:
        for name, value in values.items():
            kind = "string_param" if isinstance(value, str) else "int64_param"
            setattr(request.inputs[0].parameters[name], kind, value)
        del request.raw_input_contents[0]

    return change


def output(name: str, **values: str) -> Change:
    def change(request: Any) -> None:
        requested = request.outputs.add(name=name)
        for key, value in values.items():
            requested.parameters[key].string_param = value

    return change


def model(name: str, datatype: str, shape: list[int], raw: list[bytes]) -> Change:
    """One input for an identity model instead of the two of ``simple``."""

    def change(request: Any) -> None:
        request.Clear()
        request.model_name = name
        request.inputs.add(name="INPUT0", datatype=datatype, shape=shape)
        request.raw_input_contents.extend(raw)

    return change


def contents(name: str, datatype: str, shape: list[int], field: str, values: list[Any]) -> Change:
    def change(request: Any) -> None:
        model(name, datatype, shape, [])(request)
        getattr(request.inputs[0].contents, field).extend(values)

    return change


def set_shape(shape: list[int], index: int = 0) -> Change:
    def change(request: Any) -> None:
        del request.inputs[index].shape[:]
        request.inputs[index].shape.extend(shape)

    return change


def both(*changes: Change) -> Change:
    def change(request: Any) -> None:
        for each in changes:
            each(request)

    return change


WRONG_INFER: list[tuple[str, Change, grpc.StatusCode, str]] = [
    ("unknown model", lambda r: setattr(r, "model_name", "other"), NOT_FOUND, "model 'other'"),
    ("empty model name", lambda r: setattr(r, "model_name", ""), NOT_FOUND, "model ''"),
    ("path as a model name", lambda r: setattr(r, "model_name", "../simple"), NOT_FOUND, "simple"),
    ("unknown version", lambda r: setattr(r, "model_version", "2"), NOT_FOUND, "expected version 1, got '2'"),
    ("version is no number", lambda r: setattr(r, "model_version", "x"), NOT_FOUND, "got 'x'"),
    ("unknown input", lambda r: setattr(r.inputs[0], "name", "X"), INVALID, r"input 'X': expected one of \['INPUT0'"),
    ("input without a name", lambda r: setattr(r.inputs[0], "name", ""), INVALID, "input ''"),
    ("input twice", lambda r: setattr(r.inputs[1], "name", "INPUT0"), INVALID, "'INPUT0': expected once, got twice"),
    (
        "missing input",
        lambda r: (r.inputs.pop(), r.raw_input_contents.pop()),
        INVALID,
        "'INPUT1': expected in the request",
    ),
    ("no inputs", lambda r: (r.ClearField("inputs"), r.ClearField("raw_input_contents")), INVALID, "'INPUT0'"),
    ("input too many", lambda r: r.inputs.add(name="Z", datatype="INT32", shape=[1]), INVALID, "expected 3 entries"),
    (
        "other datatype",
        lambda r: setattr(r.inputs[0], "datatype", "FP32"),
        INVALID,
        "expected datatype INT32, got FP32",
    ),
    ("unknown datatype", lambda r: setattr(r.inputs[0], "datatype", "INT33"), INVALID, "got 'INT33'"),
    ("no datatype", lambda r: setattr(r.inputs[0], "datatype", ""), INVALID, "expected datatype INT32, got ''"),
    ("datatype in small letters", lambda r: setattr(r.inputs[0], "datatype", "int32"), INVALID, "got 'int32'"),
    ("other extent", set_shape([1, 17]), INVALID, r"expected shape \[1, 16\] .* got \[1, 17\]"),
    ("other rank", set_shape([16]), INVALID, r"got \[16\]"),
    ("no shape", set_shape([]), INVALID, r"got \[\]"),
    ("negative extent", set_shape([1, -16]), INVALID, "at least 0"),
    ("free extent sent", set_shape([-1, 16]), INVALID, "at least 0"),
    ("huge extents", model("floats", "FP32", [1 << 62, 1 << 62], [b""]), INVALID, "elements"),
    ("extents that overflow to few bytes", model("floats", "FP32", [1 << 32, 1 << 32], [b""]), INVALID, "elements"),
    ("too few bytes", lambda r: r.raw_input_contents.__setitem__(0, RAW[:-1]), INVALID, "expected 64 bytes .* got 63"),
    ("too many bytes", lambda r: r.raw_input_contents.__setitem__(0, RAW + b"x"), INVALID, "expected 64 .* got 65"),
    ("no bytes", lambda r: r.raw_input_contents.__setitem__(1, b""), INVALID, "'INPUT1': expected 64 bytes .* got 0"),
    ("raw entry missing", lambda r: r.raw_input_contents.pop(), INVALID, "expected 2 entries, .* got 1"),
    ("raw entry too many", lambda r: r.raw_input_contents.append(RAW), INVALID, "expected 2 entries, .* got 3"),
    ("no data at all", lambda r: r.ClearField("raw_input_contents"), INVALID, "expected 16 elements .* got 0"),
    ("raw and typed", lambda r: r.inputs[0].contents.int_contents.extend([1] * 16), INVALID, "got both"),
    (
        "typed in another field",
        contents("int64", "INT64", [1], "int_contents", [1]),
        INVALID,
        "int64_contents .* got int_",
    ),
    ("typed too few", contents("int64", "INT64", [2], "int64_contents", [1]), INVALID, "expected 2 elements .* got 1"),
    ("typed too many", contents("int64", "INT64", [1], "int64_contents", [1, 2]), INVALID, "expected 1 .* got 2"),
    ("typed out of range", contents("int8", "INT8", [1], "int_contents", [128]), INVALID, "range of INT8"),
    ("typed negative as small", contents("uint8", "UINT8", [1], "uint_contents", [256]), INVALID, "range of UINT8"),
    ("typed half", contents("half", "FP16", [1, 4], "fp32_contents", [1.0] * 4), INVALID, "FP16 has no typed contents"),
    ("typed text not UTF-8", contents("text", "BYTES", [1, 1], "bytes_contents", [b"\xff"]), INVALID, "UTF-8"),
    ("text without lengths", model("text", "BYTES", [1, 1], [b"ab"]), INVALID, "at least 4 bytes"),
    ("text length beyond the end", model("text", "BYTES", [1, 1], [b"\xff\xff\xff\xffa"]), INVALID, "says 4294967295"),
    ("text too short", model("text", "BYTES", [1, 2], [b"\4\0\0\0abcd"]), INVALID, "got 1 before the data ended"),
    ("text too long", model("text", "BYTES", [1, 1], [b"\0\0\0\0xy"]), INVALID, "2 bytes more"),
    ("text not UTF-8", model("text", "BYTES", [1, 1], [b"\1\0\0\0\xff"]), INVALID, "element 0: expected UTF-8"),
    ("text with a zero byte", model("text", "BYTES", [1, 1], [b"\3\0\0\0a\0b"]), INVALID, "zero byte"),
    ("unknown output", output("X"), INVALID, r"output 'X': expected each of \['OUTPUT0'"),
    ("output twice", both(output("OUTPUT0"), output("OUTPUT0")), INVALID, "'OUTPUT0': .* at most once"),
    ("classification", output("OUTPUT0", classification="3"), INVALID, "classification"),
    ("timeout is text", parameter("timeout", "string_param", "1"), INVALID, "'timeout': expected a number"),
    ("timeout is negative", parameter("timeout", "int64_param", -1), INVALID, "at least 0, got -1"),
    ("priority is a truth value", parameter("priority", "bool_param", True), INVALID, "'priority'"),
    ("latency wish is not finite", parameter("max_latency_ms", "double_param", float("nan")), INVALID, "got nan"),
    (
        "region that nobody registered",
        input_parameter(shared_memory_region="r", shared_memory_byte_size=64),
        NOT_FOUND,
        "region 'r'",
    ),
    ("region without a size", input_parameter(shared_memory_region="r"), INVALID, "expected shared_memory_byte_size"),
    ("output to an unknown region", output("OUTPUT0", shared_memory_region="r"), INVALID, "shared_memory_byte_size"),
]


@pytest.fixture(scope="module")
def channel(daemon: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(daemon.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("change", "code", "message"), [case[1:] for case in WRONG_INFER], ids=[c[0] for c in WRONG_INFER]
)
def test_wrong_inference(stub: Any, change: Change, code: grpc.StatusCode, message: str, model_folder: Any) -> None:
    request = good()
    change(request)
    error = refused(lambda: stub.ModelInfer(request, timeout=20))
    assert error.code() is code
    assert re.search(message, error.details()), error.details()
    assert str(model_folder) not in error.details()
    assert "\n" not in error.details()


def test_nothing_was_harmed(stub: Any) -> None:
    assert stub.ModelInfer(good(), timeout=20).model_name == "simple"


WRONG_OTHER: list[tuple[str, str, Any, grpc.StatusCode, str]] = [
    ("metadata", "ModelMetadata", service_pb2.ModelMetadataRequest(name="x"), NOT_FOUND, "model 'x'"),
    ("config", "ModelConfig", service_pb2.ModelConfigRequest(name="x"), NOT_FOUND, "model 'x'"),
    ("ready", "ModelReady", service_pb2.ModelReadyRequest(name="x"), NOT_FOUND, "model 'x'"),
    ("ready version", "ModelReady", service_pb2.ModelReadyRequest(name="simple", version="9"), NOT_FOUND, "version 1"),
    ("statistics", "ModelStatistics", service_pb2.ModelStatisticsRequest(name="x"), NOT_FOUND, "model 'x'"),
    ("load", "RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="x"), NOT_FOUND, "'x'"),
    ("load a path", "RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="/etc/x"), NOT_FOUND, "x"),
    ("unload", "RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="x"), NOT_FOUND, "'x'"),
    ("index", "RepositoryIndex", service_pb2.RepositoryIndexRequest(repository_name="x"), NOT_FOUND, "'x'"),
    ("region", "SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest(name="x"), NOT_FOUND, "'x'"),
]


def region(key: str, size: int = 8, name: str = "r", offset: int = 0) -> Any:
    return service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size, offset=offset)


WRONG_OTHER += [
    (f"region {what}", "SystemSharedMemoryRegister", request, code, message)
    for what, request, code, message in (
        ("up and away", region("../../etc/passwd"), INVALID, "expected a key"),
        ("by path", region("/dev/shm/x"), INVALID, "expected a key"),
        ("hidden", region(".."), INVALID, "expected a key"),
        ("without a key", region(""), INVALID, "expected a key"),
        ("with a zero byte", region("a\0b"), INVALID, "expected a key"),
        ("that is not there", region("edge_dac_no_such_object"), NOT_FOUND, "cannot be opened"),
        ("without a name", region("x", name=""), INVALID, "expected a name"),
        ("of no size", region("x", size=0), INVALID, "byte size above 0"),
    )
]


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"), [case[1:] for case in WRONG_OTHER], ids=[case[0] for case in WRONG_OTHER]
)
def test_wrong_call(stub: Any, method: str, request_: Any, code: grpc.StatusCode, message: str) -> None:
    error = refused(lambda: getattr(stub, method)(request_, timeout=20))
    assert error.code() is code
    assert message in error.details()


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b"])
def test_bytes_that_are_no_message(channel: grpc.Channel, data: bytes) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    assert refused(lambda: call(data, timeout=20)).code() is INVALID


def test_unknown_method_and_service(channel: grpc.Channel) -> None:
    for path in ("/inference.GRPCInferenceService/CudaSharedMemoryStatus", "/inference.Other/ModelInfer"):
        assert (
            refused(lambda path=path: channel.unary_unary(path)(b"", timeout=20)).code()
            is grpc.StatusCode.UNIMPLEMENTED
        )


def test_long_names_do_not_break_the_status(stub: Any) -> None:
    error = refused(lambda: stub.ModelInfer(service_pb2.ModelInferRequest(model_name="x" * 1_000_000), timeout=20))
    assert error.code() is NOT_FOUND
    assert len(error.details()) <= 1000


def test_message_over_the_limit(start_daemon: Any, configuration: Any) -> None:
    folder = configuration.parent / "limit.toml"
    folder.write_text(configuration.read_text() + "[server]\nmax_message_bytes = 100000\n")
    small = start_daemon("--config", folder).wait_ready()
    with grpc.insecure_channel(small.address) as connected:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(connected)
        request = good()
        model("floats", "FP32", [1, 100_000], [bytes(400_000)])(request)
        error = refused(lambda: stub.ModelInfer(request, timeout=20))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert re.search(r"larger than max \(4\d{5} vs\. 100000\)", error.details())
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="floats"), timeout=20).config
        assert config.parameters["server.max_message_bytes"].string_value == "100000"
        assert stub.ModelInfer(good(), timeout=20).model_name == "simple"
        # A message that grows a thousandfold is given up where it passes the limit.
        before = peak_bytes(small)
        call = connected.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        error = refused(lambda: call(bytes(50 << 20), timeout=20, compression=grpc.Compression.Gzip))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert peak_bytes(small) - before < 10 << 20


def peak_bytes(daemon: Any) -> int:
    """The most resident memory that the daemon has had."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10
