from __future__ import annotations

import itertools

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_dac.planning.knapsack import solve

items = st.lists(
    st.tuples(st.floats(0, 10, allow_subnormal=False), st.floats(0, 10, allow_subnormal=False)), min_size=1, max_size=5
)


@settings(max_examples=300, deadline=None)
@example(classes=[[(0.0, 1.0), (1e-108, 0.0)], [(1.0, 0.0)]], limit=1.0)  # fits by rounding only
@given(st.lists(items, min_size=1, max_size=5), st.floats(0, 40))
def test_equals_enumeration(classes: list[list[tuple[float, float]]], limit: float) -> None:
    weights = [np.array([weight for weight, _ in entry]) for entry in classes]
    costs = [np.array([cost for _, cost in entry]) for entry in classes]
    selection = solve(weights, costs, limit)

    # Sums in another order differ by rounding: what fits by a hair may or may not count as fitting.
    def least_cost(allowed: float) -> float:
        return min(
            (
                sum(item[1] for item in combination)
                for combination in itertools.product(*classes)
                if sum(item[0] for item in combination) <= allowed
            ),
            default=np.inf,
        )

    found = np.inf if selection is None else selection.cost
    assert least_cost(limit + 1e-9) - 1e-9 <= found <= least_cost(limit - 1e-9) + 1e-9
    if selection is not None:
        assert selection.weight <= limit + 1e-9


def test_large_instance_is_exact_and_quick() -> None:
    random = np.random.default_rng(0)
    weights = [np.sort(random.uniform(0.1, 5, 40))[::-1] for _ in range(120)]
    costs = [np.sort(random.uniform(0, 1, 40) ** 2) for _ in range(120)]
    lightest = sum(float(entry.min()) for entry in weights)
    heaviest = sum(float(entry.max()) for entry in weights)
    previous = np.inf
    for share in (0.1, 0.3, 0.6, 0.9):
        selection = solve(weights, costs, lightest + share * (heaviest - lightest))
        assert selection is not None
        assert selection.cost <= previous
        previous = selection.cost


def test_impossible_limit_has_no_selection() -> None:
    assert solve([np.array([2.0, 3.0])], [np.array([1.0, 0.0])], 1.9) is None
