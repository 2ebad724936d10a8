"""What every scheme offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_dac.convolution import ConvLayer, Factorization, FactorShape, FloatArray, Rank, Reason, Refusal
from edge_dac.errors import UsageError
from edge_dac.schemes.composition import compose

DEFAULT_SHRINKAGE = 0.2


@dataclass(frozen=True, slots=True)
class Ranges:
    """Least and largest values seen of a layer's input, and of its output after the activation that ends in it."""

    source: tuple[float, float]
    target: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a layer's input patches.

    Attributes:
        mean: ``[groups, d]`` with ``d = in/groups * prod(kernel)``, in the order of ``weight[o].ravel()``.
        covariance: ``[groups, d, d]``, centred. Fits are computed in its precision.
        count: number of patches they were taken from.
        ranges: of the values around the layer, where they are known.
    """

    mean: FloatArray
    covariance: FloatArray
    count: int
    ranges: Ranges | None = None


@dataclass(frozen=True, eq=False)
class ProbedMoments:
    """Moments whose covariance ``S`` is only known along random directions: enough to judge, not to fit.

    Attributes:
        mean: ``[groups, d]``.
        probes: ``Z [groups, d, probes]`` with ``E[Z Z^T] = S`` less its isotropic part.
        isotropic: ``[groups]``, a multiple of the identity in ``S``.
    """

    mean: FloatArray
    probes: FloatArray
    isotropic: FloatArray


class Decomposition(ABC):
    """All ranks of one scheme for one layer, from one decomposition."""

    layer: ConvLayer

    @abstractmethod
    def at(self, rank: Rank) -> Factorization:
        """The factorization at ``rank``; arrays may be views shared between ranks and are not to be written to.

        Raises:
            UsageError: the scheme does not offer ``rank`` for this layer.
        """

    def weight_error(self, rank: Rank) -> float:
        """Squared Frobenius norm of the weight error: the Eckart-Young tail where it holds, else measured."""
        return squares(self.layer.weight - compose(self.at(rank)))


def lack_of_taps(layer: ConvLayer) -> tuple[Reason, str] | None:
    """Why a scheme that takes taps apart does not apply to the layer; None where there are several."""
    if math.prod(layer.kernel) == 1:
        return Reason.KERNEL_SHAPE, "expected a kernel of more than one tap"
    return None


def squares(weight: FloatArray) -> float:
    """Sum of the squares, summed in float64 row by row: what a weight is made of can be the largest array of a model."""
    return sum(float(np.square(row, dtype=np.float64).sum()) for row in weight)


class Scheme(ABC):
    """An algebraic way to write one kernel as a chain of cheaper ones.

    With ``groups > 1`` every group is factorized by itself, and ranks count within one group.
    """

    name: str
    computes_integers = False
    """Whether the factors are meant for integer arithmetic; see ``Factorization.quantization``."""

    @abstractmethod
    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        """What in the layer's shape the scheme cannot use, or None."""

    @abstractmethod
    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        """All ranks from cheapest to full."""

    @abstractmethod
    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        """Shapes of the chain at ``rank``: MACs and latency without any arithmetic on weights."""

    @abstractmethod
    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        """Ranks whose MACs are near the given fractions of the dense layer's, all below it, cheapest first.

        Args:
            fractions: wanted shares of the dense layer's MACs. ``dac`` and ``decoupled`` have few ranks and give all.
            multiple: other ranks are rounded to multiples of this, because inference engines block channels.
        """

    @abstractmethod
    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        """Decompose once for all ranks.

        Args:
            moments: minimise the error of the layer's output for inputs with these moments, and correct the bias by
                the mean output error; without, minimise the Frobenius norm of the weight error.
            shrinkage: share of the isotropic covariance mixed into the measured one, above 0 up to 1.

        Raises:
            UsageError: ``shrinkage`` is out of range, or ``moments`` do not fit the layer.
        """

    def refuse(self, layer: ConvLayer) -> Refusal | None:
        """Why the scheme does not apply to ``layer``, or None."""
        depthwise = layer.attributes.groups == layer.in_channels > 1
        if depthwise:
            found: tuple[Reason, str] | None = (Reason.DEPTHWISE, "depthwise, one input channel a group")
        else:
            found = self.inapplicable(layer)
        if found is None and self.macs(layer, self.ranks(layer)[0]) >= layer.macs:
            found = (Reason.NO_GAIN, "the cheapest rank takes as many multiply-accumulates as the layer")
        return None if found is None else Refusal(layer.name, found[0], f"{layer.name}: {self.name}: {found[1]}")

    def macs(self, layer: ConvLayer, rank: Rank) -> int:
        """Multiply-accumulates at the layer's profiled shape."""
        return layer.chain_macs(self.shapes(layer, rank))

    def offers(self, layer: ConvLayer, rank: Rank) -> bool:
        """Whether ``rank`` can be factorized."""
        return rank in self.ranks(layer)

    def check_rank(self, layer: ConvLayer, rank: Rank) -> None:
        """Raise where ``rank`` cannot be factorized.

        Raises:
            UsageError: the scheme does not offer ``rank`` for this layer.
        """
        if not self.offers(layer, rank):
            ranks = self.ranks(layer)
            raise UsageError(f"{layer.name}: {self.name}: expected a rank from {ranks[0]} to {ranks[-1]}, got {rank}")

    def factorize(
        self,
        layer: ConvLayer,
        rank: Rank,
        moments: Moments | None = None,
        shrinkage: float = DEFAULT_SHRINKAGE,
    ) -> Factorization:
        """``decompose(layer, moments, shrinkage).at(rank)``.

        Raises:
            UsageError: the scheme does not offer ``rank`` for this layer.
        """
        self.check_rank(layer, rank)
        return self.decompose(layer, moments, shrinkage).at(rank)
