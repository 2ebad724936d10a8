"""Half a step of alternating least squares: better first factors of ``dac`` for given second ones."""

from __future__ import annotations

import numpy as np

from edge_dac.convolution import FloatArray

STEPS = 4
"""Steps of conjugate gradients; the filters need not be exact, because the mixers are refitted after."""


def better_filters(filters: FloatArray, mixers: FloatArray, covariance: FloatArray, response: FloatArray) -> FloatArray:
    """Lower ``tr(D S D^T)`` over the depthwise filters of one group by preconditioned conjugate gradients.

    The error is quadratic in the filters ``X [c, r, taps]``. Its Hessian takes ``X`` to the diagonal blocks of
    ``P P^T X S`` (``X`` as a block-diagonal matrix), which are computed alone. The preconditioner is its part within
    each channel.

    Args:
        filters: ``[c, taps, r]``, where to start.
        mixers: ``P``, ``[c, r, n]``.
        covariance: ``S``, ``[c * taps, c * taps]``.
        response: ``S W^T``, ``[c, taps, n]``.
    """
    inputs, taps, rank = filters.shape
    mixed = mixers.reshape(inputs * rank, -1)
    gram = (mixed @ mixed.T).reshape(inputs * rank, inputs, rank).transpose(1, 0, 2)  # [j, i * r, s]
    gram = np.ascontiguousarray(gram)
    columns = covariance.reshape(inputs * taps, inputs, taps).transpose(1, 0, 2)  # [i, j * taps, taps]

    def hessian(step: FloatArray) -> FloatArray:
        spread = (gram @ step).reshape(inputs, inputs, rank, taps).transpose(1, 2, 0, 3)  # [i, r, j, taps]
        result: FloatArray = spread.reshape(inputs, rank, inputs * taps) @ columns
        return result

    channel = np.arange(inputs)
    own_mixers = mixers @ mixers.swapaxes(1, 2)
    ridge = np.trace(own_mixers, axis1=1, axis2=2).mean() * np.sqrt(np.finfo(mixers.dtype).eps) + 1e-30
    inverse_mixers = np.linalg.inv(own_mixers + ridge * np.eye(rank, dtype=mixers.dtype))
    inverse_taps = np.linalg.inv(columns.reshape(inputs, inputs, taps, taps)[channel, channel])

    solution = filters.swapaxes(1, 2)
    residual = mixers @ response.swapaxes(1, 2) - hessian(solution)
    preconditioned = inverse_mixers @ residual @ inverse_taps
    direction, alignment = preconditioned, float(np.vdot(residual, preconditioned))
    for _ in range(STEPS):
        if alignment <= 0:  # solved to rounding
            break
        image = hessian(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0:
            break
        solution = solution + alignment / curvature * direction
        residual = residual - alignment / curvature * image
        preconditioned = inverse_mixers @ residual @ inverse_taps
        previous, alignment = alignment, float(np.vdot(residual, preconditioned))
        direction = preconditioned + alignment / previous * direction
    return solution.swapaxes(1, 2)
