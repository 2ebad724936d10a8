"""What a factorization does to the layer's output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_dac.convolution import ConvLayer, Factorization, FloatArray
from edge_dac.schemes.composition import compose
from edge_dac.schemes.metric import check_moments
from edge_dac.schemes.scheme import Moments, ProbedMoments


class LayerError:
    """Mean squared error of a layer's output over the output's variance, for inputs with given moments.

    With ``D = W - W_hat``: ``(tr(D S D^T) + |D mu + b - b_hat|^2) / tr(W S W^T)``; where activations are rounded, the noise
    of that comes on top (a twelfth of the squared step; Widrow, IRE Trans. Circuit Theory 3, 1956). Of probed moments the
    first term is estimated as ``|D Z|^2`` (Hutchinson, Comm. Statist. Simulation 18, 1989). The same probes serve every
    factorization and ``W`` itself, so that comparisons are sharper than single estimates.

    Args:
        layer: the layer as it was.
        moments: of its input, best from other inputs than those that were fitted to.

    Raises:
        UsageError: ``moments`` do not fit the layer.
    """

    def __init__(self, layer: ConvLayer, moments: Moments | ProbedMoments) -> None:
        check_moments(layer, moments)
        self._layer = layer
        self._moments = moments
        self._output_variance = self._variance(_by_group(layer, layer.weight))

    def of(self, factorization: Factorization) -> float:
        """The error of ``factorization``; 0 where nothing is lost, even if the output never varies."""
        difference = _by_group(self._layer, self._layer.weight - compose(factorization))
        offset = (difference @ self._moments.mean[..., None]).ravel()
        if self._layer.bias is not None:
            offset = offset + self._layer.bias
        if factorization.bias is not None:
            offset = offset - factorization.bias
        lost = self._variance(difference) + float(np.square(offset, dtype=np.float64).sum())
        lost += _rounding_noise(self._layer, factorization)
        return lost / max(self._output_variance, 1e-300) if lost > 0 else 0.0

    def _variance(self, kernels: FloatArray) -> float:
        """``tr(K S K^T)`` summed over groups, for ``K [g, n, d]``."""
        if isinstance(self._moments, Moments):
            return float(np.sum((kernels @ self._moments.covariance) * kernels, dtype=np.float64))
        probed = np.square(kernels @ self._moments.probes, dtype=np.float64).sum(axis=(1, 2))
        return float((probed + self._moments.isotropic * np.square(kernels, dtype=np.float64).sum(axis=(1, 2))).sum())


def layer_error(layer: ConvLayer, factorization: Factorization, moments: Moments) -> float:
    """:class:`LayerError` of one factorization.

    Raises:
        UsageError: ``moments`` do not fit the layer.
    """
    return LayerError(layer, moments).of(factorization)


def with_corrected_bias(layer: ConvLayer, factorization: Factorization, moments: Moments) -> Factorization:
    """The factorization with bias ``b + (W - W_hat) mu``: the mean output is the layer's."""
    difference = _by_group(layer, layer.weight - compose(factorization))
    offset = (difference @ moments.mean[..., None]).ravel()
    bias = offset if layer.bias is None else layer.bias + offset
    return replace(factorization, bias=bias.astype(layer.weight.dtype))


def _rounding_noise(layer: ConvLayer, factorization: Factorization) -> float:
    """Mean squared error of the output from rounding what each factor reads and the last writes, summed over channels."""
    quantization = factorization.quantization
    if quantization is None or not quantization.grids:
        return 0.0
    total = quantization.grids[-1].scale ** 2 * layer.out_channels
    for index, grid in enumerate(quantization.grids[:-1]):
        rest = compose(replace(factorization, factors=factorization.factors[index:]))
        total += grid.scale**2 * sum(float(np.vdot(row, row)) for row in rest.reshape(len(rest), -1))
    return total / 12


def _by_group(layer: ConvLayer, kernel: FloatArray) -> FloatArray:
    groups = layer.attributes.groups
    return kernel.reshape(groups, layer.out_channels // groups, -1)
