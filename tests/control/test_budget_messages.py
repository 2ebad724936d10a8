import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dac.budget_messages import budget_from_message, budget_to_message
from edge_dac.errors import BudgetError
from edge_dac.planning.budget import Budget, LayerRank

positive = st.floats(1e-3, 1e6)
maybe = lambda values: st.one_of(st.none(), values)  # noqa: E731 - reads as the word it is
ranks = st.one_of(
    st.just(LayerRank("dense")),
    st.builds(LayerRank, st.sampled_from(["dac", "spatial"]), st.integers(1, 512)),
    st.builds(LayerRank, st.just("tucker"), st.tuples(st.integers(1, 512), st.integers(1, 512))),
)
budgets = st.builds(
    Budget,
    latency_ms=positive,
    percentile=st.integers(1, 99),
    max_error=maybe(st.floats(0, 10)),
    mac_fraction=maybe(st.floats(0.01, 1)),
    memory_bytes=maybe(st.integers(1, 2**50)),
    uniform_rank=maybe(st.integers(1, 512)),
    layer_ranks=st.dictionaries(st.text(min_size=1, max_size=8), ranks, max_size=3),
)


@given(budgets)
def test_round_trip(budget):
    message = budget_to_message(budget)
    assert budget_from_message(type(message).FromString(message.SerializeToString())) == budget


def test_latency_over_the_wire_is_a_promise_for_the_95th_percentile():
    message = budget_to_message(Budget(latency_ms=5.0))
    assert message.percentile == 50
    message.ClearField("percentile")
    assert budget_from_message(message).percentile == 95


def test_speedup_without_latency_and_empty_budget():
    for budget in (Budget(speedup=2.0), Budget()):
        assert budget_from_message(budget_to_message(budget)) == budget


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_unusable_numbers_are_refused_at_the_door(value):
    message = budget_to_message(Budget())
    message.latency_ms = value
    with pytest.raises(BudgetError, match="latency_ms"):
        budget_from_message(message)


def test_three_ranks_are_refused():
    message = budget_to_message(Budget())
    message.layer_ranks["conv1"].rank.extend([1, 2, 3])
    with pytest.raises(BudgetError, match="conv1"):
        budget_from_message(message)
