"""Loading refuses what is not a plain, self-contained, valid model; saving is all or nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
import pytest
from architectures import build_cifar_vgg
from onnx import TensorProto, helper

from edge_dac.errors import ModelFormatError, ModelNotFoundError, ModelTooLargeError, UsageError
from edge_dac.graph.loading import load_model, model_digest, save_model, serialize_and_discard


@pytest.fixture
def model() -> onnx.ModelProto:
    return build_cifar_vgg(width=1 / 64)


@pytest.fixture
def saved(model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    save_model(model, path)
    return path


def assert_one_line_about(error: pytest.ExceptionInfo[Exception], path: Path) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message


def test_what_was_saved_is_loaded(model: onnx.ModelProto, saved: Path) -> None:
    assert load_model(saved) == model
    assert load_model(str(saved)) == model
    assert model_digest(saved) == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_parts_make_the_same_model(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="k", value="v")
    model.functions.add(name="f", domain="d")
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    read = onnx.ModelProto()
    read.ParseFromString(serialize_and_discard(model))
    assert read == expected


def test_a_model_without_constants_or_graph_has_parts_too() -> None:
    for model in (onnx.ModelProto(), onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g"))):
        expected = model.SerializeToString()
        read = onnx.ModelProto()
        read.ParseFromString(serialize_and_discard(model))
        assert read.graph == onnx.ModelProto.FromString(expected).graph


def test_a_link_to_a_model_is_followed(model: onnx.ModelProto, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(saved)
    assert load_model(tmp_path / "link.onnx") == model


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for read in (load_model, model_digest):
        with pytest.raises(ModelNotFoundError) as error:
            read(tmp_path / "none.onnx")
        assert_one_line_about(error, tmp_path / "none.onnx")


def test_a_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(ModelNotFoundError):
        load_model("a\0b.onnx")


def test_a_folder_a_fifo_and_a_device_are_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.onnx"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, Path("/dev/zero")):
        with pytest.raises(ModelNotFoundError, match="regular file") as error:
            load_model(path)
        assert_one_line_about(error, path)


def test_a_file_over_the_limit_is_refused(saved: Path) -> None:
    size_bytes = saved.stat().st_size
    load_model(saved, max_bytes=size_bytes)
    with pytest.raises(ModelTooLargeError, match=str(size_bytes)) as error:
        load_model(saved, max_bytes=size_bytes - 1)
    assert_one_line_about(error, saved)


@pytest.mark.parametrize("content", [b"", b"this is a text file\n", b"\x00" * 64, b"<!DOCTYPE html><html></html>"])
def test_a_file_that_is_not_a_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError) as error:
        load_model(path)
    assert_one_line_about(error, path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share: float, saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFormatError) as error:
        load_model(saved)
    assert_one_line_about(error, saved)


def test_a_bomb_of_nested_graphs_is_refused(tmp_path: Path) -> None:
    """Written as bytes: the builders of protobuf would not nest this deep."""
    content = b""
    for _ in range(2000):
        for field in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            content = bytes([field << 3 | 2]) + _varint(len(content)) + content
    path = tmp_path / "bomb.onnx"
    path.write_bytes(b"\x08\x08" + b"\x3a" + _varint(len(content)) + content + b"\x42\x02\x10\x0d")
    with pytest.raises(ModelFormatError, match="nested") as error:
        load_model(path)
    assert_one_line_about(error, path)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def test_what_the_checker_rejects_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    model.graph.node[0].input[0] = "nowhere"
    path = tmp_path / "invalid.onnx"
    save_model(model, path)
    with pytest.raises(ModelFormatError, match="not a valid ONNX model") as error:
        load_model(path)
    assert_one_line_about(error, path)


def test_an_unknown_operator_of_the_default_domain_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Convolute", ["x"], ["y"])], "g", [value], [result])
    save_model(helper.make_model(graph), tmp_path / "unknown.onnx")
    with pytest.raises(ModelFormatError, match="Convolute"):
        load_model(tmp_path / "unknown.onnx")


def test_saving_replaces_and_leaves_nothing_behind(model: onnx.ModelProto, saved: Path) -> None:
    model.producer_name = "second"
    save_model(model, saved)
    assert load_model(saved).producer_name == "second"
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_saving_respects_the_umask(model: onnx.ModelProto, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_model(model, tmp_path / "model.onnx")
    finally:
        os.umask(before)
    assert (tmp_path / "model.onnx").stat().st_mode & 0o777 == 0o640


def test_saving_where_it_cannot_be_done_is_a_usage_error(model: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "model.onnx", tmp_path / "folder"):
        with pytest.raises(UsageError, match="cannot write") as error:
            save_model(model, path)
        assert_one_line_about(error, path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
