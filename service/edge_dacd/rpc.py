"""From a servicer to a gRPC handler: parsing, error statuses and the log of what nobody expected, in one place."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from edge_dac import wire
from edge_dac.errors import EdgeDacError
from edge_dacd.status import RequestError, from_library

_log = logging.getLogger(__name__)


def handler(service_name: str, servicer: object) -> grpc.GenericRpcHandler:
    """A handler for all methods of the service, each answered by the method of ``servicer`` with the same name.

    A method takes ``(request, context)`` and returns the response message, or an iterator of them for a server stream.
    Where the client streams, ``request`` is an iterator. A servicer may bring its own wire form for a method:
    attributes ``parse_METHOD(bytes)`` and ``serialize_METHOD(response)``.
    """
    handlers = {}
    for method in wire.service(service_name).methods.values():
        parts = _parts(servicer, method)
        if method.client_streaming:
            handlers[method.name] = grpc.stream_stream_rpc_method_handler(_two_streams(*parts))
        elif method.server_streaming:
            handlers[method.name] = grpc.unary_stream_rpc_method_handler(_server_stream(*parts))
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(_unary(_answering(*parts)))
    return grpc.method_handlers_generic_handler(service_name, handlers)


def unary_answers(service_name: str, servicer: object) -> dict[str, Answer]:
    """The unary methods of the service by path, from bytes to bytes. They raise nothing but RequestError."""
    return {
        f"/{service_name}/{method.name}": _answering(*_parts(servicer, method))
        for method in wire.service(service_name).methods.values()
        if not (method.client_streaming or method.server_streaming)
    }


def explain(error: Exception) -> RequestError:
    """The status for any exception. One that nobody raised on purpose is logged, and the answer refers to the log."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EdgeDacError):
        return from_library(error)
    if isinstance(error, DecodeError):
        return RequestError(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this method")
    reference = secrets.token_hex(4)
    _log.error("unexpected error %s", reference, exc_info=error)
    return RequestError(grpc.StatusCode.INTERNAL, f"internal error; the log of the daemon knows it as {reference}")


Answer: TypeAlias = Callable[[bytes, Any], bytes]
_Parse: TypeAlias = Callable[[bytes], Any]
_Serialize: TypeAlias = Callable[[Any], bytes]


def _parts(servicer: object, method: Any) -> tuple[Callable[..., Any], _Parse, _Serialize]:
    return (
        getattr(servicer, method.name),
        getattr(servicer, f"parse_{method.name}", method.request.FromString),
        getattr(servicer, f"serialize_{method.name}", method.response.SerializeToString),
    )


def _answering(behaviour: Callable[..., Any], parse: _Parse, serialize: _Serialize) -> Callable[[bytes, Any], bytes]:
    def answer(data: bytes, context: Any) -> bytes:
        try:
            return serialize(behaviour(parse(data), context))
        except RequestError:
            raise  # from itself, it would keep the request until garbage is collected
        except Exception as error:
            raise explain(error) from error

    return answer


def _unary(answer: Callable[[bytes, Any], bytes]) -> Any:
    def answer_or_abort(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return answer(data, context)
        except RequestError as error:
            _abort(context, error)

    return answer_or_abort


def _server_stream(behaviour: Callable[..., Any], parse: _Parse, serialize: _Serialize) -> Any:
    def answer(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            for response in behaviour(parse(data), context):
                yield serialize(response)
        except Exception as error:  # noqa: BLE001 - the boundary
            _abort(context, error)

    return answer


def _two_streams(behaviour: Callable[..., Any], parse: _Parse, serialize: _Serialize) -> Any:
    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            for response in behaviour((parse(data) for data in requests), context):
                yield serialize(response)
        except Exception as error:  # noqa: BLE001 - the boundary
            if context.is_active():
                _abort(context, error)

    return answer


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    status = explain(error)
    context.abort(status.code, status.message)
    raise AssertionError("abort raises")
