"""A depthwise pair of rank r as r pairs of depthwise and pointwise convolutions, added.

ONNX Runtime's fast depthwise kernel takes exactly one output per group, and it adds within a convolution.
"""

from __future__ import annotations

from edge_dac.convolution import ConvLayer, Factorization, FactorShape, Refusal
from edge_dac.lowerings.depthwise_pair import find_pair, refuse_without_pair
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.lowerings.writer import Writer


class BranchSum:
    """``sum_j P_j (D_j x)`` for ``dac``, ``sum_j D_j (P_j x)`` for ``decoupled``."""

    name = "branch_sum"

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Applies to chains with a depthwise pair of rank above 1."""
        return refuse_without_pair(layer, chain)

    def lower(self, layer: ConvLayer, factorization: Factorization, input_name: str, output_name: str) -> LoweredLayer:
        """``2 r`` convolutions and ``r - 1`` additions for the pair."""
        pair = find_pair(factorization.chain)
        assert pair is not None, "refuse() admits only chains with a pair"
        writer = Writer(layer)
        before, after = factorization.factors[: pair.index], factorization.factors[pair.index + 2 :]
        source = writer.chain(input_name, before)
        # The bias rides on the first term, so that each later one is exactly the Conv and Add that fuse.
        bias, output = (None, None) if after else (factorization.bias, output_name)
        total = ""
        for term, (first, second) in enumerate(pair.terms(factorization.factors)):
            middle = writer.convolution(f"term{term}/first", source, first.weight, first.attributes)
            name = f"term{term}/second"
            if term == 0:
                total = writer.convolution(name, middle, second.weight, second.attributes, bias)
                continue
            product = writer.convolution(name, middle, second.weight, second.attributes)
            total = writer.add(f"term{term}/sum", total, product, output if term == pair.rank - 1 else None)
        writer.chain(total, after, pair.index + 2, factorization.bias, output_name)
        return writer.finish()
