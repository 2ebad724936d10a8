"""Constants are found through scopes, and only unread ones are dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graph.small_models import conv, if_model, small_model, weights
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.scopes import Scope, count_uses, default_opset, drop_unused, scope_at, unique_name, walk


def scope_of(nodes: list[onnx.NodeProto], **constants: Any) -> Scope:
    return Scope(small_model(nodes, constants).graph, 8)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(np.arange(3))}, np.arange(3)),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
    ],
)
def test_every_numeric_form_of_a_constant_node(attributes: dict[str, Any], expected: Any) -> None:
    value = scope_of([helper.make_node("Constant", [], ["c"], **attributes)]).constant("c")
    assert value is not None
    np.testing.assert_array_equal(value, expected)
    assert value.dtype == np.asarray(expected).dtype


def test_constants_pass_through_cast_and_transposition() -> None:
    stored = weights(2, 3, 4)
    nodes = [
        helper.make_node("Cast", ["stored"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["half"], ["c"]),
    ]
    value = scope_of(nodes, stored=stored).constant("c")
    np.testing.assert_array_equal(value, stored.astype(np.float16).T)


def test_inputs_computed_values_and_texts_are_not_constant() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Constant", [], ["text"], value_string="word"),
        helper.make_node("Constant", [], ["foreign"], domain="custom", value_int=1),
    ]
    scope = scope_of(nodes)
    assert [scope.constant(name) for name in ("x", "a", "b", "text", "foreign", "nowhere")] == [None] * 6


def test_inner_graphs_see_outer_constants_unless_they_hide_them() -> None:
    model = if_model()
    inner = [scope for scope in walk(model) if scope.path]
    assert {scope.path for scope in inner} == {((3, "then_branch"),), ((3, "else_branch"),)}
    for scope in inner:
        assert scope.constant("w") is not None
        assert scope_at(model, scope.path).graph == scope.graph
    inner[0].graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, None))
    hidden = scope_at(model, inner[0].path)
    assert hidden.constant("w") is None


def test_uses_are_counted_in_inner_graphs_too() -> None:
    model = if_model()
    uses = count_uses(model.graph)
    assert (uses["w"], uses["a"], uses["x"], uses["y"], uses["nothing"]) == (2, 3, 1, 1, 0)


def test_only_unread_candidates_are_dropped_with_what_made_them() -> None:
    nodes = [
        helper.make_node("Identity", ["stored"], ["same"]),
        helper.make_node("Cast", ["same"], ["unread"], to=TensorProto.FLOAT),
        conv(),
    ]
    model = small_model(nodes, {"stored": weights(2), "w": weights(4, 4, 3, 3), "other": weights(2)})
    drop_unused(model, {"unread", "w"})
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "other"]


def test_the_operator_set_of_the_default_domain() -> None:
    assert default_opset(small_model([conv()], {}, opset=13)) == 13
    assert default_opset(onnx.ModelProto()) == 0


def test_unique_names_count_up() -> None:
    taken = {"a", "a_2"}
    assert [unique_name("a", taken), unique_name("a", taken), unique_name("b", taken)] == ["a_3", "a_4", "b"]
