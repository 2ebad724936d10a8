"""What every lowering offers: a factorization in, ONNX nodes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import onnx

from edge_dac.convolution import ConvLayer, Factorization, FactorShape, Refusal


@dataclass(frozen=True, eq=False)
class LoweredLayer:
    """ONNX nodes that stand in a layer's place.

    Attributes:
        nodes: in topological order; the first reads ``input_name``, the last writes ``output_name``. Every node,
            tensor and initializer made here is named ``<layer name>/<suffix>``.
        initializers: constants of the nodes, in the layer's dtype (shapes and bounds in int64).
    """

    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto] = field(default_factory=list)


class Lowering(Protocol):
    """One way to write a chain of factors. All lowerings of a factorization compute the same function."""

    @property
    def name(self) -> str:
        """Its name in plans and on the command line."""

    def refuse(self, layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
        """Why this lowering does not apply to a chain in the place of ``layer``, or None."""

    def lower(self, layer: ConvLayer, factorization: Factorization, input_name: str, output_name: str) -> LoweredLayer:
        """Write ``factorization`` as nodes from ``input_name`` to ``output_name``; only where ``refuse`` gives None."""
