"""Predicted and measured latency ratios."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_dac.planning.correction import LatencyCorrection

RATIOS = st.floats(0.02, 0.97)


def test_predictions_are_believed_until_something_was_measured() -> None:
    correction = LatencyCorrection()
    assert correction.measured_for(0.4) == pytest.approx(0.4)
    assert correction.predicted_for(0.4) == pytest.approx(0.4)


@given(RATIOS, st.floats(0.4, 1.0), st.floats(0.5, 1.0))
def test_the_share_of_the_saving_that_arrived_goes_on_below_a_measured_plan(
    predicted: float, gain: float, further: float
) -> None:
    correction = LatencyCorrection()
    correction.observe(predicted, 1.0 - gain * (1.0 - predicted))
    assert correction.measured_for(predicted * further) == pytest.approx(1.0 - gain * (1.0 - predicted * further))


@given(RATIOS, RATIOS, st.floats(0.05, 0.95))
def test_a_target_between_two_measured_plans_is_interpolated(first: float, second: float, share: float) -> None:
    low, high = sorted((first, second))
    if high - low < 1e-3:
        return
    correction = LatencyCorrection()
    correction.observe(low, 0.9 * low + 0.1)
    correction.observe(high, 0.9 * high + 0.1)
    predicted = low + share * (high - low)
    assert correction.measured_for(predicted) == pytest.approx(0.9 * predicted + 0.1)
    assert correction.predicted_for(0.9 * predicted + 0.1) == pytest.approx(predicted)


@given(RATIOS, RATIOS, RATIOS)
def test_whatever_a_noisy_device_says_a_slower_target_is_never_answered_below_the_plan_that_met_it(
    fast_predicted: float, fast_measured: float, target: float
) -> None:
    """A plan that was measured faster than the target bounds the search from below."""
    correction = LatencyCorrection()
    correction.observe(fast_predicted, fast_measured)
    if target > fast_measured:
        assert correction.predicted_for(target) >= min(fast_predicted, 1.0) - 1e-12


@given(RATIOS, st.floats(0.0, 3.0), RATIOS)
def test_one_absurd_measurement_does_not_throw_the_next_target_beyond_reason(
    predicted: float, measured: float, target: float
) -> None:
    correction = LatencyCorrection()
    correction.observe(predicted, measured)
    lowest = min(predicted, 1.0 - (1.0 - target) / 0.4)
    assert lowest - 1e-9 <= correction.predicted_for(target) <= max(1.0, predicted) + 1e-9


def test_the_same_prediction_measured_again_replaces_what_was_known() -> None:
    correction = LatencyCorrection()
    correction.observe(0.5, 0.9)
    correction.observe(0.5, 0.6)
    assert correction.measured_for(0.5) == pytest.approx(0.6)


def test_plans_that_change_next_to_nothing_teach_nothing() -> None:
    correction = LatencyCorrection()
    correction.observe(0.995, 1.05)
    assert correction.predicted_for(0.5) == pytest.approx(0.5)


@given(st.lists(st.tuples(RATIOS, RATIOS), min_size=1, max_size=6), RATIOS, RATIOS)
@example([(0.84375, 0.125), (0.125, 0.125)], 0.4375, 0.5)  # more of the saving arrived than is plausible
def test_a_faster_target_is_never_answered_by_a_slower_prediction(
    observed: list[tuple[float, float]], first: float, second: float
) -> None:
    correction = LatencyCorrection()
    for predicted, measured in observed:
        correction.observe(predicted, measured)
    faster, slower = sorted((first, second))
    assert correction.measured_for(faster) <= correction.measured_for(slower) + 1e-9
    assert correction.predicted_for(faster) <= correction.predicted_for(slower) + 1e-9


def test_plans_that_missed_a_target_in_the_wrong_order_lead_below_them_all() -> None:
    correction = LatencyCorrection()
    for predicted, measured in ((0.223, 0.264), (0.206, 0.293), (0.202, 0.266)):
        correction.observe(predicted, measured)
        aim = correction.predicted_for(0.2475)
    assert aim < 0.19
