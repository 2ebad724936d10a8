"""From a chain of factors back to one kernel."""

from __future__ import annotations

from functools import reduce

import numpy as np

from edge_dac.convolution import Factor, Factorization, FloatArray
from edge_dac.errors import UsageError


def compose(factorization: Factorization) -> FloatArray:
    """The kernel ``[out, in/groups, *kernel]`` that the chain of factors computes, in the factors' precision.

    ``groups`` is the smallest number of groups in the chain. The factors must divide the kernel's axes among
    themselves: on every axis at most one of them is longer than 1, as in every scheme of this package.

    Raises:
        UsageError: two factors are longer than 1 on one axis, or their channels or groups do not fit.
    """
    first, *others = factorization.factors
    start = (first.weight, first.attributes.groups)
    return reduce(_apply, others, start)[0]


def _apply(inner: tuple[FloatArray, int], outer: Factor) -> tuple[FloatArray, int]:
    """Kernel and groups of ``outer`` after ``inner``.

    The finer of the two partitions into groups cuts the channels between the factors into independent blocks; the
    coarser one is the partition of the result.
    """
    first, first_groups = inner
    second, second_groups = outer.weight, outer.attributes.groups
    blocks, groups = max(first_groups, second_groups), min(first_groups, second_groups)
    middle = first.shape[0]
    if middle != second.shape[1] * second_groups or blocks % groups or middle % blocks:
        raise UsageError(f"compose: {second.shape} in {second_groups} groups does not follow {first.shape}")
    kernels = list(zip(second.shape[2:], first.shape[2:], strict=True))
    if any(min(pair) > 1 for pair in kernels):
        raise UsageError(f"compose: {second.shape} and {first.shape} share a kernel axis")
    kernel = tuple(max(pair) for pair in kernels)

    per_group, inputs, outputs = blocks // groups, first.shape[1], second.shape[0]
    right = first.reshape(blocks, middle // blocks, -1)  # [b, m, i * k1]
    if second_groups == groups:  # the blocks part the inputs of a group, as in dac
        left = second.reshape(groups, outputs // groups, per_group, middle // blocks, -1)
        left = left.transpose(0, 2, 1, 4, 3)  # [g, s, o, k2, m]
    else:  # the blocks part the outputs of a group, as in decoupled
        left = second.reshape(groups, per_group, outputs // blocks, middle // blocks, -1)
        left = left.transpose(0, 1, 2, 4, 3)
    block_outputs, taps = left.shape[2:4]
    product = left.reshape(blocks, block_outputs * taps, middle // blocks) @ right
    product = product.reshape(groups, per_group, block_outputs, *second.shape[2:], inputs, *first.shape[2:])
    axes = len(kernel)
    interleaved = [3 + axis + offset for axis in range(axes) for offset in (0, axes + 1)]  # k2 and k1 of each axis
    if second_groups == groups:
        product = product.transpose(0, 2, 1, 3 + axes, *interleaved)
        return product.reshape(outputs, per_group * inputs, *kernel), groups
    product = product.transpose(0, 1, 2, 3 + axes, *interleaved)
    return np.ascontiguousarray(product).reshape(outputs, inputs, *kernel), groups
