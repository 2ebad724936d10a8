"""Inputs of integers: the table they look up, the numbers they are compared with, and what the user says."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx import TensorProto, numpy_helper

from edge_dac.errors import UsageError
from edge_dac.statistics.images import synthetic_images
from edge_dac.statistics.input_spec import infer_input_specs
from edge_dac.statistics.input_values import InputSpec, Layout


def _specs(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, tuple[int, ...]]],
    constants: dict[str, np.ndarray] | None = None,
    values: dict[str, float] | None = None,
) -> dict[str, InputSpec]:
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    shapes = {name: shape for name, (_, shape) in inputs.items()}
    return {spec.name: spec for spec in infer_input_specs(model, shapes, values=values)}


RATE = {"x": (TensorProto.FLOAT, (1, 5)), "sr": (TensorProto.INT64, ())}


def test_the_number_that_a_model_waits_for_is_found_behind_reshaping() -> None:
    nodes = [
        oh.make_node("Reshape", ["sr", "flat"], ["a"]),
        oh.make_node("Gather", ["a", "first"], ["b"]),
        oh.make_node("Equal", ["b", "rate"], ["c"]),
    ]
    constants = {"flat": np.array([-1]), "first": np.array(0), "rate": np.array(16000)}
    spec = _specs(nodes, RATE, constants)["sr"]
    assert (spec.layout, spec.low, spec.high) == (Layout.CONSTANT, 16000.0, 16000.0)
    assert synthetic_images(spec, 2, 0).tolist() == [16000, 16000]


@pytest.mark.parametrize(
    ("nodes", "constants", "highest"),
    [
        ([oh.make_node("OneHot", ["x", "n", "levels"], ["y"])], {"n": np.array(9), "levels": np.float32([0, 1])}, 8),
        (
            [oh.make_node("Unsqueeze", ["x", "last"], ["a"]), oh.make_node("Equal", ["a", "numbers"], ["y"])],
            {"last": np.array([-1]), "numbers": np.arange(257, dtype=np.int32)},
            256,
        ),
        (
            [oh.make_node("Cast", ["x"], ["a"], to=TensorProto.INT64), oh.make_node("Gather", ["table", "a"], ["y"])],
            {"table": np.zeros((37, 4), np.float32)},
            36,
        ),
    ],
    ids=["OneHot", "Equal", "Gather"],
)
def test_numbers_are_drawn_from_what_is_told_apart(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], highest: int
) -> None:
    spec = _specs(nodes, {"x": (TensorProto.INT32, (1, 12))}, constants)["x"]
    assert (spec.layout, spec.low, spec.high) == (Layout.INDICES, 0.0, highest)


def test_the_user_is_told_how_to_say_what_a_number_is() -> None:
    spec = _specs([oh.make_node("Sub", ["sr", "one"], ["y"])], RATE, {"one": np.array(1)})["sr"]
    assert "--value sr=N" in spec.assumptions[0]


@pytest.mark.parametrize(
    ("kind", "number", "drawn"),
    [(TensorProto.INT64, 8000, 8000), (TensorProto.BOOL, 1, True), (TensorProto.FLOAT, 0.5, 0.5)],
)
def test_the_users_word_counts(kind: int, number: float, drawn: object) -> None:
    inputs = {"x": (TensorProto.FLOAT, (1, 5)), "v": (kind, (1,))}
    spec = _specs([oh.make_node("Identity", ["x"], ["y"])], inputs, values={"v": number})["v"]
    assert synthetic_images(spec, 3, 0).tolist() == [drawn] * 3
    assert "given by the user" in spec.assumptions[0]


@pytest.mark.parametrize(
    ("name", "kind", "number", "message"),
    [
        ("v", TensorProto.INT64, 0.5, "a number that int64 can hold, got 0.5"),
        ("v", TensorProto.UINT8, 300, "a number that uint8 can hold, got 300"),
        ("v", TensorProto.BOOL, 2, "a number that bool can hold, got 2"),
        ("v", TensorProto.FLOAT16, 1e6, "a number that float16 can hold"),
        ("w", TensorProto.INT64, 1, "unknown; the model's inputs are 'x', 'v'"),
    ],
)
def test_values_that_do_not_fit_are_refused(name: str, kind: int, number: float, message: str) -> None:
    inputs = {"x": (TensorProto.FLOAT, (1, 5)), "v": (kind, (1,))}
    with pytest.raises(UsageError, match=f"value of input '{name}': .*{message}"):
        _specs([oh.make_node("Identity", ["x"], ["y"])], inputs, values={name: number})
