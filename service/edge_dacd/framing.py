"""Inference requests and answers on the wire, without a copy of the tensors.

A request's ``raw_input_contents`` are nearly all of its bytes. Parsing it as one message would copy them; here they
become views of the received bytes, and only the rest is parsed. An answer is joined once from its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from edge_dac import wire
from edge_dacd.tensors import Buffer

_RAW_INPUT_CONTENTS = 7
_RAW_OUTPUT_CONTENTS = 6
_STREAMED_ANSWER = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

ModelInferRequest = wire.message("inference.ModelInferRequest")
ModelInferResponse = wire.message("inference.ModelInferResponse")
ModelStreamInferResponse = wire.message("inference.ModelStreamInferResponse")


@dataclass(slots=True)
class InferRequest:
    """A ``ModelInferRequest`` without its raw contents, and these as views in their order."""

    message: Any
    raw: list[Buffer]


@dataclass(slots=True)
class InferAnswer:
    """A ``ModelInferResponse`` without its raw contents, and these in their order."""

    message: Any
    raw: list[Buffer] = field(default_factory=list)


def parse_request(data: bytes) -> InferRequest:
    """Split and parse a ``ModelInferRequest``.

    Raises:
        DecodeError: ``data`` is not one.
    """
    view = memoryview(data)
    raw: list[Buffer] = []
    rest: list[Buffer] = []
    position = kept = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _BYTES:
            length, position = _varint(data, position)
            end = position + length
        elif kind == _VARINT:
            _, end = _varint(data, position)
        elif kind in (_FIXED32, _FIXED64):
            end = position + (4 if kind == _FIXED32 else 8)
        else:
            raise DecodeError(f"wire type {kind}")
        if end > len(data):
            raise DecodeError("truncated field")
        if tag == _tag(_RAW_INPUT_CONTENTS):
            raw.append(view[position:end])
            rest.append(view[kept:start])
            kept = end
        position = end
    rest.append(view[kept:])
    return InferRequest(ModelInferRequest.FromString(b"".join(rest)), raw)


def serialize_answer(answer: InferAnswer) -> bytes:
    """The bytes of a ``ModelInferResponse``."""
    return b"".join(_parts(answer))


def serialize_streamed(answer: InferAnswer) -> bytes:
    """The bytes of a ``ModelStreamInferResponse`` with ``answer`` in it."""
    parts = _parts(answer)
    length = sum(len(part) for part in parts)
    return b"".join([_encoded(_tag(_STREAMED_ANSWER)), _encoded(length), *parts])


def serialize_stream_error(request_id: str, error: str) -> bytes:
    """The bytes of a ``ModelStreamInferResponse`` that says why the request ``request_id`` was not answered."""
    data: bytes = ModelStreamInferResponse(
        error_message=error, infer_response=ModelInferResponse(id=request_id)
    ).SerializeToString()
    return data


def _parts(answer: InferAnswer) -> list[Buffer]:
    parts: list[Buffer] = [answer.message.SerializeToString()]
    for content in answer.raw:
        parts += (_encoded(_tag(_RAW_OUTPUT_CONTENTS)), _encoded(len(content)), content)
    return parts


def _tag(field_number: int) -> int:
    return field_number << 3 | _BYTES


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    for index in range(position, min(position + 10, len(data))):
        byte = data[index]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, index + 1
        shift += 7
    raise DecodeError("malformed varint")


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
