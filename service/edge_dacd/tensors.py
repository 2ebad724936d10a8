"""Tensors between the wire and numpy: datatypes of the protocol, specs of a model, decoding and encoding.

Decoding checks everything before a run: an array that leaves this module has the datatype, rank, extents and byte count
that the model's spec asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_dacd.status import invalid

Array: TypeAlias = npt.NDArray[Any]
Buffer: TypeAlias = bytes | memoryview
LARGEST_ELEMENT_COUNT = 1 << 40


@dataclass(frozen=True, slots=True)
class DataType:
    """One datatype: its names on the wire and in ONNX Runtime, its numpy type, its field of typed contents."""

    name: str
    onnx: str
    numpy: np.dtype[Any]
    contents: str | None
    """Field of ``InferTensorContents``; None where the protocol has none (FP16)."""

    @property
    def config_name(self) -> str:
        """Name in Triton's model configuration."""
        return "TYPE_STRING" if self.name == "BYTES" else f"TYPE_{self.name}"


_TYPES = (
    DataType("BOOL", "tensor(bool)", np.dtype(np.bool_), "bool_contents"),
    DataType("UINT8", "tensor(uint8)", np.dtype(np.uint8), "uint_contents"),
    DataType("UINT16", "tensor(uint16)", np.dtype(np.uint16), "uint_contents"),
    DataType("UINT32", "tensor(uint32)", np.dtype(np.uint32), "uint_contents"),
    DataType("UINT64", "tensor(uint64)", np.dtype(np.uint64), "uint64_contents"),
    DataType("INT8", "tensor(int8)", np.dtype(np.int8), "int_contents"),
    DataType("INT16", "tensor(int16)", np.dtype(np.int16), "int_contents"),
    DataType("INT32", "tensor(int32)", np.dtype(np.int32), "int_contents"),
    DataType("INT64", "tensor(int64)", np.dtype(np.int64), "int64_contents"),
    DataType("FP16", "tensor(float16)", np.dtype(np.float16), None),
    DataType("FP32", "tensor(float)", np.dtype(np.float32), "fp32_contents"),
    DataType("FP64", "tensor(double)", np.dtype(np.float64), "fp64_contents"),
    DataType("BYTES", "tensor(string)", np.dtype(np.object_), "bytes_contents"),
)
BY_NAME = {datatype.name: datatype for datatype in _TYPES}
BY_ONNX = {datatype.onnx: datatype for datatype in _TYPES}
BY_NUMPY = {datatype.numpy: datatype for datatype in _TYPES}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model. ``shape`` has -1 where an extent is free.

    ONNX Runtime does not tell a tensor of unknown rank from a scalar; both are ``()`` here, and taken as a scalar.
    """

    name: str
    datatype: DataType
    shape: tuple[int, ...]

    def check(self, shape: Sequence[int], what: str) -> None:
        """Refuse a ``shape`` that the model cannot take; ``what`` names the tensor in the message.

        Raises:
            RequestError: INVALID_ARGUMENT with what was expected and what came.
        """
        if shape == self.shape and -1 not in shape:  # the usual case: nothing is free, and all is as it should be
            return
        if any(extent < 0 for extent in shape):
            raise invalid(f"{what}: expected extents of at least 0, got shape {list(shape)}")
        if math.prod(shape) > LARGEST_ELEMENT_COUNT:
            raise invalid(f"{what}: expected at most {LARGEST_ELEMENT_COUNT} elements, got shape {list(shape)}")
        fits = len(shape) == len(self.shape) and all(
            expected in (-1, got) for expected, got in zip(self.shape, shape, strict=True)
        )
        if not fits:
            raise invalid(f"{what}: expected shape {list(self.shape)} (-1 is free), got {list(shape)}")

    def example_shape(self, free_extent: int) -> tuple[int, ...]:
        """A shape to try: ``free_extent`` for every free extent but the first one of all, which is mostly the batch."""
        return tuple(
            extent if extent != -1 else 1 if axis == 0 else free_extent for axis, extent in enumerate(self.shape)
        )


def decode_raw(datatype: DataType, shape: Sequence[int], data: Buffer, what: str) -> Array:
    """The array in ``data`` (little-endian, row-major), without a copy where the datatype allows it.

    BYTES elements stand one after the other, each behind its length as four little-endian bytes.

    Raises:
        RequestError: INVALID_ARGUMENT where the byte count does not fit ``shape``.
    """
    if datatype.name == "BYTES":
        return _decode_strings(shape, data, what)
    expected = math.prod(shape) * datatype.numpy.itemsize
    if len(data) != expected:
        raise invalid(f"{what}: expected {expected} bytes for {datatype.name} {list(shape)}, got {len(data)}")
    return np.frombuffer(data, dtype=datatype.numpy).reshape(tuple(shape))


def _decode_strings(shape: Sequence[int], data: Buffer, what: str) -> Array:
    count = math.prod(shape)
    if len(data) < 4 * count:
        raise invalid(f"{what}: expected at least {4 * count} bytes for {count} BYTES elements, got {len(data)}")
    result = np.empty(count, dtype=np.object_)
    position = 0
    for index in range(count):
        if position + 4 > len(data):
            raise invalid(f"{what}: expected {count} BYTES elements, got {index} before the data ended")
        length = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if position + length > len(data):
            raise invalid(
                f"{what}: BYTES element {index} says {length} bytes, but only {len(data) - position} are left"
            )
        result[index] = _text(bytes(data[position : position + length]), index, what)
        position += length
    if position != len(data):
        raise invalid(f"{what}: expected {count} BYTES elements, got {len(data) - position} bytes more")
    return result.reshape(tuple(shape))


def _text(element: bytes, index: int, what: str) -> str:
    # ONNX strings are UTF-8, and ONNX Runtime cuts a string at its first zero byte.
    try:
        text = element.decode()
    except UnicodeDecodeError:
        raise invalid(f"{what}: BYTES element {index}: expected UTF-8 text, got other bytes") from None
    if "\0" in text:
        raise invalid(f"{what}: BYTES element {index}: expected text without zero bytes, got one")
    return text


def decode_contents(datatype: DataType, shape: Sequence[int], contents: Any, what: str) -> Array:
    """The array in a typed ``InferTensorContents``.

    Raises:
        RequestError: INVALID_ARGUMENT where another field is filled, or the count or a value does not fit.
    """
    filled = [field.name for field, _ in contents.ListFields()]
    if datatype.contents is None:
        raise invalid(f"{what}: {datatype.name} has no typed contents; send raw_input_contents")
    if any(name != datatype.contents for name in filled):
        raise invalid(f"{what}: expected {datatype.contents} for {datatype.name}, got {', '.join(filled)}")
    values = getattr(contents, datatype.contents)
    expected = math.prod(shape)
    if len(values) != expected:
        raise invalid(f"{what}: expected {expected} elements for shape {list(shape)}, got {len(values)}")
    if datatype.name == "BYTES":
        result = np.empty(expected, dtype=np.object_)
        result[:] = [_text(element, index, what) for index, element in enumerate(values)]
        return result.reshape(tuple(shape))
    wide = np.array(values, dtype=_WIDE.get(datatype.contents, datatype.numpy))
    array = wide.astype(datatype.numpy)
    if datatype.numpy.kind in "iu" and not np.array_equal(wide, array):
        raise invalid(f"{what}: expected values in the range of {datatype.name}, got one outside")
    return array.reshape(tuple(shape))


_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}


def encode_raw(array: Array) -> Buffer:
    """The bytes of ``array`` as they stand on the wire; a view of its memory where that is possible."""
    if array.dtype == np.object_:
        parts: list[bytes] = []
        for element in array.ravel():
            data = element if isinstance(element, bytes) else str(element).encode()
            parts += (len(data).to_bytes(4, "little"), data)
        return b"".join(parts)
    if array.size == 0:
        return b""
    # A view as bytes, because a memoryview of float16 or of a scalar cannot be cast.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
