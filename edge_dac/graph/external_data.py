"""Tensor data outside the model file: finding it anywhere in a model, and reading it under strict rules.

A location is accepted only if it is a relative path of plain names below the model's folder, no part of it is a
symbolic link, and it ends at a regular file with a single name (a second hard link could be a secret of someone else).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import helper

from edge_dac.errors import ExternalDataError, ModelTooLargeError

_BITS_OF_SMALL_TYPES: Final = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every tensor that names another file: initializers, sparse ones, attributes, subgraphs, functions, training."""
    return [
        tensor
        for tensor in _tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
    ]


def embed_external_data(tensors: Sequence[onnx.TensorProto], folder: Path, max_bytes: int) -> None:
    """Read the data of ``tensors`` from below ``folder`` into the tensors themselves.

    Raises:
        ExternalDataError: a location that is not allowed, a missing file, or a range that does not fit file or tensor.
        ModelTooLargeError: together more than ``max_bytes``.
    """
    remaining = max_bytes
    for tensor in tensors:
        expected = _size_bytes(tensor)
        remaining -= expected
        if remaining < 0:
            raise ModelTooLargeError(f"tensor {tensor.name!r}: with its external data the model is over the size limit")
        tensor.raw_data = _read_range(tensor, folder, expected)
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All tensors in a message, whatever field holds them, so that no place can be forgotten."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in (value,) if isinstance(value, Message) else value:
                yield from _tensors(child)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    """Size of the tensor's data in its file; elements of less than a byte are packed."""
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    except ValueError as error:
        raise ExternalDataError(f"tensor {tensor.name!r}: unknown element type {tensor.data_type}") from error
    if kind in ("UNDEFINED", "STRING"):
        raise ExternalDataError(f"tensor {tensor.name!r}: elements of type {kind} cannot lie in another file")
    count = 1
    for extent in tensor.dims:
        if extent < 0:
            raise ExternalDataError(f"tensor {tensor.name!r}: expected a shape, got a negative extent {extent}")
        count *= extent
    bits = _BITS_OF_SMALL_TYPES.get(kind) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(count * bits + 7) // 8


def _read_range(tensor: onnx.TensorProto, folder: Path, expected: int) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    subject = f"tensor {tensor.name!r} in {location!r}"
    offset = _parse_count(subject, "offset", entries.get("offset", "0"))
    length = _parse_count(subject, "length", entries.get("length", str(expected)))
    if length != expected:
        raise ExternalDataError(f"{subject}: expected {expected} bytes for its shape and type, got length {length}")
    with open(_open_below(subject, folder, location), "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if offset + length > size_bytes:
            raise ExternalDataError(
                f"{subject}: bytes {offset} to {offset + length} lie outside its {size_bytes} bytes"
            )
        file.seek(offset)
        content = file.read(length)
    if len(content) != length:
        raise ExternalDataError(f"{subject}: the file shrank while it was read")
    return content


def _parse_count(subject: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ExternalDataError(f"{subject}: expected a byte count as {key}, got {text[:40]!r}")
    return int(text)


def _open_below(subject: str, folder: Path, location: str) -> int:
    """Open a file below ``folder`` one name at a time, so that no link can lead out of it, also not by a race."""
    parts = location.split("/")
    if "\0" in location or any(part in ("", ".", "..") for part in parts):
        raise ExternalDataError(f"{subject}: expected a relative path below the model's folder, without '.' and '..'")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        current = os.open(folder, flags | os.O_DIRECTORY)
        for part in parts[:-1]:
            current = _step(current, part, flags | os.O_NOFOLLOW | os.O_DIRECTORY)
        current = _step(current, parts[-1], flags | os.O_NOFOLLOW)
    except OSError as error:
        raise ExternalDataError(f"{subject}: cannot open it as a plain file: {error.strerror}") from error
    status = os.fstat(current)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(current)
        raise ExternalDataError(f"{subject}: expected a regular file with a single name")
    return current


def _step(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)
