"""The paper's form on every architecture saves what its formula says, and at full rank changes nothing."""

from __future__ import annotations

import pytest

from architectures import build_vgg16
from architectures.catalogue import REQUESTED, SMALL
from architectures.comparison import assert_same_outputs, count_macs, random_inputs, run
from architectures.uniform_rank import DAC, at_uniform_rank, saved_by_formula, taken_rank
from edge_dac.convolution import ConvLayer
from edge_dac.graph.canonical import canonicalize
from edge_dac.graph.layers import find_layers
from edge_dac.graph.shapes import resolve_input_shapes


@pytest.mark.parametrize("name", SMALL)
def test_macs_saved_match_the_formula(name: str) -> None:
    model = canonicalize(SMALL[name][0]())
    shapes = resolve_input_shapes(model, REQUESTED.get(name, {}))
    inventory = find_layers(model, shapes)
    cut = at_uniform_rank(model, inventory, 2, "branch_sum")
    saved = sum(saved_by_formula(layer, 2) for layer in inventory.layers)
    assert count_macs(model, shapes) - count_macs(cut, shapes) == saved
    assert all(output.size for output in run(cut, random_inputs(model, shapes), optimize=True))


@pytest.mark.parametrize("name", SMALL)
def test_full_rank_reproduces_the_network(name: str) -> None:
    model = SMALL[name][0]()
    canonical = canonicalize(model)
    shapes = resolve_input_shapes(model, REQUESTED.get(name, {}))
    inventory = find_layers(canonical, shapes)
    full = at_uniform_rank(canonical, inventory, 1000, "multiplier")
    assert_same_outputs(model, full, shapes, 1e-4)


def test_macs_of_the_layers_are_those_of_the_graph() -> None:
    model = canonicalize(SMALL["vgg16"][0]())
    shapes = resolve_input_shapes(model, {})
    layers = find_layers(model, shapes).layers
    assert sum(layer.macs for layer in layers) == count_macs(model, shapes)


@pytest.fixture(scope="module")
def vgg16_layers() -> tuple[ConvLayer, ...]:
    model = build_vgg16(head=False)
    return find_layers(model, resolve_input_shapes(model, {})).layers


def test_vgg16_has_the_published_cost(vgg16_layers: tuple[ConvLayer, ...]) -> None:
    assert sum(layer.macs for layer in vgg16_layers) == 15_346_630_656


def test_rank_four_saves_the_published_share_of_vgg16(vgg16_layers: tuple[ConvLayer, ...]) -> None:
    """53 % of the multiply-accumulates of VGG16 (Li et al., WACV 2019); counted on shapes, nothing is factorized."""
    saved = sum(layer.macs - DAC.macs(layer, taken_rank(layer, 4)) for layer in vgg16_layers)
    assert saved / sum(layer.macs for layer in vgg16_layers) == pytest.approx(0.53, abs=0.01)
