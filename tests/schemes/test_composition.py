from __future__ import annotations

import numpy as np
import pytest

from edge_dac.convolution import ConvAttributes, Factor, Factorization
from edge_dac.errors import UsageError
from edge_dac.schemes.composition import compose


def chain(*factors: tuple[tuple[int, ...], int]) -> Factorization:
    rng = np.random.default_rng(0)
    convolutions = (
        Factor(rng.standard_normal(shape), ConvAttributes.pointwise(len(shape) - 2, groups))
        for shape, groups in factors
    )
    return Factorization("drawn", 1, tuple(convolutions), None)


def test_one_factor_is_its_own_kernel() -> None:
    single = chain(((4, 3, 3, 3), 1))
    assert compose(single) is single.factors[0].weight


def test_factors_that_share_a_kernel_axis_are_refused() -> None:
    with pytest.raises(UsageError, match="share a kernel axis"):
        compose(chain(((4, 3, 3, 1), 1), ((5, 4, 3, 1), 1)))


def test_factors_whose_channels_do_not_meet_are_refused() -> None:
    with pytest.raises(UsageError, match="does not follow"):
        compose(chain(((4, 3, 1, 1), 1), ((5, 3, 1, 1), 1)))
