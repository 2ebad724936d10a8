"""``int8``: the kernel itself in 8-bit integers.

Weights are rounded to a grid of each output channel, activations to one of each tensor (Jacob et al., arXiv 1712.05877;
scales per channel as in Krishnamoorthi, arXiv 1806.08342). The multiply-accumulates stay; where the processor has integer
dot products each takes a quarter of the time. No low-rank structure is needed, and every layer loses about the same.
Weights are rounded in the metric of the input's moments, and the mean of what rounding moves goes into the bias (Nagel et
al., arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_dac.convolution import (
    Affine,
    ConvLayer,
    Factor,
    Factorization,
    FactorShape,
    FloatArray,
    Quantization,
    Rank,
    Reason,
    Refusal,
)
from edge_dac.errors import UsageError
from edge_dac.schemes.composition import compose
from edge_dac.schemes.error import with_corrected_bias
from edge_dac.schemes.metric import check_moments, shrunk_covariance
from edge_dac.schemes.rounding import nearest_on_grid, round_in_metric
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments, Scheme, squares

OLDEST_CONVOLUTION_OPSET, OLDEST_PRODUCT_OPSET = 10, 11
"""``QLinearConv`` and ``DynamicQuantizeLinear`` exist since these."""

LARGEST_BIAS = 2.0**30
"""A bias is added as a 32-bit integer; what it is added to needs the rest."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny) * 2**30

REACH = 12.0
"""Standard deviations that a grid between two factors reaches: features are sparse, with long tails. A step is a tenth of
one, and its noise less than a thousandth of the variance."""

FARTHEST_MEAN = 8.0
"""A channel between two factors that hardly varies is scaled by its mean instead."""


class Int8(Scheme):
    """One factor with rounded weights; its rank is the number of bits of a weight.

    7 bits are for processors whose integer products of pairs are summed up in 16 bits that overflow (x86 without VNNI).
    """

    name = "int8"
    computes_integers = True

    def refuse(self, layer: ConvLayer) -> Refusal | None:
        """Applies to depthwise layers too, and saves no multiply-accumulates."""
        found = self.inapplicable(layer)
        return None if found is None else Refusal(layer.name, found[0], f"{layer.name}: {self.name}: {found[1]}")

    def inapplicable(self, layer: ConvLayer) -> tuple[Reason, str] | None:
        oldest = OLDEST_CONVOLUTION_OPSET if layer.axes else OLDEST_PRODUCT_OPSET
        if layer.opset < oldest:
            return Reason.UNSUPPORTED_OPERATOR, f"needs operator set {oldest} or newer, the model has {layer.opset}"
        if np.dtype(layer.dtype) != np.float32:
            return Reason.UNSUPPORTED_TYPE, f"expected float32, got {np.dtype(layer.dtype)}"
        return None

    def ranks(self, layer: ConvLayer) -> Sequence[Rank]:
        return (7, 8)

    def candidate_ranks(self, layer: ConvLayer, fractions: Sequence[float], multiple: int = 8) -> list[Rank]:
        return [7, 8]

    def shapes(self, layer: ConvLayer, rank: Rank) -> tuple[FactorShape, ...]:
        return (layer.shape,)

    def decompose(
        self, layer: ConvLayer, moments: Moments | None = None, shrinkage: float = DEFAULT_SHRINKAGE
    ) -> Decomposition:
        """Round the weights, so that the output moves least for inputs with these moments.

        Args:
            moments: a convolution's must have ranges; a matrix product finds its input's range anew in every run, and
                without moments each of its weights is rounded by itself.

        Raises:
            UsageError: a convolution's ranges are not known, or ``moments`` do not fit the layer.
        """
        if layer.axes and (moments is None or moments.ranges is None):
            raise UsageError(f"{layer.name}: int8: expected the ranges of its input and output, got none")
        if moments is not None:
            check_moments(layer, moments)
        return _Rounding(layer, moments, shrinkage)


@dataclass(frozen=True, eq=False)
class _Rounding(Decomposition):
    layer: ConvLayer
    moments: Moments | None
    shrinkage: float

    def weight_error(self, rank: Rank) -> float:
        """Row by row: a weight can be very large, and this holds it in other forms."""
        (factor,) = self.at(rank).factors
        steps = factor.steps
        assert steps is not None
        rows = zip(self.layer.weight, factor.values, steps, strict=True)
        return sum(squares((weight - integers * step)[None]) for weight, integers, step in rows)

    def at(self, rank: Rank) -> Factorization:
        Int8().check_rank(self.layer, rank)
        dense = Factorization("int8", rank, (Factor(self.layer.weight, self.layer.attributes),), self.layer.bias)
        metric = None if self.moments is None else shrunk_covariance(self.moments, self.shrinkage)
        return quantize(self.layer, dense, self.moments, int(np.max(rank)), metric)


