"""What users of tritonclient do, against the real daemon."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

Array = npt.NDArray[Any]


def tensor(name: str, array: Array, datatype: str) -> triton.InferInput:
    result = triton.InferInput(name, list(array.shape), datatype)
    result.set_data_from_numpy(array)
    return result


@pytest.fixture
def client(daemon: Any) -> Any:
    with triton.InferenceServerClient(daemon.address) as connected:
        yield connected


@pytest.fixture
def operands() -> tuple[Array, Array]:
    return np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 3, np.int32)


@pytest.fixture
def inputs(operands: tuple[Array, Array]) -> list[triton.InferInput]:
    return [tensor("INPUT0", operands[0], "INT32"), tensor("INPUT1", operands[1], "INT32")]


def check(result: Any, operands: tuple[Array, Array]) -> None:
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), operands[0] + operands[1])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), operands[0] - operands[1])


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert client.get_server_metadata().name == "edge-dac"
    metadata = client.get_model_metadata("simple")
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [
        ("INPUT0", "INT32", [1, 16]),
        ("INPUT1", "INT32", [1, 16]),
    ]
    assert [o.name for o in metadata.outputs] == ["OUTPUT0", "OUTPUT1"]
    config = client.get_model_config("simple").config
    assert config.name == "simple"
    assert config.input[0].data_type == 8
    assert client.get_model_metadata("floats").inputs[0].shape == [-1, -1]


def test_infer(client: Any, inputs: list[Any], operands: tuple[Array, Array]) -> None:
    result = client.infer("simple", inputs, request_id="4711")
    check(result, operands)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("4711", "simple", "1")


def test_outputs_are_selected_by_name_and_order(client: Any, inputs: list[Any]) -> None:
    outputs = [triton.InferRequestedOutput("OUTPUT1"), triton.InferRequestedOutput("OUTPUT0")]
    response = client.infer("simple", inputs, outputs=outputs).get_response()
    assert [output.name for output in response.outputs] == ["OUTPUT1", "OUTPUT0"]
    assert len(client.infer("simple", inputs, outputs=outputs[:1]).get_response().raw_output_contents) == 1


def test_inputs_in_any_order(client: Any, inputs: list[Any], operands: tuple[Array, Array]) -> None:
    check(client.infer("simple", inputs[::-1]), operands)


def test_async_infer(client: Any, inputs: list[Any], operands: tuple[Array, Array]) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(4):
        client.async_infer("simple", inputs, callback=lambda result, error: answers.put((result, error)))
    for _ in range(4):
        result, error = answers.get(timeout=20)
        assert error is None
        check(result, operands)


def test_many_clients_without_a_deadline(daemon: Any, inputs: list[Any], operands: tuple[Array, Array]) -> None:
    def ask(_: int) -> None:
        with triton.InferenceServerClient(daemon.address, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as own:
            for _ in range(20):
                check(own.infer("simple", inputs), operands)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_stream(client: Any, inputs: list[Any], operands: tuple[Array, Array]) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for index in range(5):
        client.async_stream_infer("simple", inputs, request_id=str(index))
    client.async_stream_infer("nothing", inputs, request_id="wrong")
    client.async_stream_infer("simple", inputs, request_id="last")
    received = [answers.get(timeout=20) for _ in range(7)]
    client.stop_stream()
    for index, (result, error) in enumerate(received[:5]):
        assert error is None
        assert result.get_response().id == str(index)
        check(result, operands)
    assert "nothing" in str(received[5][1])
    check(received[6][0], operands)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compression(client: Any, inputs: list[Any], operands: tuple[Array, Array], compression: str) -> None:
    check(client.infer("simple", inputs, compression_algorithm=compression), operands)


def test_keep_alive(daemon: Any, inputs: list[Any], operands: tuple[Array, Array]) -> None:
    options = triton.KeepAliveOptions(
        keepalive_time_ms=100,
        keepalive_timeout_ms=1000,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
    )
    with triton.InferenceServerClient(daemon.address, keepalive_options=options) as client:
        check(client.infer("simple", inputs), operands)


def test_strings(client: Any) -> None:
    array = np.array([["a", "", "größer"], ["x" * 1000, "\n", "ß"]], dtype=np.object_)
    encoded = np.array([[text.encode() for text in row] for row in array], dtype=np.object_)
    result = client.infer("text", [tensor("INPUT0", array, "BYTES")]).as_numpy("OUTPUT0")
    assert (result == encoded).all()
    empty = np.zeros((0, 3), dtype=np.object_)
    assert client.infer("text", [tensor("INPUT0", empty, "BYTES")]).as_numpy("OUTPUT0").shape == (0, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2.25, 65504, 6e-8]], np.float16),
        np.zeros((0, 4), np.float16),
        np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float16),
    ],
)
def test_half(client: Any, array: Array) -> None:
    result = client.infer("half", [tensor("INPUT0", array, "FP16")]).as_numpy("OUTPUT0")
    np.testing.assert_array_equal(result.view(np.uint16), array.view(np.uint16))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 0), np.float32),
        np.zeros((3, 0), np.float32),
        np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45]], np.float32),
        np.arange(8 << 20, dtype=np.float32).reshape(1, -1),
    ],
    ids=["empty", "zero-size", "not-finite", "32-MB"],
)
def test_floats(client: Any, array: Array) -> None:
    result = client.infer("floats", [tensor("INPUT0", array, "FP32")]).as_numpy("OUTPUT0")
    np.testing.assert_array_equal(result.view(np.uint32), array.view(np.uint32))


def test_scalar(client: Any) -> None:
    result = client.infer("scalar", [tensor("INPUT0", np.array(2.5, np.float32), "FP32")]).as_numpy("OUTPUT0")
    assert result.shape == ()
    assert result == 2.5


@pytest.mark.parametrize(
    ("model", "datatype", "dtype", "field"),
    [
        ("bool", "BOOL", np.bool_, "bool_contents"),
        ("uint8", "UINT8", np.uint8, "uint_contents"),
        ("uint16", "UINT16", np.uint16, "uint_contents"),
        ("uint32", "UINT32", np.uint32, "uint_contents"),
        ("uint64", "UINT64", np.uint64, "uint64_contents"),
        ("int8", "INT8", np.int8, "int_contents"),
        ("int16", "INT16", np.int16, "int_contents"),
        ("int64", "INT64", np.int64, "int64_contents"),
        ("double", "FP64", np.float64, "fp64_contents"),
    ],
)
def test_every_datatype_raw_and_explicit(
    daemon: Any, client: Any, model: str, datatype: str, dtype: Any, field: str
) -> None:
    array = np.array([0, 1, 1], dtype=dtype)
    result = client.infer(model, [tensor("INPUT0", array, datatype)]).as_numpy("OUTPUT0")
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype
    request = service_pb2.ModelInferRequest(model_name=model)
    wanted = request.inputs.add(name="INPUT0", datatype=datatype, shape=[3])
    getattr(wanted.contents, field).extend(array.tolist())
    with grpc.insecure_channel(daemon.address) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    assert answer.raw_output_contents[0] == array.tobytes()


def test_explicit_contents_of_strings_and_floats(daemon: Any) -> None:
    with grpc.insecure_channel(daemon.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="text")
        request.inputs.add(name="INPUT0", datatype="BYTES", shape=[1, 2]).contents.bytes_contents.extend([b"a", b"bc"])
        assert stub.ModelInfer(request, timeout=20).raw_output_contents[0] == b"\1\0\0\0a\2\0\0\0bc"
        request = service_pb2.ModelInferRequest(model_name="floats")
        request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.5, 2.5])
        assert stub.ModelInfer(request, timeout=20).raw_output_contents[0] == np.array([1.5, 2.5], "<f4").tobytes()


def test_shared_memory(client: Any, operands: tuple[Array, Array]) -> None:
    size = operands[0].nbytes
    source = shm.create_shared_memory_region("source", "edge_dac_test_source", 2 * size)
    target = shm.create_shared_memory_region("target", "edge_dac_test_target", 2 * size)
    try:
        shm.set_shared_memory_region(source, list(operands))
        client.register_system_shared_memory("source", "edge_dac_test_source", 2 * size)
        client.register_system_shared_memory("target", "/edge_dac_test_target", 2 * size)
        assert set(client.get_system_shared_memory_status().regions) == {"source", "target"}
        inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        outputs = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
        for index in range(2):
            inputs[index].set_shared_memory("source", size, offset=index * size)
            outputs[index].set_shared_memory("target", size, offset=index * size)
        response = client.infer("simple", inputs, outputs=outputs).get_response()
        assert response.outputs[0].parameters["shared_memory_region"].string_param == "target"
        np.testing.assert_array_equal(shm.get_contents_as_numpy(target, np.int32, [1, 16]), operands[0] + operands[1])
        np.testing.assert_array_equal(
            shm.get_contents_as_numpy(target, np.int32, [1, 16], size), operands[0] - operands[1]
        )
        client.unregister_system_shared_memory("source")
        assert set(client.get_system_shared_memory_status().regions) == {"target"}
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(source)
        shm.destroy_shared_memory_region(target)


def test_client_timeout_stops_the_run(daemon: Any, client: Any) -> None:
    forever = [tensor("iterations", np.array([1_000_000], np.int64), "INT64")]
    with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
        client.infer("slow", forever, client_timeout=0.3)
    # The slot is free again: the run was stopped, it did not go on for its minutes.
    quick = [tensor("iterations", np.array([1], np.int64), "INT64")]
    assert client.infer("slow", quick, client_timeout=20).as_numpy("total") == 256


def test_statistics_count_what_was_asked(client: Any, inputs: list[Any]) -> None:
    before = client.get_inference_statistics("simple").model_stats[0]
    for _ in range(3):
        client.infer("simple", inputs)
    with pytest.raises(InferenceServerException):
        client.infer("simple", inputs[:1])
    after = client.get_inference_statistics("simple").model_stats[0]
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 3
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert len(client.get_inference_statistics().model_stats) > 1


def test_model_control(client: Any, inputs: list[Any], operands: tuple[Array, Array]) -> None:
    client.unload_model("simple")
    assert not client.is_model_ready("simple")
    with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*simple.*not loaded"):
        client.infer("simple", inputs)
    states = {model.name: model.state for model in client.get_model_repository_index().models}
    assert states["simple"] == "UNAVAILABLE"
    assert states["half"] == "READY"
    client.load_model("simple")
    assert client.is_model_ready("simple")
    check(client.infer("simple", inputs), operands)
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*nothing"):
        client.load_model("nothing")
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*parameters"):
        client.load_model("simple", config="{}")
