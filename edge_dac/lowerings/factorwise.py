"""The frame of lowerings that rewrite single factors: those that can take the form take it, the others stay direct."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from edge_dac.convolution import ConvLayer, Factor, Factorization, FactorShape, FloatArray, Reason, Refusal, SpatialSize
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.lowerings.writer import Writer


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a factor stands.

    Attributes:
        source: tensor it reads, ``[N, in, *size]``.
        output: name of the tensor it must write, or None if any name will do.
        suffix: prefix of the names of its nodes within the layer.
        size: spatial size of its input where known.
        bias: ``[out]`` to add to its output, or None.
    """

    source: str
    output: str | None
    suffix: str
    size: SpatialSize
    bias: FloatArray | None


class FactorwiseLowering(ABC):
    """A lowering that is defined by how it writes one factor."""

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Applies if any factor of the chain can take the form."""
        refusal = self.refuse_layer(layer)
        if refusal is not None:
            return refusal
        refusals = [self.refuse_factor(layer, shape) for shape in chain]
        reasons = [refusal for refusal in refusals if refusal is not None]
        if len(reasons) < len(refusals):
            return None
        # A kernel that does not fit says little where another factor's would fit.
        return next((refusal for refusal in reasons if refusal.reason is not Reason.KERNEL_SHAPE), reasons[0])

    def lower(self, layer: ConvLayer, factorization: Factorization, input_name: str, output_name: str) -> LoweredLayer:
        """Factor after factor; the bias in the last."""
        writer = Writer(layer)
        source, size = input_name, layer.input_size
        last = len(factorization.factors) - 1
        for index, factor in enumerate(factorization.factors):
            bias = factorization.bias if index == last else None
            output = output_name if index == last else None
            if self.refuse_factor(layer, factor.shape) is None:
                source = self.write_factor(writer, factor, Place(source, output, f"factor{index}", size, bias))
            else:
                source = writer.chain(source, (factor,), index, bias, output)
            size = factor.attributes.output_size(factor.shape.kernel, size)
        return writer.finish()

    @abstractmethod
    def refuse_layer(self, layer: ConvLayer) -> Refusal | None:
        """Why no chain in the place of ``layer`` can take the form, or None."""

    @abstractmethod
    def refuse_factor(self, layer: ConvLayer, shape: FactorShape) -> Refusal | None:
        """Why this factor cannot take the form, or None."""

    @abstractmethod
    def write_factor(self, writer: Writer, factor: Factor, place: Place) -> str:
        """Write the factor's nodes; returns the tensor they end in."""
