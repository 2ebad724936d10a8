"""Choose one candidate per layer under limits on latency, multiply-accumulates and size.

One limit is an exact multiple-choice knapsack. Several limits are combined into one (a surrogate, Glover 1975) whose
multipliers are searched; every answer is checked against all limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_dac.planning.candidates import Candidate
from edge_dac.planning.knapsack import Selection, solve

Array = npt.NDArray[np.float64]

SURROGATE_STEPS = 12


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate for one layer with everything that selection looks at.

    Attributes:
        latency_ms: in place of the layer, predicted.
        macs: multiply-accumulates.
        size_bytes: of its weights.
        error: relative error of the layer's output, squared norm over squared norm.
        damage: predicted relative error of the model's outputs from this layer alone.
    """

    candidate: Candidate
    latency_ms: float
    macs: int
    size_bytes: int
    error: float
    damage: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest totals over the considered layers; None where there is no limit."""

    latency_ms: float | None = None
    macs: float | None = None
    size_bytes: float | None = None

    def given(self) -> dict[str, float]:
        """The limits that are set, by the name of the option's attribute."""
        named = {"latency_ms": self.latency_ms, "macs": self.macs, "size_bytes": self.size_bytes}
        return {name: value for name, value in named.items() if value is not None}


OBJECTIVES: Mapping[str, float] = {"sum": 1.0, "sum_of_roots": 0.5, "sum_of_squares": 2.0}
"""Exponents on a layer's damage: how quickly a large damage in one layer outweighs small ones in many."""


def cheapest_damage(options: Sequence[Sequence[Option]], limits: Limits, exponent: float = 1.0) -> list[int] | None:
    """Index of the chosen option of every layer: least sum of damage**exponent within all limits; None if there is none."""
    costs = [np.array([option.damage**exponent for option in entry]) for entry in options]
    given = limits.given()
    if not given:
        return list(_solve_or_fail([np.zeros(len(entry)) for entry in options], costs, 0.0).items)
    totals = {name: [_values(entry, name) for entry in options] for name in given}
    if len(given) == 1:
        ((name, limit),) = given.items()
        selection = solve(totals[name], costs, limit)
        return None if selection is None else list(selection.items)
    return _surrogate(totals, given, costs)


def fastest_within(options: Sequence[Sequence[Option]], max_damage: float) -> list[int]:
    """Index of the chosen option of every layer: least latency with a total damage of at most ``max_damage``."""
    weights = [np.array([option.damage for option in entry]) for entry in options]
    costs = [_values(entry, "latency_ms") for entry in options]
    return list(_solve_or_fail(weights, costs, max_damage).items)


def _values(entry: Sequence[Option], name: str) -> Array:
    return np.array([float(getattr(option, name)) for option in entry])


def _solve_or_fail(weights: list[Array], costs: list[Array], limit: float) -> Selection:
    selection = solve(weights, costs, limit)
    if selection is None:
        raise AssertionError("every layer has the original as an option without damage")
    return selection


def _surrogate(totals: Mapping[str, list[Array]], limits: Mapping[str, float], costs: list[Array]) -> list[int] | None:
    names = list(limits)
    scaled = {name: [values / max(limits[name], 1e-12) for values in totals[name]] for name in names}
    multipliers = np.full(len(names), 1.0 / len(names))
    best: tuple[float, list[int]] | None = None
    for step in range(SURROGATE_STEPS):
        weights = [
            np.sum([m * scaled[name][layer] for m, name in zip(multipliers, names, strict=True)], axis=0)
            for layer in range(len(costs))
        ]
        selection = solve(weights, costs, float(multipliers.sum()))
        if selection is None:
            return best[1] if best else None  # A surrogate that cannot be met proves that the limits cannot.
        used = np.array(
            [sum(scaled[name][layer][item] for layer, item in enumerate(selection.items)) for name in names]
        )
        if np.all(used <= 1 + 1e-9) and (best is None or selection.cost < best[0]):
            best = (selection.cost, list(selection.items))
        multipliers = np.maximum(multipliers + (used - 1.0) / (step + 1), 1e-6)
        multipliers /= multipliers.sum()
    if best is not None:
        return best[1]
    return _repaired(scaled, names)


def _repaired(scaled: Mapping[str, list[Array]], names: Sequence[str]) -> list[int] | None:
    """The selection that is smallest in its worst limit, if it meets all of them."""
    chosen = [int(np.argmin(np.max(rows, axis=0))) for rows in zip(*(scaled[name] for name in names), strict=True)]
    used = [sum(scaled[name][layer][item] for layer, item in enumerate(chosen)) for name in names]
    return chosen if max(used) <= 1 + 1e-9 else None
