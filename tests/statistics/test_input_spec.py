"""What is read off a model about its inputs, and what the user's word overrides."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx import numpy_helper

from edge_dac.errors import InputShapeError, UsageError
from edge_dac.statistics.images import synthetic_images
from edge_dac.statistics.input_spec import infer_input_specs
from edge_dac.statistics.input_values import InputSpec, Layout
from edge_dac.statistics.normalization import Normalization
from edge_dac.statistics.response import CANDIDATES

IMAGE = (1, 3, 32, 32)


def _model(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...] = IMAGE,
    constants: dict[str, np.ndarray] | None = None,
    dtype: int = onnx.TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", dtype, shape)],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    oh.set_model_props(model, metadata or {})
    return model


def _kernel(out: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(out, channels, 3, 3)).astype(np.float32)


def _spec(model: onnx.ModelProto, shape: tuple[int, ...] = IMAGE, **told: object) -> InputSpec:
    (spec,) = infer_input_specs(model, {"x": shape}, **told)  # type: ignore[arg-type]
    return spec


def _as_trained(candidate: Normalization, *, folded: bool) -> onnx.ModelProto:
    """Three convolutions with batch normalisation, whose statistics are those of images in ``candidate``'s values."""
    values = synthetic_images(candidate.applied_to(InputSpec("x", IMAGE, channels=3)), 12, seed=99)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(1)
    name, x = "x", values
    for index in range(3):
        weight = _kernel(16, x.shape[1], index)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        y = np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)
        mean, std = y.mean(axis=(0, 2, 3)), y.std(axis=(0, 2, 3))
        gamma = rng.uniform(0.5, 1.5, 16).astype(np.float32)
        beta = rng.normal(0.0, 0.3, 16).astype(np.float32)
        out = "y" if index == 2 else f"relu{index}"
        conv = f"conv{index}"
        if folded:
            constants |= {
                f"w{index}": weight * (gamma / std).reshape(-1, 1, 1, 1),
                f"b{index}": beta - gamma * mean / std,
            }
            nodes.append(oh.make_node("Conv", [name, f"w{index}", f"b{index}"], [conv]))
        else:
            constants |= {f"w{index}": weight, f"g{index}": gamma, f"b{index}": beta}
            constants |= {f"m{index}": mean, f"v{index}": std**2}
            nodes.append(oh.make_node("Conv", [name, f"w{index}"], [f"raw{index}"]))
            statistics = [f"{letter}{index}" for letter in "gbmv"]
            nodes.append(oh.make_node("BatchNormalization", [f"raw{index}", *statistics], [conv]))
        nodes.append(oh.make_node("Relu", [conv], [out]))
        normal = (y - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1) * gamma.reshape(-1, 1, 1)
        name, x = out, np.maximum(normal + beta.reshape(-1, 1, 1), 0.0)
    return _model(nodes, constants={key: value.astype(np.float32) for key, value in constants.items()})


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda c: f"{c.low:g}..{c.high:g}-{c.mean[0]:g}")
def test_the_range_of_the_training_images_is_recognised(candidate: Normalization, folded: bool) -> None:
    spec = _spec(_as_trained(candidate, folded=folded))
    assert (spec.low, spec.high, spec.mean, spec.std) == (candidate.low, candidate.high, candidate.mean, candidate.std)
    assert any("assumed from the response" in line for line in spec.assumptions)


def test_the_users_word_counts_first() -> None:
    model = _as_trained(CANDIDATES[1], folded=False)
    spec = _spec(model, input_range=(-2.0, 2.0))
    assert (spec.low, spec.high) == (-2.0, 2.0)
    assert "given by the user" in spec.assumptions[-1]
    spec = _spec(model, mean=[0.5, 0.4, 0.3], std=[0.2])
    assert (spec.low, spec.high, spec.mean, spec.std) == (0.0, 1.0, (0.5, 0.4, 0.3), (0.2,))
    assert _spec(model, mean=[104.0]).high == 255.0


