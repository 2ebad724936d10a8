"""Exact multiple-choice knapsack: one item from every class, least cost, total weight within a limit.

Dynamic programming over classes with dominance (Dyer, Kayal, Walker 1984; Kellerer, Pferschy, Pisinger, "Knapsack
Problems", chapter 11): a state is a (weight, cost) pair; states that another beats in both are dropped, and so are states
that cannot lead below the best known solution, by the linear relaxation of the classes still open. Weights stay real
milliseconds: nothing is rounded, so the result is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """Chosen item of every class, with the totals."""

    items: tuple[int, ...]
    weight: float
    cost: float


@dataclass(frozen=True, slots=True)
class _Class:
    """Undominated items of a class by rising weight, and the lower convex hull among them."""

    items: npt.NDArray[np.intp]
    weights: Array
    costs: Array
    hull: npt.NDArray[np.intp]


@np.errstate(over="ignore")  # a step that weighs next to nothing is steeper than any number
def solve(weights: Sequence[Array], costs: Sequence[Array], limit: float) -> Selection | None:
    """The selection of least cost whose weight does not exceed ``limit``; None if even the lightest exceeds it.

    Args:
        weights: one array per class, the weights of its items (any sign).
        costs: one array per class, the costs of its items.
        limit: largest total weight.
    """
    classes = [_undominated(np.asarray(w, float), np.asarray(c, float)) for w, c in zip(weights, costs, strict=True)]
    if sum(float(entry.weights[0]) for entry in classes) > limit:
        return None
    # Classes with many items last: states stay few for longer.
    order = sorted(range(len(classes)), key=lambda index: len(classes[index].items))
    ordered = [classes[index] for index in order]
    relaxations = _suffix_relaxations(ordered)
    bound = _greedy_cost(ordered, limit)
    positions = _sweep(ordered, relaxations, limit, bound)
    chosen = [0] * len(classes)
    for position, index in zip(positions, order, strict=True):
        chosen[index] = int(classes[index].items[position])
    return Selection(
        tuple(chosen),
        float(sum(float(weights[index][item]) for index, item in enumerate(chosen))),
        float(sum(float(costs[index][item]) for index, item in enumerate(chosen))),
    )


def _undominated(weights: Array, costs: Array) -> _Class:
    order = np.lexsort((costs, weights))
    best = np.minimum.accumulate(costs[order])
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = costs[order][1:] < best[:-1]
    items = order[keep]
    return _Class(items, weights[items], costs[items], _lower_hull(weights[items], costs[items]))


def _lower_hull(weights: Array, costs: Array) -> npt.NDArray[np.intp]:
    hull: list[int] = []
    for index in range(len(weights)):
        while len(hull) >= 2 and not _convex(weights, costs, hull[-2], hull[-1], index):
            hull.pop()
        hull.append(index)
    return np.array(hull, dtype=np.intp)


def _convex(weights: Array, costs: Array, first: int, middle: int, last: int) -> bool:
    rise = (costs[middle] - costs[first]) * (weights[last] - weights[middle])
    return bool(rise < (costs[last] - costs[middle]) * (weights[middle] - weights[first]))


def _hull_steps(entry: _Class) -> tuple[Array, Array]:
    """Weight and (negative) cost of every step from one hull item to the next."""
    return np.diff(entry.weights[entry.hull]), np.diff(entry.costs[entry.hull])


def _suffix_relaxations(classes: list[_Class]) -> list[tuple[Array, Array]]:
    """For every suffix of classes the relaxed least cost as a piecewise linear function of the weight spent."""
    relaxations = [(np.zeros(1), np.zeros(1))]
    base_weight = base_cost = 0.0
    step_weights, step_costs = np.zeros(0), np.zeros(0)
    for entry in reversed(classes):
        base_weight += float(entry.weights[0])
        base_cost += float(entry.costs[0])
        added_weights, added_costs = _hull_steps(entry)
        step_weights = np.concatenate([step_weights, added_weights])
        step_costs = np.concatenate([step_costs, added_costs])
        steepest = np.argsort(step_costs / np.where(step_weights > 0, step_weights, np.inf), kind="stable")
        step_weights, step_costs = step_weights[steepest], step_costs[steepest]
        relaxations.append(
            (
                base_weight + np.concatenate([[0.0], np.cumsum(step_weights)]),
                base_cost + np.concatenate([[0.0], np.cumsum(step_costs)]),
            )
        )
    return relaxations[::-1]


def _greedy_cost(classes: list[_Class], limit: float) -> float:
    """Cost of a good feasible selection: hull steps by steepness while they fit."""
    spent = sum(float(entry.weights[0]) for entry in classes)
    cost = sum(float(entry.costs[0]) for entry in classes)
    steps = []
    for index, entry in enumerate(classes):
        for number, (weight, saving) in enumerate(zip(*_hull_steps(entry), strict=True)):
            steps.append((float(saving / weight), index, number, float(weight), float(saving)))
    taken = [0] * len(classes)
    for _, index, number, weight, saving in sorted(steps):
        if taken[index] == number and spent + weight <= limit:
            taken[index] += 1
            spent += weight
            cost += saving
    return cost


def _sweep(classes: list[_Class], relaxations: list[tuple[Array, Array]], limit: float, bound: float) -> list[int]:
    state_weights, state_costs = np.zeros(1), np.zeros(1)
    history: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = []
    tolerance = 1e-12 * max(1.0, abs(bound))
    slack = 1e-12 * max(1.0, abs(limit))
    for entry, (suffix_weights, suffix_costs) in zip(classes, relaxations[1:], strict=True):
        weights = (state_weights[:, None] + entry.weights[None, :]).ravel()
        costs = (state_costs[:, None] + entry.costs[None, :]).ravel()
        room = limit - weights
        reachable = room >= suffix_weights[0] - slack
        # With the slack here too: the bound may come from a step that fits only by rounding.
        hopeful = costs + np.interp(room + slack, suffix_weights, suffix_costs) <= bound + tolerance
        alive = np.flatnonzero(reachable & hopeful)
        order = alive[np.lexsort((costs[alive], weights[alive]))]
        best = np.minimum.accumulate(costs[order])
        keep = np.ones(len(order), dtype=bool)
        keep[1:] = costs[order][1:] < best[:-1]
        survivors = order[keep]
        history.append((survivors // len(entry.weights), survivors % len(entry.weights)))
        state_weights, state_costs = weights[survivors], costs[survivors]
    state = int(np.argmin(state_costs))
    positions: list[int] = []
    for parents, choices in reversed(history):
        positions.append(int(choices[state]))
        state = int(parents[state])
    return positions[::-1]
