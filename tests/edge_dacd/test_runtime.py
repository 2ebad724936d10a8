from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.errors import InputShapeError, ModelFormatError, ModelNotFoundError
from edge_dacd.runtime import Runtime


def write(path: Path, width: int | str = "n", kernel: int = 5, channels: int = 1) -> Path:
    """One convolution of ``kernel`` over FLOAT [1, channels, width]; too narrow an input fails."""
    value = helper.make_tensor_value_info
    weight = np.ones((channels, channels, kernel), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, channels, width])],
        [value("y", TensorProto.FLOAT, [1, channels, None])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_what_is_known_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    runtime = Runtime.load(path, threads=1)
    assert runtime.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert runtime.size_bytes == path.stat().st_size
    assert runtime.inputs[0].shape == (1, 1, -1)
    assert (runtime.point_id, runtime.figures.predicted_error) == ("original", 0.0)


def test_free_extents_are_guessed(tmp_path: Path) -> None:
    Runtime.load(write(tmp_path / "m.onnx", kernel=5), threads=1).warm_up()
    Runtime.load(write(tmp_path / "n.onnx", kernel=500), threads=1).warm_up()  # too wide for any guess: served cold


def test_given_shapes_must_work(tmp_path: Path) -> None:
    runtime = Runtime.load(write(tmp_path / "m.onnx"), threads=1)
    runtime.warm_up({"x": (1, 1, 9)})
    with pytest.raises(InputShapeError, match=r"x=\[1, 1, 3\]"):
        runtime.warm_up({"x": (1, 1, 3)})


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"none\.onnx"):
        Runtime.load(tmp_path / "none.onnx", threads=1)
    for content in (b"", b"text", write(tmp_path / "m.onnx").read_bytes()[:-40]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ModelFormatError, match=r"bad\.onnx: ONNX Runtime cannot load it") as caught:
            Runtime.load(tmp_path / "bad.onnx", threads=1)
        assert str(tmp_path) not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_memory_of_a_released_runtime_goes_back(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", kernel=3, channels=1500)
    runtime = Runtime.load(path, threads=1)
    runtime.warm_up()
    loaded = psutil.Process().memory_info().rss
    del runtime
    assert psutil.Process().memory_info().rss < loaded - path.stat().st_size // 2
