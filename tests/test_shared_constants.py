"""Constants beside a model: the same numbers, once in memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.errors import RefusedError
from edge_dac.graph.loading import load_model, load_shared, save_model, serialize_and_discard
from edge_dac.graph.scopes import Scope, tensor_value
from edge_dac.shared_constants import (
    SHARED_BYTES,
    make_tensor,
    read_beside,
    register,
    share,
    shared_array,
    shared_arrays,
)

SIZE = 600  # a square of float32 is over the limit


def _model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "large"], ["h"]), helper.make_node("Add", ["h", "small"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, SIZE])],
        [numpy_helper.from_array(weight, "large"), numpy_helper.from_array(weight[0], "small")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_is_shared_is_written_whole() -> None:
    model = _model()
    model.graph.initializer[0].doc_string = "kept"
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    light, arrays = share(model)
    assert [array.shape for array in arrays] == [(SIZE, SIZE)]
    assert light.ByteSize() < SHARED_BYTES / 10
    assert shared_arrays(light)[0] is arrays[0]
    np.testing.assert_array_equal(
        tensor_value(light.graph.initializer[0]), numpy_helper.to_array(expected.graph.initializer[0])
    )
    read = onnx.ModelProto()
    read.ParseFromString(serialize_and_discard(light))
    assert read == expected


def test_a_file_is_read_apart_and_written_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(_model(), path)
    light, arrays = load_shared(path)
    assert light.ByteSize() < SHARED_BYTES / 10
    assert len(arrays) == 1
    assert arrays[0].flags.aligned
    read = onnx.ModelProto()
    read.ParseFromString(serialize_and_discard(light))
    assert read == load_model(path)


def test_constants_that_do_not_fit_their_shape_stay_inside() -> None:
    for dims in ([SIZE, SIZE + 1], [-SIZE, -SIZE], [2**40, 2**40]):
        model = _model()
        model.graph.initializer[0].dims[:] = dims
        light, arrays = share(model)
        assert light is model
        assert not arrays


def test_a_tensor_of_registered_memory_refers_to_it() -> None:
    array = np.zeros((SIZE, SIZE), np.float32)
    assert shared_array(make_tensor(array, "t")) is None
    assert register(array)
    for view in (array, array.T.T, array[:]):
        tensor = make_tensor(view, "t")
        assert shared_array(tensor) is array
        assert tuple(tensor.dims) == array.shape
    assert shared_array(make_tensor(array.T, "t")) is None
    assert shared_array(make_tensor(array[: SIZE - 1], "t")) is None  # another shape


def test_references_do_not_keep_an_array_alive() -> None:
    array = np.zeros((SIZE, SIZE), np.float32)
    register(array)
    tensor = make_tensor(array, "t")
    del array
    assert shared_array(tensor) is None


def test_small_and_scattered_arrays_are_copied() -> None:
    assert not register(np.zeros(10, np.float32))
    assert not register(np.zeros((SIZE, 2 * SIZE), np.float32)[:, ::2])


def test_a_file_cannot_name_a_place_in_memory(tmp_path: Path) -> None:
    array = np.zeros((SIZE, SIZE), np.float32)
    register(array)
    model = _model()
    model.graph.initializer[0].CopyFrom(make_tensor(array, "large"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RefusedError):
        load_shared(path)


def test_a_short_read_gives_nothing() -> None:
    tensor = numpy_helper.from_array(np.zeros((SIZE, SIZE), np.float32), "t")
    tensor.ClearField("raw_data")
    assert read_beside(io.BytesIO(b"\0" * 10), 0, 4 * SIZE * SIZE, tensor) is None


def test_inside_of_a_branch_constants_are_whole() -> None:
    array = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    register(array)
    inner, outer = onnx.GraphProto(), onnx.GraphProto()
    Scope(inner, 8, path=((0, "then_branch"),)).add_initializer(make_tensor(array, "t"))
    Scope(outer, 8).add_initializer(make_tensor(array, "t"))
    np.testing.assert_array_equal(numpy_helper.to_array(inner.initializer[0]), array)
    assert shared_array(outer.initializer[0]) is array
