"""The metric in which fits to moments minimise the error."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_dac.convolution import ConvLayer, FloatArray
from edge_dac.errors import UsageError
from edge_dac.schemes.scheme import Moments, ProbedMoments


def check_moments(layer: ConvLayer, moments: Moments | ProbedMoments) -> None:
    """Raise where ``moments`` are not of this layer's patches.

    Raises:
        UsageError: a shape does not fit the layer.
    """
    groups = layer.attributes.groups
    size = layer.in_channels // groups * math.prod(layer.kernel)
    if isinstance(moments, Moments):
        kind, got, expected = "a covariance", moments.covariance.shape, (groups, size, size)
    else:
        kind, got, expected = "probes", moments.probes.shape, (groups, size, moments.probes.shape[-1])
    if got != expected or moments.mean.shape != (groups, size):
        raise UsageError(
            f"{layer.name}: moments: expected {kind} {expected} and its mean, got {got} and {moments.mean.shape}"
        )


def shrunk_covariance(moments: Moments, shrinkage: float) -> FloatArray:
    """``(1 - s) S + s tr(S)/d I``, positive definite (Ledoit & Wolf, J. Multivariate Analysis 88, 2004; ``s`` fixed).

    A layer whose input never varies gets the identity.

    Args:
        shrinkage: ``s``, above 0 up to 1.

    Raises:
        UsageError: ``shrinkage`` is out of range.
    """
    if not 0 < shrinkage <= 1:
        raise UsageError(f"shrinkage: expected a share above 0 up to 1, got {shrinkage}")
    covariance = moments.covariance
    size = covariance.shape[-1]
    result = covariance * covariance.dtype.type(1 - shrinkage)
    variances = np.trace(covariance, axis1=1, axis2=2, dtype=np.float64) / size
    diagonal = np.arange(size)
    result[:, diagonal, diagonal] += np.where(variances > 0, shrinkage * variances, 1.0)[:, None].astype(result.dtype)
    return result


def shrunk_probes(moments: ProbedMoments, shrinkage: float) -> ProbedMoments:
    """:func:`shrunk_covariance` of moments that are only known along random directions."""
    variances = np.square(moments.probes, dtype=np.float64).sum(axis=(1, 2)) / moments.probes.shape[1]
    kept = moments.probes * moments.probes.dtype.type(np.sqrt(1 - shrinkage))
    return replace(moments, probes=kept, isotropic=(1 - shrinkage) * moments.isotropic + shrinkage * variances)


def grouped_kernels(layer: ConvLayer, dtype: npt.DTypeLike) -> FloatArray:
    """The weight as ``[g, n, c, *kernel]``, ``n`` outputs and ``c`` inputs a group."""
    groups = layer.attributes.groups
    return layer.weight.reshape(groups, layer.out_channels // groups, *layer.weight.shape[1:]).astype(dtype)


def tap_metric(blocks: FloatArray) -> FloatArray:
    """How alike the inputs of different taps are: ``[g, p, s, p, s]`` averaged over ``p``, with mean diagonal 1.

    Together with a metric of the rows it stands for the covariance as a Kronecker product.
    """
    averaged: FloatArray = np.diagonal(blocks, axis1=1, axis2=3).mean(axis=-1)
    scaled: FloatArray = averaged / np.trace(averaged, axis1=1, axis2=2)[:, None, None] * averaged.shape[-1]
    return scaled
