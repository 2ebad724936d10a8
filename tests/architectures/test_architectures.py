"""Every architecture goes through: found, folded, rewritten with its own weights, run, and unchanged in its outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from architectures import (
    build_cifar_vgg,
    build_mobilenet_v2,
    build_pose_network,
    build_resnet18,
    build_resnet50,
    build_ssd300,
    build_text_recognizer,
    build_unet,
    build_vgg16,
)
from architectures.catalogue import REQUESTED, SMALL, Build
from architectures.comparison import assert_same_outputs, same_layer
from edge_dac.graph.canonical import canonicalize
from edge_dac.graph.layers import find_layers
from edge_dac.graph.rewriting import replace_layers
from edge_dac.graph.shapes import resolve_input_shapes

FULL: dict[str, Build] = {
    "vgg16": build_vgg16,
    "cifar_vgg": build_cifar_vgg,
    "ssd300": build_ssd300,
    "pose": build_pose_network,
    "resnet18": build_resnet18,
    "resnet50": build_resnet50,
    "mobilenet_v2": build_mobilenet_v2,
    "unet": build_unet,
    "text_recognizer": build_text_recognizer,
}


@pytest.mark.parametrize("name", SMALL)
def test_goes_through_unchanged(name: str) -> None:
    build, layer_count, refusals = SMALL[name]
    model = build()
    shapes = resolve_input_shapes(model, REQUESTED.get(name, {}))
    canonical = canonicalize(model)
    assert not [node for node in canonical.graph.node if node.op_type == "BatchNormalization"]
    inventory = find_layers(canonical, shapes)
    assert len(inventory.layers) == layer_count
    found = [refusal.reason for refusal in inventory.refusals]
    assert {reason: found.count(reason) for reason in found} == refusals
    assert all(None not in layer.input_size for layer in inventory.layers)
    rewritten = replace_layers(canonical, inventory, {layer.name: same_layer for layer in inventory.layers})
    onnx.checker.check_model(rewritten)
    assert_same_outputs(model, rewritten, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_goes_through_at_full_size(name: str) -> None:
    model = FULL[name]()
    shapes = resolve_input_shapes(model, REQUESTED.get(name, {}))
    canonical = canonicalize(model)
    inventory = find_layers(canonical, shapes)
    rewritten = replace_layers(canonical, inventory, {layer.name: same_layer for layer in inventory.layers})
    assert_same_outputs(model, rewritten, shapes)


def test_ssd300_makes_the_published_number_of_boxes() -> None:
    model = build_ssd300(width=1 / 32)
    inferred = onnx.shape_inference.infer_shapes(model)
    boxes, scores = (
        tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in inferred.graph.output
    )
    assert boxes == (1, 8732, 4)
    assert scores == (1, 8732, 21)


def test_sizes_that_follow_the_input_are_not_static() -> None:
    model = build_text_recognizer(width=1 / 4)
    layers = find_layers(model, {"image": (1, 3, 48, 96)}).layers
    convolutions = [layer for layer in layers if layer.operator == "Conv"]
    assert convolutions
    assert not any(layer.static_size for layer in convolutions)
    assert convolutions[0].input_size == (48, 96)


def test_weights_come_from_constant_nodes() -> None:
    model = build_text_recognizer(width=1 / 4)
    assert not model.graph.initializer
    layers = find_layers(model, {"image": (1, 3, 48, 96)}).layers
    assert all(np.isfinite(layer.weight).all() for layer in layers)
