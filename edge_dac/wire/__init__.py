"""Messages and methods of our gRPC services, from the descriptor set that the build compiles out of ``proto/``.

The descriptors live in a pool of their own: the default pool of protobuf belongs to whoever else is in the process, and
``tritonclient`` registers files of the same package ``inference`` there.

    >>> ModelInferRequest = message("inference.ModelInferRequest")
    >>> method = service("inference.GRPCInferenceService").methods["ModelInfer"]
    >>> call = channel.unary_unary(
    ...     method.path,
    ...     request_serializer=method.request.SerializeToString,
    ...     response_deserializer=method.response.FromString,
    ... )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MessageType: TypeAlias = Any
"""A message class. Its fields come from the descriptor set at run time, so type checkers know nothing of them."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service."""

    name: str
    path: str
    """``/package.Service/Method``, as it stands in the HTTP/2 request."""
    request: MessageType
    response: MessageType
    client_streaming: bool
    server_streaming: bool


@dataclass(frozen=True, slots=True)
class Service:
    """A service by its full name, with its methods by their names."""

    name: str
    methods: Mapping[str, Method]


def make_pool() -> descriptor_pool.DescriptorPool:
    """A new pool with every file of ``proto/``, for one who wants to add files of his own.

    Raises:
        RuntimeError: the package was not built (``pip install`` compiles the descriptor set).
    """
    source = resources.files(__name__) / "descriptors.binpb"
    if not source.is_file():
        raise RuntimeError(
            "edge_dac/wire/descriptors.binpb: expected the compiled protocol, found none; pip install -e ."
        )
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(source.read_bytes())
    result = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        result.Add(file)
    return result


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """The pool that all messages of this module come from."""
    return make_pool()


@cache
def message(full_name: str) -> MessageType:
    """The class of the message ``full_name``, for example ``inference.ModelInferRequest``.

    Raises:
        KeyError: there is no such message in ``proto/``.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))


@cache
def enum(full_name: str) -> Mapping[str, int]:
    """The values of the enum ``full_name`` by their names.

    Raises:
        KeyError: there is no such enum in ``proto/``.
    """
    return {value.name: value.number for value in pool().FindEnumTypeByName(full_name).values}


@cache
def service(full_name: str) -> Service:
    """The service ``full_name``, for example ``inference.GRPCInferenceService``.

    Raises:
        KeyError: there is no such service in ``proto/``.
    """
    descriptor = pool().FindServiceByName(full_name)
    return Service(
        full_name,
        {
            method.name: Method(
                method.name,
                f"/{full_name}/{method.name}",
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
                method.client_streaming,
                method.server_streaming,
            )
            for method in descriptor.methods
        },
    )
