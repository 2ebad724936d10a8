"""A serialized model taken apart without being parsed: its large constants, and the rest.

Parsed as a whole, a model exists three times at its largest constant: in the file's bytes, in protobuf's memory, in arrays.
Field numbers and wire types are those of protobuf's encoding (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import onnx

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


class WireFormatError(Exception):
    """Control flow inside this room: not protobuf's encoding, or cut off. Never leaves :mod:`edge_dac.graph`."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A model in parts.

    Attributes:
        rest: the serialized model; the ``raw_data`` of the large constants is empty.
        places: where those are in the file, first byte and number of bytes, by the index of the initializer.
    """

    rest: bytes
    places: dict[int, tuple[int, int]]


def take_apart(file: BinaryIO, size_bytes: int, least_bytes: int) -> Apart:
    """Separate the ``raw_data`` of at least ``least_bytes`` of the main graph's initializers from all the rest.

    Raises:
        WireFormatError: not a serialized message.
    """
    places: dict[int, tuple[int, int]] = {}
    rest = bytearray()
    count = 0
    for field in _fields(file, 0, size_bytes):
        if not field.holds(GRAPH):
            rest += _read(file, field.begin, field.end)
            continue
        graph = bytearray()
        for inner in _fields(file, field.value, field.end):
            raw = None
            if inner.holds(INITIALIZER):
                raw = _large_raw_data(file, inner, least_bytes)
                if raw is not None:
                    places[count] = (raw.value, raw.end - raw.value)
                count += 1
            graph += _read(file, inner.begin, inner.end) if raw is None else _emptied(file, inner, raw)
        rest += head_of(GRAPH, len(graph)) + graph
    return Apart(bytes(rest), places)


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire_type: int
    begin: int
    value: int
    """Where it begins after tag and length."""
    end: int

    def holds(self, number: int) -> bool:
        return self.number == number and self.wire_type == _BYTES


def _large_raw_data(file: BinaryIO, tensor: _Field, least_bytes: int) -> _Field | None:
    """None where it is not large, or there are several."""
    if tensor.end - tensor.value < least_bytes:
        return None
    found = [field for field in _fields(file, tensor.value, tensor.end) if field.number == RAW_DATA]
    is_one = len(found) == 1 and found[0].holds(RAW_DATA) and found[0].end - found[0].value >= least_bytes
    return found[0] if is_one else None


def _emptied(file: BinaryIO, tensor: _Field, raw: _Field) -> bytes:
    content = _read(file, tensor.value, raw.begin) + head_of(RAW_DATA, 0) + _read(file, raw.end, tensor.end)
    return head_of(INITIALIZER, len(content)) + content


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[_Field]:
    while begin < end:
        head = _read(file, begin, min(begin + 20, end))
        tag, used = _varint_in(head, 0)
        value, wire_type = begin + used, tag & 7
        if wire_type == _BYTES:
            size, used = _varint_in(head, used)
            value = begin + used
        elif wire_type == _VARINT:
            size = _varint_in(head, used)[1] - used
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise WireFormatError(f"wire type {wire_type}")
        if value + size > end:
            raise WireFormatError("cut off")
        yield _Field(tag >> 3, wire_type, begin, value, value + size)
        begin = value + size


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    content = file.read(end - begin)
    if len(content) != end - begin:
        raise WireFormatError("cut off")
    return content


def _varint_in(content: bytes, position: int) -> tuple[int, int]:
    """The number and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise WireFormatError("cut off")
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise WireFormatError("a number of more than 10 bytes")


def varint(number: int) -> bytes:
    """Base 128, least significant group first, as protobuf writes lengths."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def head_of(number: int, size: int) -> bytes:
    """What stands before a field of ``size`` bytes: its tag and length."""
    return varint(number << 3 | _BYTES) + varint(size)
