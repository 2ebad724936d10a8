"""Every factor as one node. For a ``dac`` chain that is the paper's form, which goes by the name ``multiplier``."""

from __future__ import annotations

from edge_dac.convolution import ConvLayer, Factorization, FactorShape, Reason, Refusal
from edge_dac.lowerings.depthwise_pair import find_pair, refuse_without_pair
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.lowerings.writer import Writer


class Direct:
    """Factor after factor, each one ``Conv`` (or matrix product); the bias on the last."""

    name = "direct"

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Applies to every chain, but leaves one with a channel multiplier to ``multiplier``, which is the same."""
        if find_pair(chain) is None:
            return None
        message = "the chain has a channel multiplier: `multiplier` writes the same nodes"
        return Refusal(layer.name, Reason.NO_GAIN, message)

    def lower(self, layer: ConvLayer, factorization: Factorization, input_name: str, output_name: str) -> LoweredLayer:
        """One node a factor."""
        writer = Writer(layer)
        writer.chain(input_name, factorization.factors, bias=factorization.bias, output=output_name)
        return writer.finish()


class Multiplier(Direct):
    """The paper's form of ``dac``: one grouped convolution with a channel multiplier, then the pointwise one."""

    name = "multiplier"

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Applies to chains with a depthwise pair of rank above 1."""
        return refuse_without_pair(layer, chain)