@pytest.mark.parametrize(
    "told",
    [
        {"input_range": (1.0, 1.0)},
        {"input_range": (0.0, float("nan"))},
        {"std": [0.0]},
        {"mean": [float("inf")]},
    ],
)
def test_an_unusable_range_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        _spec(_model([oh.make_node("Relu", ["x"], ["y"])]), **told)


def test_every_input_needs_a_shape() -> None:
    with pytest.raises(InputShapeError, match="'x'"):
        infer_input_specs(_model([oh.make_node("Relu", ["x"], ["y"])]), {})


@pytest.mark.parametrize(
    ("constants", "operators", "high"),
    [
        ({"c": np.float32(255.0)}, [("Div", "c")], 255.0),
        ({"c": np.float32(1 / 255)}, [("Mul", "c")], 255.0),
        ({"m": np.float32(127.5), "c": np.float32(128.0)}, [("Sub", "m"), ("Div", "c")], 255.0),
        (
            {
                "m": np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1),
                "c": np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1),
            },
            [("Sub", "m"), ("Div", "c")],
            1.0,
        ),
    ],
)
def test_a_normalisation_in_the_graph_tells_the_raw_range(
    constants: dict[str, np.ndarray], operators: list[tuple[str, str]], high: float
) -> None:
    nodes, name = [], "x"
    for index, (operator, constant) in enumerate(operators):
        nodes.append(oh.make_node(operator, [name, constant], [f"n{index}"]))
        name = f"n{index}"
    nodes.append(oh.make_node("Conv", [name, "w"], ["y"]))
    spec = _spec(_model(nodes, constants={**constants, "w": _kernel()}))
    assert (spec.low, spec.high, spec.mean, spec.std) == (0.0, high, (0.0,), (1.0,))


def test_batch_normalisation_of_the_input_gives_mean_and_deviation() -> None:
    constants = {name: np.ones(3, np.float32) for name in ("g", "b")}
    constants |= {"m": np.array([3.0, 4.0, 5.0], np.float32), "v": np.array([4.0, 1.0, 9.0], np.float32)}
    nodes = [
        oh.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"]),
        oh.make_node("Conv", ["n", "w"], ["y"]),
    ]
    images = synthetic_images(_spec(_model(nodes, constants={**constants, "w": _kernel()})), 40, 0)
    assert (np.abs(images.mean(axis=(0, 2, 3)) - [3.0, 4.0, 5.0]) < [0.8, 0.4, 1.2]).all()
    np.testing.assert_allclose(images.std(axis=(0, 2, 3)), [2.0, 1.0, 3.0], rtol=0.4)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"Image.NominalPixelRange": "NominalRange_0_255"}, (0.0, 255.0, (0.0,))),
        ({"Image.NominalPixelRange": "Normalized_1_1"}, (-1.0, 1.0, (0.0,))),
        ({"mean": "[0.5, 0.4, 0.3]", "std": "[0.2, 0.2, 0.2]"}, (0.0, 1.0, (0.5, 0.4, 0.3))),
        ({"mean": "[123, 117, 104]", "std": "[58, 57, 57]"}, (0.0, 255.0, (123.0, 117.0, 104.0))),
    ],
)
def test_metadata_is_believed(metadata: dict[str, str], expected: tuple[float, float, tuple[float, ...]]) -> None:
    model = _model([oh.make_node("Conv", ["x", "w"], ["y"])], constants={"w": _kernel()}, metadata=metadata)
    spec = _spec(model)
    assert (spec.low, spec.high, spec.mean) == expected


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "[1, null]", '["a"]', "{}"])
def test_unreadable_metadata_is_passed_over(text: str) -> None:
    model = _model([oh.make_node("Relu", ["x"], ["y"])], metadata={"mean": text, "std": text})
    assert "no layer" in _spec(model).assumptions[-1]


