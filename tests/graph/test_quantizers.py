"""Taking away what lies between layers in integers changes no number."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph.small_models import small_model, weights
from onnx import helper, numpy_helper

from edge_dac.graph.grids import activation_after, origin_of
from edge_dac.graph.quantizers import merge_quantizers
from edge_dac.graph.scopes import Scope

GRIDS = {
    "s": np.float32(0.05),
    "z": np.uint8(0),
    "s2": np.float32(0.04),
    "z2": np.uint8(100),
    "six": np.float32(20),
    "low": np.float32(0),
    "ws": np.full(4, 0.01, np.float32),
    "wz": np.zeros(4, np.int8),
    "real": weights(4, 4, 3, 3),
    "w": (weights(4, 4, 3, 3) * 100).clip(-127, 127).astype(np.int8),
}


def node(operator: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], f"{output}/{operator}", **attributes)


def layer(source: str, target: str, grid: str = "s z", out_grid: str = "s z") -> list[onnx.NodeProto]:
    """A layer in integers."""
    return [
        node("QuantizeLinear", f"{source} {grid}", f"{target}/q"),
        node("QLinearConv", f"{target}/q {grid} w ws wz {out_grid}", f"{target}/c", pads=[1, 1, 1, 1]),
        node("DequantizeLinear", f"{target}/c {out_grid}", target),
    ]


def merged(nodes: Sequence[onnx.NodeProto], opset: int = 13) -> tuple[list[str], onnx.ModelProto]:
    """Operators that are left; what they compute is compared with what was computed before."""
    model = small_model(nodes, GRIDS, opset=opset, output_shape=[None] * 4)
    x = np.random.default_rng(0).standard_normal((1, 4, 10, 12)).astype(np.float32) * 4
    before = run(model, x)
    merge_quantizers(model, {"a", "b", "c", "y"})
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(run(model, x), before)
    return [entry.op_type for entry in model.graph.node], model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def optimized(model: onnx.ModelProto) -> list[str]:
    """Operators in the order that ONNX Runtime runs them in."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [entry.op_type for entry in onnx.load(options.optimized_model_filepath).graph.node]


def test_a_map_stays_in_integers_from_one_layer_to_the_next() -> None:
    left, _ = merged([*layer("x", "a"), node("Relu", "a", "r"), *layer("r", "y")])
    assert left == ["QuantizeLinear", "QLinearConv", "QLinearConv", "DequantizeLinear"]


@pytest.mark.parametrize(("bound", "left"), [(20.0, 0), (1.0, 1)])
def test_a_clip_goes_where_integers_end_below_its_bound(
    bound: float, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [*layer("x", "a"), node("Clip", "a low six", "r"), *layer("r", "y")]
    monkeypatch.setitem(GRIDS, "six", np.float32(bound))
    operators, _ = merged(nodes)
    assert operators.count("Clip") == left


def test_pooling_between_layers_works_on_integers() -> None:
    nodes = [*layer("x", "a"), node("MaxPool", "a", "p", kernel_shape=[2, 2]), *layer("p", "y")]
    assert merged(nodes)[0] == ["QuantizeLinear", "QLinearConv", "MaxPool", "QLinearConv", "DequantizeLinear"]
    assert merged(nodes, opset=11)[0].count("DequantizeLinear") == 2


@pytest.mark.parametrize("grid", ["s z", "s2 z2"])
@pytest.mark.parametrize("between", [["MaxPool"], ["Relu", "MaxPool"], ["MaxPool", "Relu"]])
def test_a_real_map_is_pooled_before_it_is_rounded(grid: str, between: list[str]) -> None:
    nodes = [node("Conv", "x real", "h", pads=[1, 1, 1, 1])]
    for index, operator in enumerate(between):
        pool = {"kernel_shape": [2, 2], "strides": [2, 2]} if operator == "MaxPool" else {}
        nodes.append(node(operator, nodes[-1].output[0], f"h{index}", **pool))
    left, model = merged([*nodes, *layer(nodes[-1].output[0], "y", grid)])
    assert left == ["Conv", *between, "Max", "QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    kept = optimized(model)
    assert kept.index("MaxPool") < kept.index("QuantizeLinear")


def test_other_grids_and_other_readers_keep_what_they_need() -> None:
    assert merged([*layer("x", "a"), *layer("a", "y", grid="s2 z2")])[0].count("QuantizeLinear") == 2
    fork = [*layer("x", "a"), *layer("a", "b"), *layer("a", "c"), node("Sum", "a b c", "y")]
    left = merged(fork)[0]
    assert left.count("QuantizeLinear") == 1
    assert left.count("DequantizeLinear") == 3
    shared = [*layer("x", "a", out_grid="s2 z2"), *layer("x", "b"), node("Add", "a b", "y")]
    assert merged(shared)[0].count("QuantizeLinear") == 1


def test_an_activation_stays_where_the_integers_reach_below_zero_or_others_read() -> None:
    below = [*layer("x", "a", out_grid="s2 z2"), node("Relu", "a", "r"), *layer("r", "y")]
    assert "Relu" in merged(below)[0]
    read = [*layer("x", "a"), node("Relu", "a", "r"), node("Add", "a r", "y")]
    assert "Relu" in merged(read)[0]


def test_what_a_model_gives_out_stays_real() -> None:
    _, model = merged([*layer("x", "a"), *layer("a", "y")])
    assert model.graph.node[-1].op_type == "DequantizeLinear"
    assert model.graph.node[-1].output[0] == "y"


def test_where_a_map_comes_from_and_which_activation_follows() -> None:
    nodes = [
        node("Relu", "x", "a"),
        node("MaxPool", "a", "p", kernel_shape=[2, 2]),
        node("Clip", "p low six", "b"),
        node("LeakyRelu", "b", "y"),
    ]
    model = small_model(nodes, GRIDS)
    scope = Scope(model.graph, model.ir_version)
    assert origin_of(scope, "p") == "a"
    assert origin_of(scope, "y") == "y"
    assert activation_after(scope, "a") is None
    found = activation_after(scope, "p")
    assert found is not None
    assert found.op_type == "Clip"
    assert activation_after(scope, "b") is None
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-1), "minus"))
    model.graph.node[2].input[1] = "minus"
    assert activation_after(Scope(model.graph, model.ir_version), "p") is None