def quantize(
    layer: ConvLayer,
    factorization: Factorization,
    moments: Moments | None,
    bits: int,
    metric: FloatArray | None = None,
) -> Factorization:
    """A factorization of ``layer`` with rounded weights, to be computed in integers; its mean output is the layer's.

    What stands between two factors has channels of very different variance (principal components, say). Each is scaled to
    variance 1, which changes nothing, so that one grid serves all, from :data:`REACH` deviations below the means to as many
    above.

    Args:
        factorization: its first factor has the layer's groups.
        moments: with ranges; None for a matrix product, whose grids are found anew in every run.
        bits: of a weight.
        metric: ``[groups, d, d]``, in which the first factor's weights are rounded; None for each by itself.

    Raises:
        UsageError: a convolution's ranges are not known.
    """
    if layer.axes == 0:
        made = replace(
            factorization,
            factors=tuple(rounded(factor, bits, metric=metric) for factor in factorization.factors),
            quantization=Quantization(),
        )
        return made if moments is None else with_corrected_bias(layer, made, moments)
    if moments is None or moments.ranges is None:
        raise UsageError(f"{layer.name}: int8: expected the ranges of its input and output, got none")
    factors = list(factorization.factors)
    last = len(factors) - 1
    grids = [Affine.covering(*moments.ranges.source)]
    for index in range(last):
        factors[index], factors[index + 1], grid = _normalized(layer, factors[: index + 2], moments)
        grids.append(grid)
    biases = [None] * last + [factorization.bias]
    on_grids = [
        rounded(factor, bits, bias, grid, None if index else metric)
        for index, (factor, bias, grid) in enumerate(zip(factors, biases, grids, strict=True))
    ]
    quantization = Quantization((*grids, Affine.covering(*moments.ranges.target)))
    made = replace(factorization, factors=tuple(on_grids), quantization=quantization)
    return with_corrected_bias(layer, made, moments)


def _normalized(layer: ConvLayer, factors: list[Factor], moments: Moments) -> tuple[Factor, Factor, Affine]:
    """The last two of the factors so far, with channels of variance 1 between them, and a grid for those."""
    before, after = factors[-2:]
    prefix = compose(Factorization("prefix", 1, tuple(factors[:-1]), None))
    groups = layer.attributes.groups
    kernels = _centred(prefix, layer.kernel).reshape(groups, len(prefix) // groups, -1)
    means = (kernels @ moments.mean[..., None]).ravel()
    variances = np.maximum(((kernels @ moments.covariance) * kernels).sum(axis=-1).ravel(), 0)
    spreads = np.maximum(np.sqrt(variances), np.abs(means) / FARTHEST_MEAN)
    spreads = np.maximum(spreads, np.maximum(1e-6 * spreads.max(), SMALLEST_SCALE))
    means = means / spreads
    weight = after.weight.reshape(after.attributes.groups, -1, *after.weight.shape[1:])
    columns = spreads.reshape(len(weight), 1, -1, *(1,) * layer.axes)
    rows = spreads.reshape(-1, *(1,) * (before.weight.ndim - 1))
    dtype = before.weight.dtype
    return (
        replace(before, values=(before.weight / rows).astype(dtype)),
        replace(after, values=(weight * columns).reshape(after.weight.shape).astype(dtype)),
        Affine.covering(float(means.min()) - REACH, float(means.max()) + REACH),
    )


def _centred(weight: FloatArray, kernel: tuple[int, ...]) -> FloatArray:
    """``weight`` in the middle of a kernel of zeros of another size."""
    result = np.zeros((*weight.shape[:2], *kernel), weight.dtype)
    begins = [(large - small) // 2 for large, small in zip(kernel, weight.shape[2:], strict=True)]
    places = (slice(begin, begin + extent) for begin, extent in zip(begins, weight.shape[2:], strict=True))
    result[(slice(None), slice(None), *places)] = weight
    return result


def rounded(
    factor: Factor,
    bits: int,
    bias: FloatArray | None = None,
    source: Affine | None = None,
    metric: FloatArray | None = None,
) -> Factor:
    """The factor on a grid of each output channel, whose end the largest weight takes.

    Args:
        bits: of a weight.
        bias: ``[out]``, added in integers; the grid is coarse enough that it stays within 32 bits.
        source: grid of the factor's input, which the bias is counted in.
        metric: ``[groups, d, d]`` of the factor's input, in which weights are rounded; None for each by itself.
    """
    weight = factor.weight
    largest = np.array([np.abs(row).max() for row in weight])
    steps: FloatArray = np.maximum(largest / (2 ** (bits - 1) - 1), SMALLEST_SCALE)
    if source is not None and bias is not None:
        steps = np.maximum(steps, np.abs(bias) / (source.scale * LARGEST_BIAS))
    steps = np.asarray(steps, np.float32)
    groups, most = factor.attributes.groups, 2 ** (bits - 1) - 1
    rows, grids = weight.reshape(groups, len(weight) // groups, -1), steps.reshape(groups, -1)
    integers = nearest_on_grid(rows, grids, most) if metric is None else round_in_metric(rows, metric, grids, most)
    return Factor(integers.reshape(weight.shape), factor.attributes, steps)
