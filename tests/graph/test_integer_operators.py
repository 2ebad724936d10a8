"""What stands between layers in integers is computed in integers, and they read what they read before."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph.small_models import small_model
from graph.test_quantizers import GRIDS, layer, merged, node, optimized, run
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edge_dac.graph.quantizers import merge_quantizers

TWICE = {"scales": np.array([1, 1, 2, 2], np.float32), "none": np.zeros(0, np.float32)}


def enlarged(source: str, target: str) -> onnx.NodeProto:
    return node("Resize", f"{source} none scales", target, mode="linear")


def pooled(source: str, target: str) -> onnx.NodeProto:
    return node("MaxPool", source, target, kernel_shape=[2, 2], strides=[2, 2])


def swish(source: str, target: str) -> list[onnx.NodeProto]:
    return [node("Sigmoid", source, f"{target}/s"), node("Mul", f"{source} {target}/s", target)]


def change(nodes: list[onnx.NodeProto]) -> tuple[list[str], float]:
    """Operators that ONNX Runtime runs, and the largest change of an output."""
    model = small_model(nodes, {**GRIDS, **TWICE}, output_shape=[None] * 4)
    x = np.random.default_rng(0).standard_normal((1, 4, 10, 12)).astype(np.float32)
    before = run(model, x)
    merge_quantizers(model, {name for entry in nodes for name in entry.output if entry.op_type == "DequantizeLinear"})
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return optimized(model), float(np.abs(session.run(None, {"x": x})[0] - before).max())


@pytest.mark.parametrize(
    ("between", "operator"),
    [
        ([node("Add", "a b", "sum")], "QLinearAdd"),
        ([node("Add", "a b", "h"), node("Relu", "h", "sum")], "QLinearAdd"),
        ([node("Add", "a b", "h"), node("Relu", "h", "g"), pooled("g", "sum")], "QLinearAdd"),
        ([node("Add", "a b", "h"), node("Concat", "h a", "sum", axis=2)], "QLinearConcat"),
        ([node("Concat", "a b", "sum", axis=2)], "QLinearConcat"),
    ],
)
def test_the_layer_behind_reads_what_it_read(
    between: list[onnx.NodeProto], operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TWICE.items():
        monkeypatch.setitem(GRIDS, name, value)
    left, model = merged([*layer("x", "a"), *layer("x", "b", out_grid="s2 z2"), *between, *layer("sum", "y")])
    assert "Relu" not in left
    assert operator in optimized(model)
    assert "Add" not in optimized(model)


def test_an_enlarged_map_is_rounded_before_it_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TWICE.items():
        monkeypatch.setitem(GRIDS, name, value)
    small = [*layer("x", "a"), pooled("a", "p"), *layer("p", "b", out_grid="s2 z2"), enlarged("b", "large")]
    _, model = merged([*small, node("Concat", "a large", "sum", axis=1), *_joined("sum", "y")])
    operators = optimized(model)
    assert "Concat" not in operators
    assert operators.count("QLinearConcat") == 1


def test_real_maps_are_rounded_where_they_are_joined_to_integers() -> None:
    maps = [*layer("x", "a"), node("Conv", "x real", "f", pads=[1, 1, 1, 1])]
    operators, largest = change([*maps, node("Concat", "a f", "sum", axis=2), *layer("sum", "y")])
    assert operators.count("QLinearConcat") == 1
    assert "Concat" not in operators
    assert largest < 1e-5  # by the grid that the layer reads both by


def test_a_sum_is_rounded_that_is_enlarged_and_joined() -> None:
    first = [*layer("x", "a"), pooled("a", "p"), *layer("p", "b"), *layer("p", "c", out_grid="s2 z2")]
    wide = [*first, node("Add", "b c", "h"), enlarged("h", "large"), node("Concat", "a large", "sum", axis=1)]
    real = [node("Conv", "h real", "r", pads=[1, 1, 1, 1]), enlarged("r", "other")]
    operators, largest = change([*wide, *_joined("sum", "d", "s2 z2"), *real, node("Sum", "d other", "y")])
    assert "QLinearAdd" in operators
    assert operators.count("QLinearConcat") == 1
    assert largest < 0.6


def _joined(source: str, target: str, grid: str = "s z") -> list[onnx.NodeProto]:
    """A layer of eight inputs, in two groups of four."""
    nodes = layer(source, target, grid=grid)
    nodes[1].attribute.append(helper.make_attribute("group", 2))
    return nodes


def test_the_next_addition_reads_the_rounded_sum() -> None:
    maps = [*layer("x", "a"), *layer("x", "b", out_grid="s2 z2")]
    first = [*maps, node("Add", "a b", "h"), node("Relu", "h", "sum")]
    operators, largest = change([*first, *layer("sum", "c"), node("Add", "c sum", "y")])
    assert operators.count("QLinearAdd") == 1
    assert "Relu" not in operators
    assert 0 < largest <= 0.05 / 2 + 1e-5  # half a step of the grid "s", within its ends


def test_swish_of_an_8_bit_map() -> None:
    operators, largest = change([*layer("x", "a", out_grid="s2 z2"), *swish("a", "m"), *layer("m", "y", grid="s2 z2")])
    assert {"QLinearSigmoid", "QLinearMul"} <= set(operators)
    assert not {"Sigmoid", "Mul"} & set(operators)
    assert largest < 0.6
    added = [*swish("a", "m"), node("Add", "m a", "sum"), *layer("sum", "y")]
    operators, largest = change([*layer("x", "a", out_grid="s2 z2"), *added])
    assert {"QLinearSigmoid", "QLinearMul", "QLinearAdd"} <= set(operators)
    assert largest < 0.6


def test_real_inputs_and_outputs_stay_real() -> None:
    half = [*layer("x", "a"), node("Conv", "x real", "f", pads=[1, 1, 1, 1]), node("Add", "a f", "sum")]
    assert "QLinearAdd" not in change([*half, *layer("sum", "y")])[0]
    joined = [
        *layer("x", "a"),
        *layer("x", "b"),
        node("Add", "a b", "sum"),
        node("Conv", "x real", "f", pads=[1, 1, 1, 1]),
    ]
    operators, largest = change([*joined, node("Concat", "sum f", "all", axis=2), *layer("all", "y")])
    assert operators.count("QuantizeLinear") == 2
    assert largest < 1e-5
    operators, largest = change([*layer("x", "a"), *layer("x", "b"), node("Add", "a b", "y")])
    assert ("Add" in operators, largest < 1e-5) == (True, True)


def test_a_real_layer_that_reads_the_rounded_sum_keeps_its_weights() -> None:
    first = [*layer("x", "a"), *layer("x", "b"), node("Add", "a b", "sum"), *layer("sum", "c")]
    real = [node("Conv", "sum real", "r", pads=[1, 1, 1, 1]), *layer("r", "d"), node("Sum", "c d", "y")]
    assert change([*first, *real])[1] < 0.25
    assert "Cast" in change([*first, *real])[0]


BLOCKS = st.lists(
    st.sampled_from(["add", "relu add", "swish", "join", "pool", "enlarge", "layer"]), min_size=1, max_size=5
)


@given(BLOCKS)
def test_drawn_networks_open_and_hardly_change(blocks: list[str]) -> None:
    nodes, current = layer("x", "t0"), "t0"
    for index, block in enumerate(blocks, start=1):
        name = f"t{index}"
        side = layer(current, f"{name}/side", grid="s2 z2", out_grid="s2 z2")
        made = {
            "add": [*side, node("Add", f"{current} {name}/side", name)],
            "relu add": [*side, node("Add", f"{current} {name}/side", f"{name}/h"), node("Relu", f"{name}/h", name)],
            "swish": [*side, *swish(f"{name}/side", name)],
            "join": [*side, node("Concat", f"{current} {name}/side", name, axis=2)],
            "pool": [pooled(current, name)],
            "enlarge": [enlarged(current, name)],
            "layer": layer(current, name),
        }
        nodes.extend(made[block])
        current = name
    if sum(block == "pool" for block in blocks) > 3:
        return
    _, largest = change([*nodes, *layer(current, "y", grid="s2 z2", out_grid="s2 z2")])
    assert largest <= 0.04 * 30
