"""The protocol: the same field numbers as Triton's, in a pool of its own."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pool
from tritonclient.grpc import model_config_pb2, service_pb2

from edge_dac import wire

THEIRS = {
    message.full_name: message
    for module in (service_pb2, model_config_pb2)
    for message in module.DESCRIPTOR.message_types_by_name.values()
}
OURS = {
    message.full_name: message
    for file in ("inference/grpc_service.proto", "inference/model_config.proto")
    for message in wire.pool().FindFileByName(file).message_types_by_name.values()
}


def fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.full_name,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }


def compare(ours: Any, theirs: Any) -> None:
    expected = fields(theirs)
    for name, field in fields(ours).items():
        assert field == expected[name], f"{ours.full_name}.{name}"
    for nested in ours.nested_types:
        compare(nested, theirs.nested_types_by_name[nested.name])
    for enum in ours.enum_types:
        assert enum.values_by_name.keys() == theirs.enum_types_by_name[enum.name].values_by_name.keys()


@pytest.mark.parametrize("name", sorted(OURS))
def test_fields_are_those_of_triton(name: str) -> None:
    compare(OURS[name], THEIRS[name])


def test_what_clients_parse_is_complete() -> None:
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents", "InferParameter"):
        full = f"inference.{name}"
        assert fields(OURS[full]) == fields(THEIRS[full])


def test_methods() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    methods = wire.service("inference.GRPCInferenceService").methods
    assert set(theirs) - set(methods) == {
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    }
    for name, method in methods.items():
        assert method.path == f"/inference.GRPCInferenceService/{name}"
        assert method.request.DESCRIPTOR.full_name == theirs[name].input_type.full_name
        assert method.response.DESCRIPTOR.full_name == theirs[name].output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (
            theirs[name].client_streaming,
            theirs[name].server_streaming,
        )


def test_enum() -> None:
    theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    assert wire.enum("inference.DataType") == {name: value.number for name, value in theirs.items()}


def test_the_default_pool_stays_clean() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName("inference/grpc_service.proto")


def test_unknown_names() -> None:
    with pytest.raises(KeyError):
        wire.message("inference.Nothing")
    with pytest.raises(KeyError):
        wire.service("inference.Nothing")
