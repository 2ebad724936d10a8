"""What a factorization does to the layer's output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_dac.convolution import ConvLayer, Factorization, FloatArray
from edge_dac.schemes.composition import compose
from edge_dac.schemes.metric import check_moments
from edge_dac.schemes.scheme import Moments


def layer_error(layer: ConvLayer, factorization: Factorization, moments: Moments) -> float:
    """Mean squared error of the layer's output over the output's variance, for inputs with these moments.

    With ``D = W - W_hat``: ``(tr(D S D^T) + |D mu + b - b_hat|^2) / tr(W S W^T)``; 0 where the output never varies and
    nothing is lost.

    Raises:
        UsageError: ``moments`` do not fit the layer.
    """
    check_moments(layer, moments)
    weight, difference = _by_group(layer, layer.weight), _by_group(layer, layer.weight - compose(factorization))
    offset = (difference @ moments.mean[..., None]).ravel()
    if layer.bias is not None:
        offset = offset + layer.bias
    if factorization.bias is not None:
        offset = offset - factorization.bias
    lost = _variance(difference, moments.covariance) + float(np.square(offset, dtype=np.float64).sum())
    return lost / max(_variance(weight, moments.covariance), 1e-300) if lost > 0 else 0.0


def with_corrected_bias(layer: ConvLayer, factorization: Factorization, moments: Moments) -> Factorization:
    """The factorization with bias ``b + (W - W_hat) mu``: the mean output is the layer's."""
    difference = _by_group(layer, layer.weight - compose(factorization))
    offset = (difference @ moments.mean[..., None]).ravel()
    bias = offset if layer.bias is None else layer.bias + offset
    return replace(factorization, bias=bias.astype(layer.weight.dtype))


def _by_group(layer: ConvLayer, kernel: FloatArray) -> FloatArray:
    groups = layer.attributes.groups
    return kernel.reshape(groups, layer.out_channels // groups, -1)


def _variance(kernels: FloatArray, covariance: FloatArray) -> float:
    """``tr(K S K^T)`` summed over groups."""
    return float(np.sum((kernels @ covariance) * kernels, dtype=np.float64))
