"""Finding layers in every graph of a model, under unique names."""

from __future__ import annotations

import pytest
from graph.small_models import conv, if_model, loop_model, small_model, weights
from onnx import helper

from edge_dac.convolution import Reason
from edge_dac.errors import ModelFormatError
from edge_dac.graph.layers import Site, find_layers

SHAPES = {"x": (1, 4, 10, 12)}


def test_layers_in_branches_are_found_with_their_size() -> None:
    inventory = find_layers(if_model(), SHAPES)
    assert [layer.name for layer in inventory.layers] == ["first", "conv", "inner"]
    assert [layer.input_size for layer in inventory.layers] == [(10, 12)] * 3
    assert inventory.sites == {
        "first": Site((), 0),
        "conv": Site(((3, "else_branch"),), 0),
        "inner": Site(((3, "then_branch"),), 0),
    }


def test_layers_in_a_loop_are_found_without_a_size_that_could_change() -> None:
    (layer,) = find_layers(loop_model(), SHAPES).layers
    assert (layer.name, layer.static_size) == ("inside", False)


def test_layers_in_functions_are_refused() -> None:
    function = helper.make_function(
        "custom", "block", ["a", "k"], ["b"], [conv("a", "b", "inside", "k")], [helper.make_opsetid("", 17)]
    )
    model = small_model([helper.make_node("block", ["x", "w"], ["y"], domain="custom")], {"w": weights(4, 4, 3, 3)})
    model.functions.append(function)
    inventory = find_layers(model, SHAPES)
    assert not inventory.layers
    assert [(refusal.subject, refusal.reason) for refusal in inventory.refusals] == [
        ("inside", Reason.UNSUPPORTED_OPERATOR)
    ]


def test_nodes_that_share_a_weight_or_a_name_are_layers_of_their_own() -> None:
    nodes = [conv("x", "a", "same"), conv("a", "b", "same"), conv("b", "y", "")]
    inventory = find_layers(small_model(nodes, {"w": weights(4, 4, 3, 3)}), SHAPES)
    assert [layer.name for layer in inventory.layers] == ["same", "b", "y"]
    assert [layer.input_size for layer in inventory.layers] == [(10, 12), (8, 10), (6, 8)]


def test_dynamic_sizes_are_profiled_but_not_static() -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)}, ("batch", 4, "h", "w"))
    (layer,) = find_layers(model, {"x": (3, 4, 10, 12)}).layers
    assert (layer.batch, layer.input_size, layer.static_size) == (3, (10, 12), False)


def test_a_dynamic_batch_leaves_the_size_static() -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)}, ("batch", 4, 10, 12))
    (layer,) = find_layers(model, {"x": (3, 4, 10, 12)}).layers
    assert (layer.batch, layer.static_size) == (3, True)


def test_a_layer_behind_a_custom_operator_has_no_size() -> None:
    nodes = [helper.make_node("Unknown", ["x"], ["a"], domain="custom"), conv("a", "y")]
    (layer,) = find_layers(small_model(nodes, {"w": weights(4, 4, 3, 3)}), SHAPES).layers
    assert (layer.input_size, layer.static_size) == ((None, None), False)


def test_constants_of_an_old_ir_version_are_constant_though_inputs() -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)}, opset=9, ir_version=3)
    assert len(find_layers(model, SHAPES).layers) == 1


def test_data_that_do_not_fit_their_shape_are_an_error() -> None:
    model = small_model([conv()], {"w": weights(4, 4, 3, 3)})
    model.graph.initializer[0].raw_data = b"1234"
    with pytest.raises(ModelFormatError, match="'w'"):
        find_layers(model, SHAPES)
