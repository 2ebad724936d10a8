"""What edge-dac is compared with inside ONNX Runtime: one scheme for all layers, fitted to the weights alone."""

from __future__ import annotations

from collections.abc import Callable

from edge_dac.convolution import ConvLayer, Factorization, Rank
from edge_dac.graph.loading import serialize_and_discard
from edge_dac.graph.rewriting import MakeReplacement, replace_layers
from edge_dac.lowerings import LOWERINGS, LoweredLayer
from edge_dac.planning.subject import Subject
from edge_dac.schemes import SCHEMES

DAC_LOWERINGS = ("multiplier", "concat", "branch_sum")
SINGLE_SCHEMES = ("dac", "spatial_vh", "spatial_hv", "channel", "tucker")

RankRule = Callable[[ConvLayer, str], Rank | None]
"""From a layer and a scheme's name to a rank; None leaves the layer alone."""


def one_rank(rank: int) -> RankRule:
    """The paper's form: the same rank everywhere, at most the full rank of the layer."""

    def rule(layer: ConvLayer, scheme: str) -> Rank | None:
        full = SCHEMES[scheme].ranks(layer)[-1]
        return min(rank, full) if isinstance(full, int) else None

    return rule


def one_mac_fraction(fraction: float) -> RankRule:
    """The rank of most MACs that are not above ``fraction`` of the layer's own."""

    def rule(layer: ConvLayer, scheme: str) -> Rank | None:
        limit = fraction * layer.macs
        affordable = [rank for rank in SCHEMES[scheme].ranks(layer) if SCHEMES[scheme].macs(layer, rank) <= limit]
        return max(affordable, key=lambda rank: SCHEMES[scheme].macs(layer, rank), default=None)

    return rule


def single_scheme(subject: Subject, scheme: str, rule: RankRule) -> dict[str, Factorization]:
    """Factorizations from the weights alone, by layer name, of every layer that scheme and rule take."""
    found: dict[str, Factorization] = {}
    for layer in subject.inventory.layers:
        if SCHEMES[scheme].refuse(layer) is None:
            rank = rule(layer, scheme)
            if rank is not None:
                found[layer.name] = SCHEMES[scheme].factorize(layer, rank)
    return found


def mac_fraction(subject: Subject, factorizations: dict[str, Factorization]) -> float:
    """Multiply-accumulates of all layers, relative to the original's."""
    layers = subject.inventory.layers
    spent = sum(
        layer.chain_macs(factorizations[layer.name].chain) if layer.name in factorizations else layer.macs
        for layer in layers
    )
    return spent / sum(layer.macs for layer in layers)


def lowered(subject: Subject, factorizations: dict[str, Factorization], lowering: str) -> bytes:
    """The model with every factorization in one lowering; ``direct`` where that does not apply to a layer."""
    replacements = {name: _replacement(factors, lowering) for name, factors in factorizations.items()}
    return serialize_and_discard(replace_layers(subject.proto, subject.inventory, replacements), subject.path)


def _replacement(factorization: Factorization, lowering: str) -> MakeReplacement:
    def replace(layer: ConvLayer, input_name: str, output_name: str) -> LoweredLayer:
        refused = LOWERINGS[lowering].refuse(layer, factorization.chain) is not None
        chosen = LOWERINGS["direct" if refused else lowering]
        return chosen.lower(layer, factorization, input_name, output_name)

    return replace