def test_layout_from_transpose_convolution_or_extent() -> None:
    transposed = _model(
        [oh.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), oh.make_node("Conv", ["t", "w"], ["y"])],
        (1, 32, 32, 12),
        {"w": _kernel(8, 12)},
    )
    spec = _spec(transposed, (1, 32, 32, 12))
    assert (spec.layout, spec.channels, spec.image_size) == (Layout.NHWC, 12, (32, 32))
    assert _spec(_model([oh.make_node("Relu", ["x"], ["y"])], (1, 32, 32, 3)), (1, 32, 32, 3)).layout is Layout.NHWC
    convolved = _model([oh.make_node("Conv", ["x", "w"], ["y"])], (1, 32, 32, 3), {"w": _kernel(8, 32)})
    assert _spec(convolved, (1, 32, 32, 3)).layout is Layout.NCHW


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 64, 64), Layout.NHW),
        ((1, 2, 500), Layout.SIGNAL),
        ((1, 16000), Layout.SIGNAL),
        ((1, 64), Layout.FEATURES),
        ((), Layout.FEATURES),
        ((1, 1, 4, 8, 8), Layout.SIGNAL),
    ],
)
def test_inputs_that_are_no_colour_images(shape: tuple[int, ...], layout: Layout) -> None:
    spec = _spec(_model([oh.make_node("Relu", ["x"], ["y"])], shape), shape)
    assert spec.layout is layout
    assert synthetic_images(spec, 2, 0).shape == (2, *shape[1:])


def _frames(weight_scale: float) -> onnx.ModelProto:
    """Frames of a signal weighed by a convolution inside one branch of an ``If``, as detectors of speech do it."""
    rng = np.random.default_rng(3)
    result = [oh.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)]
    weight = numpy_helper.from_array((weight_scale * rng.normal(size=(8, 1, 32))).astype(np.float32), "w")
    body = [oh.make_node("Unsqueeze", ["x", "axis"], ["row"]), oh.make_node("Conv", ["row", "w"], ["z"])]
    then_branch = oh.make_graph(body, "then", [], result, [weight])
    else_branch = oh.make_graph([oh.make_node("Identity", ["x"], ["z"])], "else", [], result)
    nodes = [
        oh.make_node("Equal", ["rate", "known_rate"], ["is_known"]),
        oh.make_node("If", ["is_known"], ["y"], then_branch=then_branch, else_branch=else_branch),
    ]
    model = _model(nodes, (1, 256), {"axis": np.array([1], np.int64), "known_rate": np.array(16000, np.int64)})
    model.graph.input.append(oh.make_tensor_value_info("rate", onnx.TensorProto.INT64, []))
    return model


def test_a_short_row_that_is_convolved_is_a_signal_about_zero() -> None:
    signal, _ = infer_input_specs(_frames(1.0), {"x": (1, 256), "rate": ()})
    assert (signal.layout, signal.low, signal.high) == (Layout.SIGNAL, -1.0, 1.0)


def test_a_number_that_the_model_compares_with_its_own_is_that_number() -> None:
    _, rate = infer_input_specs(_frames(1.0), {"x": (1, 256), "rate": ()})
    assert synthetic_images(rate, 3, 0).tolist() == [16000] * 3


@pytest.mark.parametrize(("scale", "high"), [(0.3, 1.0), (3.0, 1.0), (1e-5, 32767.0)])
def test_a_signal_is_sound_in_floating_point_unless_that_is_far_off(scale: float, high: float) -> None:
    weight = (scale * np.random.default_rng(3).normal(size=(8, 1, 32))).astype(np.float32)
    spec = _spec(_model([oh.make_node("Conv", ["x", "w"], ["y"])], (1, 1, 4000), {"w": weight}), (1, 1, 4000))
    assert (spec.layout, spec.high) == (Layout.SIGNAL, high)
    assert set(spec.mean) == {0.0}


