"""What of a map's range can be cut off at no more cost than rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dac.statistics.clipping import Pointwise, Values, range_that_counts


def silu(values: Values) -> Values:
    result: Values = values / (1 + np.exp(-values))
    return result


def leaky(values: Values) -> Values:
    return np.where(values < 0, values * np.float32(0.1), values)


def hard_sigmoid(values: Values) -> Values:
    return np.clip(values / 6 + np.float32(0.5), 0, 1)


def identity(values: Values) -> Values:
    return values


FUNCTIONS = (silu, leaky, hard_sigmoid, identity, np.square, np.zeros_like)


@pytest.mark.filterwarnings("ignore:overflow")
@given(low=st.floats(-80, 20), width=st.floats(0.01, 100), follow=st.sampled_from(FUNCTIONS))
def test_cutting_off_costs_about_as_much_as_rounding(low: float, width: float, follow: Pointwise) -> None:
    high = low + width
    found = range_that_counts(low, high, follow)
    assert low - 1e-5 <= found[0] <= max(low, 0.0) + 1e-5
    assert min(high, 0.0) - 1e-5 <= found[1] <= high + 1e-5
    values = np.linspace(low, high, 1001, dtype=np.float32)
    after = follow(values)
    lost = np.abs(follow(np.clip(values, *map(np.float32, found))) - after).max()
    assert lost <= 0.51 * np.ptp(after) / 255 + 1e-5 * np.abs(after).max()


def test_the_far_end_of_what_becomes_nothing_goes() -> None:
    low, high = range_that_counts(-40.0, 10.0, silu)
    assert -8 < low < -4
    assert high == pytest.approx(10.0, abs=0.1)
    low, high = range_that_counts(-40.0, 40.0, hard_sigmoid)
    assert low == pytest.approx(-3, abs=0.5)
    assert high == pytest.approx(3, abs=0.5)


def test_where_all_counts_nothing_goes() -> None:
    assert range_that_counts(-4.0, 3.0, identity) == pytest.approx((-4.0, 3.0), abs=0.05)
    assert range_that_counts(2.0, 2.0, silu) == (2.0, 2.0)
