"""The paper's form (Li et al., WACV 2019): ``dac`` at one rank in every layer that can take it, and what it saves."""

from __future__ import annotations

import math

import onnx

from edge_dac.convolution import ConvLayer
from edge_dac.graph.layers import Inventory
from edge_dac.graph.rewriting import MakeReplacement, Replacement, replace_layers
from edge_dac.lowerings import LOWERINGS
from edge_dac.schemes import SCHEMES

DAC = SCHEMES["dac"]


def at_uniform_rank(model: onnx.ModelProto, inventory: Inventory, rank: int, lowering: str) -> onnx.ModelProto:
    """``rank`` in every layer, or the full rank where that is smaller."""

    def replacement(layer: ConvLayer, input_name: str, output_name: str) -> Replacement:
        factorization = DAC.factorize(layer, taken_rank(layer, rank))
        # A chain without a channel multiplier (one input channel, or rank 1) has the plain form only.
        name = "direct" if LOWERINGS[lowering].refuse(layer, factorization.chain) else lowering
        return LOWERINGS[name].lower(layer, factorization, input_name, output_name)

    replacements: dict[str, MakeReplacement] = {
        layer.name: replacement for layer in inventory.layers if DAC.refuse(layer) is None
    }
    return replace_layers(model, inventory, replacements)


def taken_rank(layer: ConvLayer, rank: int) -> int:
    return min(rank, math.prod(layer.kernel), layer.out_channels // layer.attributes.groups)


def saved_by_formula(layer: ConvLayer, rank: int) -> int:
    """``c n k2`` of the layer less ``r c (k2 + n)`` of its factors, at every output pixel."""
    taps = math.prod(layer.kernel)
    if DAC.refuse(layer) is not None:
        return 0
    groups, channels, out, r = layer.attributes.groups, layer.in_channels, layer.out_channels, taken_rank(layer, rank)
    pixels = math.prod(extent or 0 for extent in layer.output_size) * layer.batch
    return pixels * (channels * out * taps // groups - r * channels * (taps + out // groups))
