"""``dense``: the kernel itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_dac.convolution import ConvLayer, Factor, Factorization, FactorShape, Rank, Reason, Refusal
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments, Scheme


class Dense(Scheme):
    """One factor, the layer as it is, at the only rank 1; applies to every layer, for lowerings may make it faster."""

    name = "dense"

    def refuse(self, layer: ConvLayer) -> Refusal | None:
        return None

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        return None

    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        return (1,)

    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        return [1]

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        return (layer.shape,)

    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        return _DenseDecomposition(layer)


@dataclass(frozen=True, eq=False)
class _DenseDecomposition(Decomposition):
    layer: ConvLayer

    def at(self, rank: Rank) -> Factorization:
        Dense().check_rank(self.layer, rank)
        return Factorization("dense", 1, (Factor(self.layer.weight, self.layer.attributes),), self.layer.bias)
