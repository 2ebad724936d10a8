"""Which inputs are states, and what they hold after some runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx import TensorProto, numpy_helper

from edge_dac.statistics.images import synthetic_inputs
from edge_dac.statistics.input_spec import infer_input_specs
from edge_dac.statistics.input_values import Layout
from edge_dac.statistics.states import with_states

SHAPES = {"x": (1, 300), "state": (2, 1, 8)}


def _memory(
    decay: float = 0.9, state: str = "state", next_state: str = "stateN", extent: int = 8, length: int = 300
) -> onnx.ModelProto:
    """``next = decay * state + w x``, in two equal layers."""
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["y"]),
        oh.make_node("Mul", [state, "decay"], ["kept"]),
        oh.make_node("Add", ["kept", "y"], [next_state]),
    ]
    weight = np.random.default_rng(0).normal(size=(length, 8)).astype(np.float32)
    graph = oh.make_graph(
        nodes,
        "g",
        [
            oh.make_tensor_value_info("x", TensorProto.FLOAT, [1, length]),
            oh.make_tensor_value_info(state, TensorProto.FLOAT, [2, 1, 8]),
        ],
        [
            oh.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8]),
            oh.make_tensor_value_info(next_state, TensorProto.FLOAT, [2, "batch", extent]),
        ],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(decay), "decay")],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("state", "next_state", "is_state"),
    [
        ("state", "stateN", True),
        ("h0", "hn", True),
        ("cache_in", "cache_out", True),
        ("conv.cache.3", "new_conv.cache.3", True),
        ("prev_h", "h_next", True),
        ("state", "score", False),
        ("input", "output", False),
    ],
)
def test_states_are_known_by_their_names(state: str, next_state: str, is_state: bool) -> None:
    shapes = {"x": (1, 300), state: (2, 1, 8)}
    specs = {spec.name: spec for spec in infer_input_specs(_memory(state=state, next_state=next_state), shapes)}
    assert (specs[state].layout is Layout.STATE) is is_state
    assert specs[state].next_state == (next_state if is_state else "")
    assert specs["x"].layout is not Layout.STATE


def test_an_output_of_another_shape_is_no_next_state() -> None:
    assert all(spec.layout is not Layout.STATE for spec in infer_input_specs(_memory(extent=9), SHAPES))


def test_where_all_inputs_have_such_an_output_none_is_a_state() -> None:
    model = _memory()
    model.graph.node.append(oh.make_node("Relu", ["x"], ["x_out"]))
    model.graph.output.append(oh.make_tensor_value_info("x_out", TensorProto.FLOAT, [1, 300]))
    assert all(spec.layout is not Layout.STATE for spec in infer_input_specs(model, SHAPES))


def test_states_are_those_that_the_runs_before_leave() -> None:
    model = _memory()
    specs = infer_input_specs(model, SHAPES)
    drawn = synthetic_inputs(specs, 8, seed=3)
    samples = with_states(model, specs, drawn, SHAPES, seed=3, steps=3)
    assert {name: values.shape for name, values in samples.items()} == {"x": (8, 300), "state": (8, 1, 8)}
    # A run takes two rows of the state and the first of the two of the input, which is no signal and stays.
    product = samples["x"][::2] @ numpy_helper.to_array(model.graph.initializer[0])
    expected = np.repeat(1.9 * product[:, None], 2, axis=0)
    assert np.allclose(samples["state"], expected, rtol=1e-4, atol=1e-3)


def test_signals_go_on_from_run_to_run() -> None:
    model = _memory(length=1200)
    shapes = {**SHAPES, "x": (1, 1200)}
    specs = infer_input_specs(model, shapes)
    drawn = synthetic_inputs(specs, 8, seed=3)
    samples = with_states(model, specs, drawn, shapes, seed=3, steps=2)
    assert samples["x"].shape == drawn["x"].shape
    assert not (samples["x"][::2] == drawn["x"][::2]).all()
    assert np.abs(samples["state"]).min() > 0
    again = with_states(model, specs, drawn, shapes, seed=3, steps=2)
    assert all((samples[name] == again[name]).all() for name in samples)
    assert not (samples["state"] == with_states(model, specs, drawn, shapes, seed=4, steps=2)["state"]).any()
    assert (with_states(model, specs, drawn, shapes, seed=3, steps=1)["state"] == 0).all()


def test_another_model_comes_to_its_own_states_on_the_same_signals() -> None:
    shapes = {**SHAPES, "x": (1, 1200)}
    specs = infer_input_specs(_memory(length=1200), shapes)
    drawn = synthetic_inputs(specs, 4, seed=3)
    first, other = (
        with_states(_memory(decay, length=1200), specs, drawn, shapes, seed=3, steps=4) for decay in (0.9, 0.8)
    )
    assert (first["x"] == other["x"]).all()
    assert not (first["state"] == other["state"]).any()


def test_states_that_run_away_are_left_as_they_were_drawn() -> None:
    model = _memory(decay=1e30)
    specs = infer_input_specs(model, SHAPES)
    drawn = synthetic_inputs(specs, 4, seed=0)
    assert with_states(model, specs, drawn, SHAPES, seed=0, steps=5) is drawn
