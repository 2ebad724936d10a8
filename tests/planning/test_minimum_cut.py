"""Labels of least cost, against all labelings."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.planning.minimum_cut import cheapest_labels

COSTS = st.one_of(st.floats(-5, 5), st.just(float("inf")))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[float], list[float], dict[tuple[int, int], float]]:
    count = draw(st.integers(1, 6))
    off = draw(st.lists(COSTS, min_size=count, max_size=count))
    on = [draw(st.floats(-5, 5) if cost == float("inf") else COSTS) for cost in off]
    nodes = st.integers(0, count - 1)
    pairs = st.dictionaries(st.tuples(nodes, nodes).filter(lambda p: p[0] != p[1]), st.floats(0, 5), max_size=12)
    return off, on, draw(pairs)


def cost(off: list[float], on: list[float], pairs: dict[tuple[int, int], float], labels: tuple[bool, ...]) -> float:
    single = sum(on[node] if label else off[node] for node, label in enumerate(labels))
    return single + sum(price for (one, other), price in pairs.items() if not labels[one] and labels[other])


@settings(max_examples=200, deadline=None)
@given(problems())
def test_no_labels_cost_less(problem: tuple[list[float], list[float], dict[tuple[int, int], float]]) -> None:
    least = min(cost(*problem, labels) for labels in product((False, True), repeat=len(problem[0])))
    assert cost(*problem, tuple(cheapest_labels(*problem))) <= least + 1e-9


def test_of_equal_costs_nodes_are_off() -> None:
    assert cheapest_labels([1.0, 2.0], [1.0, 1.0], {}) == [False, True]
