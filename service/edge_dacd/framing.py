"""Inference requests and answers on the wire, without a copy of the tensors.

A request's ``raw_input_contents`` are nearly all of its bytes. Parsing it as one message would copy them; here they
become views of the received bytes, and only the rest is parsed. That rest, but for its id, is the same in all requests of
one client: the last few are kept. An answer is joined once from its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError

from edge_dac import wire
from edge_dacd.tensors import Buffer

_ID, _RAW_INPUT_CONTENTS = 3, 7
_RAW_OUTPUT_CONTENTS = 6
_STREAMED_ANSWER = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_HEADS_KEPT = 64
_LARGEST_KEPT_BYTES = 2048

ModelInferRequest = wire.message("inference.ModelInferRequest")
ModelInferResponse = wire.message("inference.ModelInferResponse")
ModelStreamInferResponse = wire.message("inference.ModelStreamInferResponse")


class RequestHead:
    """A ``ModelInferRequest`` without its id and raw contents. It may be shared by many requests: change nothing in it.

    Attributes:
        plan: what has been made of it, for the next request with the same head; None at first.
    """

    __slots__ = ("message", "plan")

    def __init__(self, data: bytes) -> None:
        self.message = ModelInferRequest.FromString(data)
        self.plan: Any = None


@dataclass(slots=True)
class InferRequest:
    """A ``ModelInferRequest``: its head, its id, and its raw contents as views in their order."""

    head: RequestHead
    id: str
    raw: list[Buffer]


class AnswerFrame:
    """The bytes around the contents of an answer; they are the same in all answers of one kind.

    Args:
        message: a ``ModelInferResponse`` without id and raw contents.
        sizes: bytes of each raw content.
    """

    __slots__ = ("_head", "_prefixes")

    def __init__(self, message: Any, sizes: Sequence[int]) -> None:
        self._head: bytes = message.SerializeToString()
        self._prefixes = [_prefix(_RAW_OUTPUT_CONTENTS, size) for size in sizes]

    def fill(self, request_id: str, contents: Sequence[Buffer]) -> list[Buffer]:
        """The parts of the answer with these ``contents``."""
        parts: list[Buffer] = [self._head]
        if request_id:
            encoded = request_id.encode()
            parts += (_prefix(_ID, len(encoded)), encoded)
        for prefix, content in zip(self._prefixes, contents, strict=True):
            parts += (prefix, content)
        return parts


def parse_request(data: bytes) -> InferRequest:
    """Split and parse a ``ModelInferRequest``.

    Raises:
        DecodeError: ``data`` is not one.
    """
    view = memoryview(data)
    raw: list[Buffer] = []
    rest: list[Buffer] = []
    request_id: Buffer = b""
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
        if tag in _KEPT_APART:
            rest.append(view[kept:start])
            kept = end
            if tag == _KEPT_APART[0]:
                raw.append(view[position:end])
            else:
                request_id = view[position:end]
        position = end
    rest.append(view[kept:])
    head = b"".join(rest)
    known = _head_of(head) if len(head) <= _LARGEST_KEPT_BYTES else RequestHead(head)
    return InferRequest(known, _text(request_id), raw)


def serialize_answer(parts: Sequence[Buffer]) -> bytes:
    """The bytes of a ``ModelInferResponse``."""
    return b"".join(parts)


def serialize_streamed(parts: Sequence[Buffer]) -> bytes:
    """The bytes of a ``ModelStreamInferResponse`` with the answer in it, which is the only one to its request."""
    length = len(_FINAL) + sum(len(part) for part in parts)
    return b"".join([_prefix(_STREAMED_ANSWER, length), *parts, _FINAL])


def serialize_stream_error(request_id: str, error: str) -> bytes:
    """The bytes of a ``ModelStreamInferResponse`` that says why the request ``request_id`` was not answered."""
    data: bytes = ModelStreamInferResponse(
        error_message=error, infer_response=ModelInferResponse(id=request_id)
    ).SerializeToString()
    return data


def _final() -> bytes:
    """What Triton marks the last answer to a streamed request with."""
    message = ModelInferResponse()
    message.parameters["triton_final_response"].bool_param = True
    data: bytes = message.SerializeToString()
    return data


def _text(data: Buffer) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise DecodeError("a text that is not UTF-8") from None


def _tag(field_number: int) -> int:
    return field_number << 3 | _BYTES


def _prefix(field_number: int, length: int) -> bytes:
    return _encoded(_tag(field_number)) + _encoded(length)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
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


_KEPT_APART = (_tag(_RAW_INPUT_CONTENTS), _tag(_ID))
_FINAL = _final()
_head_of = lru_cache(_HEADS_KEPT)(RequestHead)