def test_the_state_of_a_recurrent_layer_is_no_signal() -> None:
    rng = np.random.default_rng(3)
    constants = {name: rng.normal(size=(1, 32, 8)).astype(np.float32) for name in ("w", "r")}
    lstm = oh.make_node("LSTM", ["sequence", "w", "r", "", "", "x", "x"], ["y"], hidden_size=8)
    model = _model([lstm], (1, 1, 8), constants)
    model.graph.input.append(oh.make_tensor_value_info("sequence", onnx.TensorProto.FLOAT, [5, 1, 8]))
    state, sequence = infer_input_specs(model, {"x": (1, 1, 8), "sequence": (5, 1, 8)})
    assert (state.layout, sequence.layout) == (Layout.FEATURES, Layout.SIGNAL)


def test_bytes_are_images_from_0_to_255() -> None:
    model = _model([oh.make_node("Cast", ["x"], ["y"], to=1)], IMAGE, dtype=onnx.TensorProto.UINT8)
    spec = _spec(model)
    assert (spec.layout, spec.low, spec.high) == (Layout.NCHW, 0.0, 255.0)


def test_responses_in_half_precision_may_be_large() -> None:
    kernel = (20.0 * _kernel()).astype(np.float16)  # squares of the responses to 0 to 255 are beyond 65504
    model = _model([oh.make_node("Conv", ["x", "w"], ["y"])], constants={"w": kernel}, dtype=onnx.TensorProto.FLOAT16)
    assert _spec(model).high == 1.0


def test_signals_whose_size_nothing_tells_are_asked_for() -> None:
    spec = _spec(_model([oh.make_node("Relu", ["x"], ["y"])], (1, 16000)), (1, 16000))
    assert (spec.layout, spec.low, spec.high) == (Layout.SIGNAL, -1.0, 1.0)
    assert "--input-range" in spec.warnings[0]
    told = _spec(_model([oh.make_node("Relu", ["x"], ["y"])], (1, 16000)), (1, 16000), input_range=(-4.0, 4.0))
    assert (told.high, told.warnings) == (4.0, ())


@pytest.mark.parametrize(("gain", "high", "warned"), [(1.0, 1.0, False), (1 / 40, 1.0, True), (1 / 255, 255.0, False)])
def test_bytes_must_be_clearly_better_than_numbers_about_one(gain: float, high: float, warned: bool) -> None:
    """``gain`` is the deviation of the responses to values from 0 to 1."""
    kernel = _kernel()
    kernel -= kernel.mean(axis=(1, 2, 3), keepdims=True)
    values = synthetic_images(InputSpec("x", IMAGE, channels=3), 10, seed=5)
    windows = np.lib.stride_tricks.sliding_window_view(values, (3, 3), axis=(2, 3))
    kernel *= gain / np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True).std()
    spec = _spec(_model([oh.make_node("Conv", ["x", "w"], ["y"])], constants={"w": kernel}))
    assert spec.high == high
    assert bool(spec.warnings) is warned
    assert all("--input-range" in warning for warning in spec.warnings)


def test_indices_are_drawn_from_the_table_they_look_up() -> None:
    model = _model(
        [oh.make_node("Gather", ["table", "x"], ["y"])],
        (1, 12),
        {"table": np.zeros((37, 4), np.float32)},
        onnx.TensorProto.INT64,
    )
    spec = _spec(model, (1, 12))
    assert (spec.layout, spec.low, spec.high) == (Layout.INDICES, 0.0, 36.0)


def test_several_inputs_are_described_in_order() -> None:
    model = _as_trained(CANDIDATES[0], folded=False)
    model.graph.input.append(oh.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 5]))
    specs = infer_input_specs(model, {"x": IMAGE, "z": (1, 5)})
    assert [(spec.name, spec.layout) for spec in specs] == [("x", Layout.NCHW), ("z", Layout.FEATURES)]
    assert specs[0].high == 1.0