@pytest.mark.parametrize(("grid", "words"), [("s z", ["Cast", "Mul"]), ("s2 z2", ["Cast", "Sub", "Mul"])])
def test_a_real_layer_between_integers_is_not_taken_for_an_oversight(grid: str, words: list[str]) -> None:
    real = node("Conv", "a real", "b", pads=[1, 1, 1, 1])
    nodes = [*layer("x", "a", out_grid=grid), real, *layer("b", "y")]
    model = small_model(nodes, {**GRIDS, "real": weights(4, 4, 3, 3)}, output_shape=[None] * 4)
    x = np.random.default_rng(0).standard_normal((1, 4, 10, 12)).astype(np.float32) * 4
    before = run(model, x)
    merge_quantizers(model, {"a", "y"})
    np.testing.assert_allclose(run(model, x), before, atol=1e-4)
    operators = [entry.op_type for entry in model.graph.node]
    assert operators[2 : 2 + len(words)] == words
    # Fully optimised, too, the runtime computes the layer with the weights that it has.
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], before, atol=1e-4)


def test_an_old_operator_set_opens_with_a_real_layer_between_integers() -> None:
    real = helper.make_node("Conv", ["a", "real", "bias"], ["b"], pads=[1, 1, 1, 1])
    constants = {**GRIDS, "real": weights(4, 4, 3, 3), "bias": np.ones(4, np.float32)}
    model = small_model([*layer("x", "a"), real, *layer("b", "y")], constants, opset=10, output_shape=[None] * 4)
    merge_quantizers(model, {"a", "y"})
    ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_quantizers_of_the_models_own_are_left_alone() -> None:
    signed = {"t": np.float32(0.05), "signed": np.int8(0), "kernel": weights(4, 4, 1, 1)}
    own = [
        node("QuantizeLinear", "x t signed", "quantized"),
        node("DequantizeLinear", "quantized t signed", "back"),
        node("Relu", "back", "rectified"),
    ]
    product = [
        node("QuantizeLinear", "rectified s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Conv", "d kernel", "p"),
    ]
    model = small_model([*own, *product, *layer("p", "y")], {**GRIDS, **signed}, output_shape=[None] * 4)
    x = np.random.default_rng(0).standard_normal((1, 4, 10, 12)).astype(np.float32) * 4
    before, operators = run(model, x), [entry.op_type for entry in model.graph.node]
    merge_quantizers(model, {"y"})
    assert [entry.op_type for entry in model.graph.node] == operators
    np.testing.assert_array_equal(run(model, x), before)
