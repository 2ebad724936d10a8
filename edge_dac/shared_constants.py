"""Large constants that lie once in memory, beside all the models that hold them.

A model is copied many times while a plan is sought: to be rewritten, for sessions, to be written. A tensor of such a copy
can refer to an array instead of holding its numbers. It is marked as ONNX marks data outside the file, with a place that
means something to this process only; what leaves the process is made whole again. References do not keep an array alive:
whoever registers it holds it for as long as models refer to it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, BinaryIO, Final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]

SHARED_BYTES: Final = 1 << 20
"""Smaller constants are copied: that takes less than to keep books about them."""

SHAREABLE_TYPES: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)
_PREFIX: Final = "in the memory of this process, "

_arrays: WeakValueDictionary[str, Array] = WeakValueDictionary()
_places: dict[tuple[int, tuple[int, ...], str], str] = {}
_numbers = itertools.count()


def register(array: Array) -> bool:
    """Let tensors refer to ``array``, which must not change; False where it is small or not stored in one piece."""
    if array.nbytes < SHARED_BYTES or not array.flags.c_contiguous or place_of(array) is not None:
        return False
    place = f"{_PREFIX}{next(_numbers)}"
    _arrays[place] = array
    for key in [key for key, old in _places.items() if old not in _arrays]:
        del _places[key]
    _places[_key(array)] = place
    return True


def place_of(array: Array) -> str | None:
    """Where a registered array that lies in the same memory is to be found."""
    place = _places.get(_key(array)) if array.flags.c_contiguous else None
    return place if place in _arrays else None


def shared_array(tensor: onnx.TensorProto) -> Array | None:
    """What ``tensor`` refers to; None where it holds its numbers itself."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL or len(tensor.external_data) != 1:
        return None
    place = tensor.external_data[0].value
    return _arrays.get(place) if place.startswith(_PREFIX) else None


def shared_arrays(model: onnx.ModelProto) -> list[Array]:
    """All that the initializers of the main graph refer to."""
    found = (shared_array(tensor) for tensor in model.graph.initializer)
    return [array for array in found if array is not None]


def make_tensor(array: Array, name: str) -> onnx.TensorProto:
    """A tensor that refers to ``array`` where it is registered, else holds a copy."""
    place = place_of(array) if array.nbytes >= SHARED_BYTES else None
    if place is None:
        return numpy_helper.from_array(array, name)
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    _refer(tensor, place)
    return tensor


def share(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Array]]:
    """``model``, which is of no use afterwards, with its large constants beside it, and those.

    Constants inside ``If``, ``Loop`` and ``Scan``, and those that do not fit their shape, stay where they are.
    """
    arrays: list[Array] = []
    for tensor in model.graph.initializer:
        array = _held_raw(tensor)
        if array is None or not register(array):
            continue
        arrays.append(array)
        tensor.ClearField("raw_data")
        _refer(tensor, _places[_key(array)])
    if not arrays:
        return model, []
    # Protobuf gives the memory of a cleared field back with the whole message only.
    light = onnx.ModelProto()
    light.ParseFromString(model.SerializeToString())
    return light, arrays


def read_beside(file: BinaryIO, offset: int, length: int, tensor: onnx.TensorProto) -> Array | None:
    """Read the numbers of ``tensor``, which has none, into an array that it refers to; None where they do not fit it."""
    dtype = _shareable_type(tensor)
    if dtype is None or _size_bytes(tensor, dtype) != length:
        return None
    array = np.empty(tuple(tensor.dims), dtype)
    file.seek(offset)
    if file.readinto(array.data.cast("B")) != length or not register(array):  # type: ignore[attr-defined]
        return None
    tensor.ClearField("raw_data")
    _refer(tensor, _places[_key(array)])
    return array


def whole_head(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """All of a whole tensor but its numbers."""
    head = onnx.TensorProto()
    head.CopyFrom(tensor)
    head.ClearField("external_data")
    head.ClearField("data_location")
    return head


def made_whole(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """``tensor`` with its numbers in it."""
    array = shared_array(tensor)
    if array is None:
        return tensor
    whole = whole_head(tensor)
    whole.raw_data = array.tobytes()
    return whole


def _held_raw(tensor: onnx.TensorProto) -> Array | None:
    dtype = _shareable_type(tensor)
    if dtype is None or not tensor.HasField("raw_data") or _size_bytes(tensor, dtype) < SHARED_BYTES:
        return None
    raw = tensor.raw_data
    fits = len(raw) == _size_bytes(tensor, dtype)
    return np.frombuffer(raw, dtype).reshape(tuple(tensor.dims)) if fits else None


def _shareable_type(tensor: onnx.TensorProto) -> np.dtype[Any] | None:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type) if tensor.data_type in SHAREABLE_TYPES else None


def _size_bytes(tensor: onnx.TensorProto, dtype: np.dtype[Any]) -> int:
    return -1 if min(tensor.dims, default=0) < 0 else math.prod(tensor.dims) * dtype.itemsize


def _refer(tensor: onnx.TensorProto, place: str) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=place))


def _key(array: Array) -> tuple[int, tuple[int, ...], str]:
    return array.ctypes.data, array.shape, array.dtype.str
