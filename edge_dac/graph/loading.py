"""Reading and writing model files.

A model file is untrusted: every way it can be wrong ends in a typed, one-line error.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import Final, TypeAlias

import onnx
from google.protobuf.message import DecodeError, EncodeError, Message

from edge_dac.errors import ExternalDataError, ModelFormatError, ModelNotFoundError, ModelTooLargeError
from edge_dac.files import write_atomically
from edge_dac.graph.external_data import embed_external_data, external_tensors
from edge_dac.graph.ordering import sort_nodes

StrPath: TypeAlias = str | os.PathLike[str]

PROTOBUF_LIMIT_BYTES: Final = 2**31 - 1
"""The largest message that protobuf can read or write."""

DEFAULT_MAX_BYTES: Final = PROTOBUF_LIMIT_BYTES


def load_model(path: StrPath, *, max_bytes: int = DEFAULT_MAX_BYTES, allow_external: bool = False) -> onnx.ModelProto:
    """Read an ONNX model; the result never refers to another file, and its nodes are in order.

    Args:
        path: a regular file.
        max_bytes: largest size of the file, external tensor data included.
        allow_external: read tensor data from files beside the model, see :mod:`edge_dac.graph.external_data`.

    Raises:
        ModelNotFoundError: no such file, not a regular file, or not readable.
        ModelTooLargeError: larger than ``max_bytes``.
        ModelFormatError: not ONNX, truncated, nested too deeply, or rejected by the ONNX checker.
        ExternalDataError: external tensor data that is not allowed or not where and what it must be.
    """
    content = _read(path, max_bytes)
    wrong = _reason_to_reject(content)  # The checker's own copy of the model is gone before ours is made.
    model = _parse(path, content)
    tensors = external_tensors(model)
    if tensors and not allow_external:
        raise ExternalDataError(
            f"{path}: tensor {tensors[0].name!r} lies in another file; expected a self-contained model, "
            "or --allow-external"
        )
    if tensors:
        embed_external_data(tensors, Path(path).parent, max_bytes - len(content))
        wrong = _reason_to_reject(serialize(model, path))
    if wrong and sort_nodes(model):
        wrong = _reason_to_reject(serialize(model, path))
    if wrong:
        raise ModelFormatError(f"{path}: not a valid ONNX model: {wrong}")
    return model


def self_contained(path: StrPath, allow_external: bool) -> bytes:
    """The file as it is; where tensor data lie beside it, and may, the model with them in it.

    Raises:
        RefusedError: as :func:`load_model`.
    """
    content = _read(path, DEFAULT_MAX_BYTES)
    if allow_external and external_tensors(_parse(path, content)):
        return serialize_and_discard(load_model(path, allow_external=True), path)
    return content


def model_digest(path: StrPath) -> str:
    """The sha256 of the file's bytes, in hex.

    Raises:
        ModelNotFoundError: no such file, not a regular file, or not readable.
    """
    with open(_open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_model(model: onnx.ModelProto, path: StrPath) -> None:
    """Write a model so that ``path`` holds either what it held before or the whole model, also after a power cut.

    Raises:
        ModelTooLargeError: over protobuf's limit of 2 GiB.
        UsageError: the folder is missing, not writable or full.
    """
    write_atomically(Path(path), serialize(model, path))


def serialize(model: Message, subject: StrPath = "model") -> bytes:
    """The bytes of a model or a part of one.

    Raises:
        ModelTooLargeError: over protobuf's limit of 2 GiB; the message starts with ``subject``.
    """
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelTooLargeError(f"{subject}: expected at most {PROTOBUF_LIMIT_BYTES} bytes, got more") from error


def serialize_and_discard(model: onnx.ModelProto, subject: StrPath = "model") -> bytes:
    """:func:`serialize`, of a model that is of no use afterwards, in a third of the memory.

    Protobuf's encoder takes up to three times the size of what it writes; here it writes one constant at a time. A field of
    a message may stand anywhere in it, so the constants come last.

    Raises:
        ModelTooLargeError: over protobuf's limit of 2 GiB; the message starts with ``subject``.
    """
    constants = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    graph = serialize(model.graph, subject)
    model.ClearField("graph")
    content = io.BytesIO()
    content.write(serialize(model, subject))
    heads = [_INITIALIZER + _varint(tensor.ByteSize()) for tensor in constants]
    size_bytes = len(graph) + sum(len(head) + tensor.ByteSize() for head, tensor in zip(heads, constants, strict=True))
    if content.tell() + size_bytes > PROTOBUF_LIMIT_BYTES - 16:
        raise ModelTooLargeError(f"{subject}: expected at most {PROTOBUF_LIMIT_BYTES} bytes, got more")
    content.write(_GRAPH + _varint(size_bytes) + graph)
    for head, tensor in zip(heads, constants, strict=True):
        content.write(head)
        content.write(serialize(tensor, subject))
    return content.getvalue()


def _varint(number: int) -> bytes:
    """Base 128, least significant group first, as protobuf writes lengths."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def _tag(message: type[Message], field: str) -> bytes:
    """What stands before the length of a field that is itself a message."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


_GRAPH, _INITIALIZER = _tag(onnx.ModelProto, "graph"), _tag(onnx.GraphProto, "initializer")


def _open_regular(path: StrPath) -> int:
    """Open a regular file for reading. Never blocks: a fifo without a writer would."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ModelNotFoundError(f"{path}: cannot open the model file: {error.strerror}") from error
    except ValueError as error:  # a path with a null byte
        raise ModelNotFoundError(f"{str(path)!r}: not a path") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelNotFoundError(f"{path}: expected a regular file")
    return descriptor


def _read(path: StrPath, max_bytes: int) -> bytes:
    with open(_open_regular(path), "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > max_bytes:
            raise ModelTooLargeError(f"{path}: expected at most {max_bytes} bytes, got {size_bytes}")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ModelTooLargeError(f"{path}: grew over {max_bytes} bytes while it was read")
    return content


def _parse(path: StrPath, content: bytes) -> onnx.ModelProto:
    if not content:
        raise ModelFormatError(f"{path}: the file is empty; expected an ONNX model")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelFormatError(f"{path}: not an ONNX model, truncated, or nested too deeply") from error
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise ModelFormatError(f"{path}: not an ONNX model: no IR version, operator set or graph")
    return model


def _reason_to_reject(content: bytes) -> str:
    """One line; empty where the ONNX checker accepts the model."""
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, DecodeError, ValueError, UnicodeDecodeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        return reason[:300]
    return ""
