"""Reading and writing model files.

A model file is untrusted: every way it can be wrong ends in a typed, one-line error.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError, EncodeError, Message

from edge_dac.errors import ExternalDataError, ModelFormatError, ModelNotFoundError, ModelTooLargeError
from edge_dac.files import write_atomically
from edge_dac.graph.external_data import embed_external_data, external_tensors
from edge_dac.graph.ordering import sort_nodes
from edge_dac.graph.wire_format import GRAPH, INITIALIZER, RAW_DATA, WireFormatError, head_of, take_apart
from edge_dac.shared_constants import SHARED_BYTES, read_beside, share, shared_array, whole_head

StrPath: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = npt.NDArray[Any]

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


def load_shared(
    path: StrPath, *, max_bytes: int = DEFAULT_MAX_BYTES, allow_external: bool = False
) -> tuple[onnx.ModelProto, list[Array]]:
    """:func:`load_model`, with the large constants beside the model, and those: once in memory instead of three times.

    Raises:
        RefusedError: as :func:`load_model`.
    """
    found = _read_apart(path, max_bytes)
    if found is None:  # small, stored in another way, or wrong, which is said there
        return share(load_model(path, max_bytes=max_bytes, allow_external=allow_external))
    return found


def _read_apart(path: StrPath, max_bytes: int) -> tuple[onnx.ModelProto, list[Array]] | None:
    with open(_open_regular(path), "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if not SHARED_BYTES <= size_bytes <= max_bytes:
            return None
        try:
            parts = take_apart(file, size_bytes, SHARED_BYTES)
            model = _parse(path, parts.rest)
        except (WireFormatError, ModelFormatError):
            return None
        if _reason_to_reject(_without_large(model, parts.places)) or external_tensors(model):
            return None
        arrays: list[Array] = []
        for index, (offset, length) in parts.places.items():
            array = read_beside(file, offset, length, model.graph.initializer[index])
            if array is None:
                return None
            arrays.append(array)
    return model, arrays


def _without_large(model: onnx.ModelProto, places: Collection[int]) -> bytes:
    """For the checker, which knows no tensors that lie beside: with no elements in their place."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index in places:
        tensor = copy.graph.initializer[index]
        tensor.ClearField("raw_data")
        tensor.dims[:] = [0]
    return serialize(copy)


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

    Protobuf's encoder takes up to three times the size of what it writes; here it writes one constant at a time, and shared
    ones from where they are. A field of a message may stand anywhere in it, so the constants come last.

    Raises:
        ModelTooLargeError: over protobuf's limit of 2 GiB; the message starts with ``subject``.
    """
    constants = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    graph = serialize(model.graph, subject)
    model.ClearField("graph")
    content = io.BytesIO()
    content.write(serialize(model, subject))
    prefixes = [_prefix(tensor, subject) for tensor in constants]
    size_bytes = len(graph) + sum(len(prefix) + _held_bytes(t) for prefix, t in zip(prefixes, constants, strict=True))
    if content.tell() + size_bytes > PROTOBUF_LIMIT_BYTES - 16:
        raise ModelTooLargeError(f"{subject}: expected at most {PROTOBUF_LIMIT_BYTES} bytes, got more")
    content.write(head_of(GRAPH, size_bytes) + graph)
    for prefix, tensor in zip(prefixes, constants, strict=True):
        content.write(prefix)
        shared = shared_array(tensor)
        content.write(serialize(tensor, subject) if shared is None else shared.data)
    return content.getvalue()


def _prefix(tensor: onnx.TensorProto, subject: StrPath) -> bytes:
    """What stands before the bytes of a constant: of its message, or of the array that it shares."""
    shared = shared_array(tensor)
    if shared is None:
        return head_of(INITIALIZER, tensor.ByteSize())
    head = serialize(whole_head(tensor), subject) + head_of(RAW_DATA, shared.nbytes)
    return head_of(INITIALIZER, len(head) + shared.nbytes) + head


def _held_bytes(tensor: onnx.TensorProto) -> int:
    shared = shared_array(tensor)
    return tensor.ByteSize() if shared is None else shared.nbytes


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
