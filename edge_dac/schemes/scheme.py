"""What every scheme offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_dac.convolution import ConvLayer, FactorShape, Factorization, FloatArray, Rank, Refusal
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a layer's input patches.

    Attributes:
        mean: ``[groups, d]`` with ``d = in/groups * prod(kernel)``, in the order of ``weight[o].ravel()``.
        covariance: ``[groups, d, d]``, centred.
        count: number of patches they were taken from.
    """

    mean: FloatArray
    covariance: FloatArray
    count: int


class Decomposition(Protocol):
    """All ranks of one scheme for one layer, from one decomposition."""

    def at(self, rank: Rank) -> Factorization:
        """The factorization at ``rank``."""

    def weight_error(self, rank: Rank) -> float:
        """Squared Frobenius norm of the weight error at ``rank`` (Eckart-Young tail; Tucker: measured)."""


class Scheme(Protocol):
    """An algebraic way to write one kernel as a chain of cheaper ones."""

    name: str

    def refuse(self, layer: ConvLayer) -> Refusal | None:
        """Why the scheme does not apply to ``layer``, or None."""

    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        """All ranks from cheapest to full."""

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        """Shapes of the chain at ``rank``: MACs and latency without any arithmetic on weights."""

    def macs(self, layer: ConvLayer, rank: Rank) -> int:
        """Multiply-accumulates at the layer's profiled shape: ``layer.chain_macs(self.shapes(layer, rank))``."""

    def decompose(self, layer: ConvLayer, moments: Moments | None = None) -> Decomposition:
        """Decompose once for all ranks; weighted by ``moments`` where given, else by the plain Frobenius norm."""

    def factorize(self, layer: ConvLayer, rank: Rank, moments: Moments | None = None) -> Factorization:
        """``decompose(layer, moments).at(rank)``.

        Raises:
            UsageError: ``rank`` is not one of ``ranks(layer)``.
        """
