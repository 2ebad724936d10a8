"""The pair of a depthwise and a pointwise factor in a chain, and its r terms.

Written out for a pair of rank r, the layer is a sum of r terms, each a depthwise and a pointwise convolution:

* ``dac``: ``y = P [D_1 x; ...; D_r x] = sum_j P_j (D_j x)``. The depthwise factor ``[c*r, 1, *kernel]`` has groups = c;
  ONNX numbers its outputs channel-major (c0 j0, c0 j1, ..., c1 j0, ...), and the pointwise factor ``[n, c*r/g, 1...]``
  reads that order. Term j takes the rows, respectively columns, ``j::r`` of the two.
* ``decoupled``, its mirror: ``y = sum_j D_j (P_j x)``. The pointwise factor ``[n*r, c/g, 1...]`` comes first, again
  channel-major; the last factor ``[n, r, *kernel]`` has groups = n.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FactorShape, Reason, Refusal


@dataclass(frozen=True, slots=True)
class DepthwisePair:
    """Where the pair stands in a chain. ``rank`` is above 1: with one term there is nothing to choose."""

    index: int
    rank: int
    depthwise_first: bool

    def terms(self, factors: tuple[Factor, ...]) -> Iterator[tuple[Factor, Factor]]:
        """The ``rank`` terms of the sum, each as the two factors in the order in which they act."""
        first, second = factors[self.index : self.index + 2]
        for term in range(self.rank):
            first_weight = first.weight[term :: self.rank]
            if self.depthwise_first:
                yield (
                    Factor(first_weight, first.attributes),
                    Factor(second.weight[:, term :: self.rank], second.attributes),
                )
            else:
                yield (
                    Factor(first_weight, first.attributes),
                    Factor(second.weight[:, term : term + 1], replace(second.attributes, groups=len(second.weight))),
                )


def find_pair(chain: tuple[FactorShape, ...]) -> DepthwisePair | None:
    """The first depthwise pair of rank above 1 in ``chain``."""
    for index, (first, second) in enumerate(itertools.pairwise(chain)):
        rank = _multiplier(first.attributes.groups, first.in_channels, first.out_channels)
        if rank > 1 and _is_pointwise(second, first.attributes.groups):
            return DepthwisePair(index, rank, depthwise_first=True)
        rank = _multiplier(second.attributes.groups, second.out_channels, second.in_channels)
        if rank > 1 and _is_pointwise(first, second.attributes.groups):
            return DepthwisePair(index, rank, depthwise_first=False)
    return None


def refuse_without_pair(layer: ConvLayer, chain: tuple[FactorShape, ...]) -> Refusal | None:
    """The refusal of lowerings that need a depthwise pair."""
    if find_pair(chain) is not None:
        return None
    return Refusal(layer.name, Reason.KERNEL_SHAPE, "needs a depthwise factor of rank above 1 beside a pointwise one")


def _multiplier(groups: int, single: int, multiple: int) -> int:
    """How many channels on the one side belong to each on the other, if every channel there has a group of its own."""
    return multiple // groups if groups == single and groups > 1 else 0


def _is_pointwise(shape: FactorShape, channels: int) -> bool:
    """Whether the factor is 1x1 and its groups leave each of the ``channels`` of its neighbour whole."""
    groups = shape.attributes.groups
    plain = shape.attributes == ConvAttributes.pointwise(len(shape.kernel), groups)
    return plain and bool(shape.kernel) and math.prod(shape.kernel) == 1 and channels % groups == 0
