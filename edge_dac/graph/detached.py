"""A model whose large constants lie beside it, so that a session reads them in place instead of from copies of copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnxruntime

from edge_dac.graph.loading import serialize
from edge_dac.shared_constants import SHAREABLE_TYPES, SHARED_BYTES, shared_array

DETACHED_BYTES = 1 << 16
_PLACE = onnx.StringStringEntryProto(key="location", value="given to the session")


@dataclass(frozen=True, eq=False)
class DetachedModel:
    """What a session is opened from.

    Attributes:
        content: the serialized model without the large constants.
        constants: those, by name.
    """

    content: bytes
    constants: Mapping[str, npt.NDArray[Any]]

    @property
    def size_bytes(self) -> int:
        """About the size of the whole model, serialized."""
        return len(self.content) + sum(array.nbytes for array in self.constants.values())


def open_detached(model: DetachedModel, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session on the CPU that reads the constants where they are. ``options`` serve this session only."""
    if model.constants:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in model.constants.values()]
        # What is only given as external data ONNX Runtime 1.32 reads for its rewrites, and then copies.
        options.add_external_initializers(list(model.constants), values)
        for name, value in zip(model.constants, values, strict=True):
            if model.constants[name].nbytes >= SHARED_BYTES:
                options.add_initializer(name, value)
    session = onnxruntime.InferenceSession(model.content, options, providers=["CPUExecutionProvider"])
    session.constants = model.constants  # They must live as long as the session.
    return session


def detach(model: onnx.ModelProto) -> DetachedModel:
    """Take ``model`` apart; it is of no use afterwards.

    A model from bytes exists up to four times while a session is opened: as bytes, as ONNX Runtime's message, as its
    tensors, packed. With Winograd's kernels that is a gigabyte for VGG16.

    Raises:
        ModelTooLargeError: the rest is over protobuf's limit of 2 GiB.
    """
    constants: dict[str, npt.NDArray[Any]] = {}
    for tensor in model.graph.initializer:
        shared = shared_array(tensor)
        if shared is not None:
            constants[tensor.name] = shared
            continue
        if tensor.data_type not in SHAREABLE_TYPES or len(tensor.raw_data) < DETACHED_BYTES:
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        constants[tensor.name] = np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.append(_PLACE)
    return DetachedModel(serialize(model), constants)
