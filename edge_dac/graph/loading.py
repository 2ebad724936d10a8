"""Reading and writing model files.

A model file is untrusted: every way it can be wrong ends in a typed, one-line error.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final, TypeAlias

import onnx
from google.protobuf.message import DecodeError, EncodeError

from edge_dac.errors import ExternalDataError, ModelFormatError, ModelNotFoundError, ModelTooLargeError
from edge_dac.files import write_atomically
from edge_dac.graph.external_data import embed_external_data, external_tensors

StrPath: TypeAlias = str | os.PathLike[str]

PROTOBUF_LIMIT_BYTES: Final = 2**31 - 1
"""The largest message that protobuf can read or write."""

DEFAULT_MAX_BYTES: Final = PROTOBUF_LIMIT_BYTES


def load_model(path: StrPath, *, max_bytes: int = DEFAULT_MAX_BYTES, allow_external: bool = False) -> onnx.ModelProto:
    """Read an ONNX model; the result never refers to another file.

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
    model = _parse(path, content)
    tensors = external_tensors(model)
    if tensors and not allow_external:
        raise ExternalDataError(
            f"{path}: tensor {tensors[0].name!r} lies in another file; expected a self-contained model"
        )
    if tensors:
        embed_external_data(tensors, Path(path).parent, max_bytes - len(content))
        content = serialize(model, path)
    _check(path, content)
    return model


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


def serialize(model: onnx.ModelProto, subject: StrPath = "model") -> bytes:
    """The bytes of a model.

    Raises:
        ModelTooLargeError: over protobuf's limit of 2 GiB; the message starts with ``subject``.
    """
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelTooLargeError(f"{subject}: expected at most {PROTOBUF_LIMIT_BYTES} bytes, got more") from error


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


def _check(path: StrPath, content: bytes) -> None:
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, DecodeError, ValueError, UnicodeDecodeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ModelFormatError(f"{path}: not a valid ONNX model: {reason[:300]}") from error
