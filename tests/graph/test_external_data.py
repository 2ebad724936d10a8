"""External tensor data: found wherever it hides, and read only from plain files below the model's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.errors import ExternalDataError, ModelTooLargeError
from edge_dac.graph.external_data import external_tensors
from edge_dac.graph.loading import load_model, self_contained

VALUES = np.arange(6, dtype=np.float32)


def external(name: str = "w", location: str = "data.bin", **entries: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[6], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def plain_model() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = plain_model()
    model.graph.initializer.append(tensor)
    return model


def _in_sparse_initializer(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[100])
    sparse.values.CopyFrom(external())


def _in_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external()))


def _in_attribute_list(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Custom", [], ["c"], domain="custom", several=[external()]))


def _in_sparse_attribute(model: onnx.ModelProto) -> None:
    node = model.graph.node.add(op_type="Constant", output=["c"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(external())


def _in_subgraph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [external()])
    model.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner))


def _in_function(model: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external())
    model.functions.append(helper.make_function("custom", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)]))


def _in_function_default(model: onnx.ModelProto) -> None:
    function = helper.make_function("custom", "f", [], [], [], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("t", external()))
    model.functions.append(function)


def _in_training_graph(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.initializer.append(external())


@pytest.mark.parametrize(
    "hide",
    [
        _in_sparse_initializer,
        _in_attribute,
        _in_attribute_list,
        _in_sparse_attribute,
        _in_subgraph,
        _in_function,
        _in_function_default,
        _in_training_graph,
    ],
)
def test_external_data_is_found_everywhere(hide: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(VALUES.tobytes())
    model = plain_model()
    hide(model)
    with pytest.raises(ExternalDataError, match="self-contained"):
        load_model(write(model, tmp_path))


def test_external_data_without_its_mark_is_refused_too(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(VALUES, "w")
    tensor.external_data.add(key="location", value="data.bin")
    with pytest.raises(ExternalDataError):
        load_model(write(with_initializer(tensor), tmp_path))


def test_allowed_external_data_is_embedded(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "data.bin").write_bytes(b"1234" + VALUES.tobytes() + b"rest")
    path = write(with_initializer(external(location="weights/data.bin", offset="4", length="24")), tmp_path)
    tensor = load_model(path, allow_external=True).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), VALUES)
    assert tensor.data_location == TensorProto.DEFAULT
    assert not tensor.external_data


@pytest.mark.parametrize(
    "location", ["", "/etc/hostname", "../data.bin", "a/../data.bin", "./data.bin", "a//data.bin", "a\0b", "."]
)
def test_locations_that_could_lead_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(VALUES.tobytes())
    with pytest.raises(ExternalDataError, match="relative path"):
        load_model(write(with_initializer(external(location=location)), tmp_path), allow_external=True)


def _symlink(folder: Path, outside: Path) -> str:
    (folder / "data.bin").symlink_to(outside)
    return "data.bin"


def _symlinked_folder(folder: Path, outside: Path) -> str:
    (folder / "weights").symlink_to(outside.parent)
    return f"weights/{outside.name}"


def _hard_link(folder: Path, outside: Path) -> str:
    os.link(outside, folder / "data.bin")
    return "data.bin"


def _fifo(folder: Path, outside: Path) -> str:
    os.mkfifo(folder / "data.bin")
    return "data.bin"


def _folder(folder: Path, outside: Path) -> str:
    (folder / "data.bin").mkdir()
    return "data.bin"


def _missing(folder: Path, outside: Path) -> str:
    return "data.bin"


@pytest.mark.parametrize("make", [_symlink, _symlinked_folder, _hard_link, _fifo, _folder, _missing])
def test_what_is_not_a_plain_file_of_its_own_is_refused(make: Callable[[Path, Path], str], tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "secret.bin"
    outside.parent.mkdir()
    outside.write_bytes(VALUES.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    location = make(folder, outside)
    with pytest.raises(ExternalDataError, match="file") as error:
        load_model(write(with_initializer(external(location=location)), folder), allow_external=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "4"},
        {"offset": "-4"},
        {"offset": "99999999999999999999"},
        {"length": "20"},
        {"length": "28"},
        {"length": "all"},
        {"offset": "0x0"},
    ],
)
def test_ranges_that_do_not_fit_are_refused(entries: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(VALUES.tobytes())
    with pytest.raises(ExternalDataError, match=r"bytes|byte count"):
        load_model(write(with_initializer(external(**entries)), tmp_path), allow_external=True)


def test_a_shape_or_type_without_a_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(VALUES.tobytes())
    negative, text, unknown = external(), external(), external()
    negative.dims[0] = -6
    text.data_type = TensorProto.STRING
    unknown.data_type = 4711
    for tensor in (negative, text, unknown):
        with pytest.raises(ExternalDataError):
            load_model(write(with_initializer(tensor), tmp_path), allow_external=True)


def test_external_data_count_towards_the_size_limit(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(VALUES.tobytes())
    path = write(with_initializer(external()), tmp_path)
    load_model(path, allow_external=True, max_bytes=path.stat().st_size + 24)
    with pytest.raises(ModelTooLargeError):
        load_model(path, allow_external=True, max_bytes=path.stat().st_size + 23)


def test_a_model_is_handed_on_with_what_lay_beside_it(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32)
    (tmp_path / "data.bin").write_bytes(weight.tobytes())
    path = write(with_initializer(external()), tmp_path)
    assert self_contained(path, False) == path.read_bytes()
    model = onnx.load_model_from_string(self_contained(path, True))
    assert not external_tensors(model)
    assert numpy_helper.to_array(model.graph.initializer[0]).ravel().tolist() == weight.tolist()
    plain = write(plain_model(), tmp_path)
    assert self_contained(plain, True) == plain.read_bytes()
