"""The depthwise factor of rank r as r depthwise convolutions, concatenated, before one pointwise convolution."""

from __future__ import annotations

import numpy as np

from edge_dac.convolution import ConvLayer, Factorization, FactorShape, Reason, Refusal
from edge_dac.lowerings.depthwise_pair import find_pair, refuse_without_pair
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.lowerings.writer import Writer


class Concat:
    """``[P_1 ... P_r] [D_1 x; ...; D_r x]``: the concatenation is rank-major, so the pointwise weight is reordered."""

    name = "concat"

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Applies to ungrouped chains with a depthwise factor of rank above 1 before a pointwise one."""
        pair = find_pair(chain)
        if pair is None:
            return refuse_without_pair(layer, chain)
        if not pair.depthwise_first:
            return Refusal(layer.name, Reason.KERNEL_SHAPE, "needs the depthwise factor first, found it last")
        groups = chain[pair.index + 1].attributes.groups
        if groups != 1:
            message = f"rank-major channels would cross groups: expected 1 group, got {groups}"
            return Refusal(layer.name, Reason.GROUPS, message)
        return None

    def lower(self, layer: ConvLayer, factorization: Factorization, input_name: str, output_name: str) -> LoweredLayer:
        """``r`` depthwise convolutions, ``Concat``, one pointwise convolution for the pair."""
        pair = find_pair(factorization.chain)
        assert pair is not None, "refuse() admits only chains with a pair"
        writer = Writer(layer)
        before, after = factorization.factors[: pair.index], factorization.factors[pair.index + 2 :]
        source = writer.chain(input_name, before)
        terms = list(pair.terms(factorization.factors))
        maps = [
            writer.convolution(f"term{term}/first", source, first.weight, first.attributes)
            for term, (first, _) in enumerate(terms)
        ]
        joined = writer.node("Concat", "concat", maps, axis=1)
        weight = np.concatenate([second.weight for _, second in terms], axis=1)
        bias, output = (None, None) if after else (factorization.bias, output_name)
        result = writer.convolution("second", joined, weight, terms[0][1].attributes, bias, output)
        writer.chain(result, after, pair.index + 2, factorization.bias, output_name)
        return writer.finish()
