"""Shapes: completed from the request, inferred, measured where inference stops, and known to be fixed or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from graph.small_models import conv, small_model, weights
from onnx import TensorProto, helper

from edge_dac.errors import InputShapeError
from edge_dac.graph.shapes import resolve_input_shapes, static_shapes, tensor_shapes


def relu_model(shape: Sequence[int | str]) -> onnx.ModelProto:
    return small_model([helper.make_node("Relu", ["x"], ["y"])], {}, shape)


def hidden_size_model(shape: Sequence[int | str], *, ir_version: int = 8) -> onnx.ModelProto:
    """Between the two convolutions stands a size that is computed in floating point, which inference cannot follow."""
    nodes = [
        conv("x", "a", "first", pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["shape_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["shape_float", "factors"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["size"], to=TensorProto.INT64),
        helper.make_node("Resize", ["a", "", "", "size"], ["b"], mode="nearest"),
        conv("b", "y", "second"),
    ]
    constants = {"w": weights(4, 4, 3, 3), "factors": np.array([1, 1, 2, 2], np.float32)}
    return small_model(nodes, constants, shape, ir_version=ir_version)


def test_fixed_extents_need_no_request() -> None:
    assert resolve_input_shapes(relu_model([2, 3, 4, 5]), {}) == {"x": (2, 3, 4, 5)}


def test_an_open_first_axis_is_one() -> None:
    assert resolve_input_shapes(relu_model(["batch", 3, 4, 5]), {}) == {"x": (1, 3, 4, 5)}


def test_open_extents_are_taken_from_the_request() -> None:
    assert resolve_input_shapes(relu_model(["batch", 3, "h", "w"]), {"x": [2, 3, 8, 9]}) == {"x": (2, 3, 8, 9)}


def test_other_open_extents_must_be_given() -> None:
    with pytest.raises(InputShapeError, match=r"axis 3 .* --shape x=1,3,4,224"):
        resolve_input_shapes(relu_model(["batch", 3, 4, "w"]), {})


def recurrent_model(batch: str = "batch") -> onnx.ModelProto:
    """``x`` beside a state whose second axis is the batch, as detectors of speech have it."""
    model = relu_model([batch, "samples"])
    model.graph.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, batch, 128]))
    return model


@pytest.mark.parametrize("batch", [1, 3])
def test_axes_of_one_name_have_one_extent(batch: int) -> None:
    shapes = resolve_input_shapes(recurrent_model(), {"x": [batch, 512]})
    assert shapes == {"x": (batch, 512), "state": (2, batch, 128)}


def test_a_named_first_axis_is_one_wherever_the_name_stands() -> None:
    assert resolve_input_shapes(recurrent_model(), {"x": [1, 512]})["state"] == (2, 1, 128)
    model = recurrent_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 512
    assert resolve_input_shapes(model, {}) == {"x": (1, 512), "state": (2, 1, 128)}


def test_a_question_mark_is_no_name() -> None:
    with pytest.raises(InputShapeError, match=r"'state': axis 1"):
        resolve_input_shapes(recurrent_model("?"), {"x": [3, 512]})


def test_a_name_asked_for_with_two_extents_tells_nothing() -> None:
    model = recurrent_model()
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", 7]))
    with pytest.raises(InputShapeError, match=r"'state': axis 1"):
        resolve_input_shapes(model, {"x": [3, 512], "other": [4, 7]})


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"z": [1, 3, 4, 5]}, "'z': unknown; the model's inputs are 'x'"),
        ({"x": [1, 3, 4, 6]}, "fixes axis 3 at 5, got 6"),
        ({"x": [1, 3, 4]}, "expected 4 axes"),
        ({"x": [0, 3, 4, 5]}, "positive extent on axis 0"),
        ({"x": [-1, 3, 4, 5]}, "positive extent on axis 0"),
        ({"x": [2**40, 3, 4, 5]}, "positive extent on axis 0"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(requested: dict[str, list[int]], message: str) -> None:
    with pytest.raises(InputShapeError, match=message) as error:
        resolve_input_shapes(relu_model(["batch", 3, 4, 5]), requested)
    assert "\n" not in str(error.value)


def test_initializers_are_not_inputs() -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)}, ir_version=3)
    assert list(resolve_input_shapes(model, {})) == ["x"]


def test_an_input_of_unknown_rank_is_refused() -> None:
    model = relu_model([1])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputShapeError, match="number of axes"):
        resolve_input_shapes(model, {})


def test_inference_answers_without_a_run() -> None:
    model = small_model(
        [conv(strides=[2, 1]), helper.make_node("Unknown", ["y"], ["z"], domain="custom")], {"w": weights(8, 4, 3, 3)}
    )
    assert tensor_shapes(model, {"x": (1, 4, 10, 12)}, ["y"])["y"] == (1, 8, 4, 10)


def test_what_inference_leaves_open_is_measured() -> None:
    model = hidden_size_model(["batch", 4, "h", "w"])
    assert tensor_shapes(model, {"x": (2, 4, 10, 12)})["b"] == (2, 4, 20, 24)


def test_a_shape_behind_a_custom_operator_stays_unknown() -> None:
    nodes = [helper.make_node("Unknown", ["x"], ["a"], domain="custom"), conv("a", "y")]
    model = small_model(nodes, {"w": weights(4, 4, 3, 3)})
    assert None in tensor_shapes(model, {"x": (1, 4, 10, 12)}, ["a"]).get("a", (None,))


def test_a_shape_that_the_model_cannot_take_is_refused() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["a"]),
        helper.make_node("NonZero", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    model = small_model(nodes, {"target": np.array([5, 7], np.int64)}, ["n"])
    assert tensor_shapes(model, {"x": (35,)}, ["a"])["a"] == (5, 7)
    with pytest.raises(InputShapeError, match=r"does not run at x=\[36\]") as error:
        tensor_shapes(model, {"x": (36,)}, ["y"])
    assert "\n" not in str(error.value)


def test_a_model_is_measured_at_the_numbers_that_its_inputs_hold() -> None:
    nodes = [helper.make_node("Reshape", ["x", "size"], ["a"]), helper.make_node("NonZero", ["a"], ["y"])]
    model = small_model(nodes, {}, ["n"], output_type=TensorProto.INT64)
    model.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, [2]))
    shapes = {"x": (36,), "size": (2,)}
    assert tensor_shapes(model, shapes, ["a"], {"size": 6})["a"] == (6, 6)
    with pytest.raises(InputShapeError, match="does not run"):
        tensor_shapes(model, shapes, ["a"])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([1, 4, 10, 12], (1, 4, 20, 24)),
        (["batch", 4, 10, 12], (None, 4, 20, 24)),
    ],
)
def test_sizes_are_static_when_only_the_batch_varies(shape: list[int | str], expected: tuple[int | None, ...]) -> None:
    model = hidden_size_model(shape)
    inputs = resolve_input_shapes(model, {})
    assert static_shapes(model, inputs, {"b": tensor_shapes(model, inputs)["b"]})["b"] == expected


def test_sizes_are_not_static_when_height_and_width_vary() -> None:
    model = hidden_size_model(["batch", 4, "h", "w"])
    inputs = {"x": (1, 4, 10, 12)}
    static = static_shapes(model, inputs, {"b": tensor_shapes(model, inputs)["b"]})
    assert static.get("b", (None,) * 4)[2:] == (None, None)


def test_a_size_that_follows_the_batch_is_not_static() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["a"]),
        conv("a", "y"),
    ]
    model = small_model(
        nodes, {"target": np.array([1, 4, -1, 12], np.int64), "w": weights(4, 4, 3, 3)}, ["n", 4, 10, 12]
    )
    inputs = {"x": (1, 4, 10, 12)}
    static = static_shapes(model, inputs, {"a": tensor_shapes(model, inputs)["a"]})
    assert static["a"][2] is None


def test_a_size_that_follows_values_is_not_static() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["indices"]),
        helper.make_node("Cast", ["indices"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "zero"], ["a"]),
        conv("a", "y"),
    ]
    model = small_model(nodes, {"zero": np.array([0], np.int64), "w": weights(4, 4, 3)})
    inputs = {"x": (1, 4, 10, 12)}
    static = static_shapes(model, inputs, {"a": tensor_shapes(model, inputs)["a"]})
    assert static.get("a", (None,) * 3)[2] is None
