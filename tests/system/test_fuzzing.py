"""Random and mutated bytes on every method: the daemon answers each with a status, and is as it was afterwards."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

SEED = 20261122
METHODS = [method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
EXPECTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def seeds() -> list[bytes]:
    """Well-formed messages to start from."""
    raw = np.arange(16, dtype=np.int32).tobytes()
    simple = service_pb2.ModelInferRequest(model_name="simple", id="7", raw_input_contents=[raw, raw])
    for name in ("INPUT0", "INPUT1"):
        simple.inputs.add(name=name, datatype="INT32", shape=[1, 16])
    simple.outputs.add(name="OUTPUT0")
    text = service_pb2.ModelInferRequest(model_name="text", raw_input_contents=[b"\2\0\0\0ab\1\0\0\0c"])
    text.inputs.add(name="INPUT0", datatype="BYTES", shape=[1, 2])
    typed = service_pb2.ModelInferRequest(model_name="floats")
    typed.inputs.add(name="INPUT0", datatype="FP32", shape=[2, 1]).contents.fp32_contents.extend([1.0, 2.0])
    typed.parameters["priority"].uint64_param = 3
    region = service_pb2.SystemSharedMemoryRegisterRequest(name="r", key="/edge_dac_fuzz", offset=8, byte_size=64)
    return [message.SerializeToString() for message in (simple, text, typed, region)]


def mutate(data: bytes, choose: random.Random) -> bytes:
    """A few bytes of ``data`` changed, removed, repeated or put in."""
    result = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(result) + 1)
        match choose.randrange(5):
            case 0:
                result[at : at + 1] = bytes([choose.randrange(256)])
            case 1:
                del result[at : at + choose.randint(1, 8)]
            case 2:
                result[at:at] = result[at : at + choose.randint(1, 16)]
            case 3:
                result[at:at] = choose.randbytes(choose.randint(1, 8))
            case 4:
                result[at:at] = b"\xff" * choose.randint(1, 10)
    return bytes(result)


def attack(channel: grpc.Channel, count: int) -> list[tuple[str, bytes, str]]:
    """Send ``count`` broken messages; returns those that were answered as no wrong request should be."""
    unexpected = []
    choose = random.Random(SEED)
    start_from = seeds()
    for index in range(count):
        method = "ModelInfer" if index % 2 else choose.choice(METHODS)
        data = choose.randbytes(choose.randrange(64)) if index % 5 == 0 else mutate(choose.choice(start_from), choose)
        path = f"/inference.GRPCInferenceService/{method}"
        try:
            if method == "ModelStreamInfer":
                list(channel.stream_stream(path)(iter([data]), timeout=20))
            else:
                channel.unary_unary(path)(data, timeout=20)
        except grpc.RpcError as error:
            if error.code() not in EXPECTED:
                unexpected.append((method, data, error.details()))
    return unexpected


@pytest.fixture
def stub_channel(daemon: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(daemon.address) as channel:
        yield channel


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_survives(daemon: Any, stub_channel: grpc.Channel, wait: Any, count: int) -> None:
    assert attack(stub_channel, 300) == []  # everything has been touched once: the baseline
    stats = daemon.stats
    memory, threads, descriptors = stats.memory_info().rss, stats.num_threads(), stats.num_fds()
    assert attack(stub_channel, count) == []
    request = service_pb2.ModelInferRequest.FromString(seeds()[0])
    loaded = service_pb2_grpc.GRPCInferenceServiceStub(stub_channel)
    loaded.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="simple"), timeout=20)
    assert loaded.ModelInfer(request, timeout=20).outputs[0].name == "OUTPUT0"
    gc.collect()
    wait(lambda: stats.num_fds() <= descriptors, "descriptors are back")
    assert stats.num_threads() <= threads + 4
    assert stats.memory_info().rss < memory * 1.1 + (8 << 20)
    assert not [entry for entry in daemon.log if entry["level"] == "error"]
