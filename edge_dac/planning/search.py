"""From a budget to a measured proposal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_dac.planning.budget import Budget
from edge_dac.planning.candidates import ORIGINAL
from edge_dac.planning.conversions import in_integers
from edge_dac.planning.fits import weight_bytes
from edge_dac.planning.planner import MAX_CORRECTIONS, TOLERANCE, Planner
from edge_dac.planning.proposal import Proposal
from edge_dac.planning.ranks import choose_ranks
from edge_dac.planning.selection import Limits, Option
from edge_dac.progress import Progress

LADDER_POINTS = 6

USELESS_ERROR = 0.5
"""A point whose outputs are this far off (1: as good as answering the mean) is no rung of a ladder, meets no budget, and is
not the best that can be done where a budget cannot be met."""

EXACT_ERROR = 1e-6
"""Output error up to which a plan counts as exact: rounding of float32 through a deep network (a squared norm)."""

NEAR_WANTED = (0.75, 1.2)
"""Predicted shares of the wanted latency at which all kernels are tried in integers."""

OUT_OF_REACH = 1.25
"""A prediction this far beyond a limit is believed before anything was measured."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a search found.

    Attributes:
        proposal: the best selection; None where the original is best.
        met: whether it meets the budget.
        shortfall: one line on what was missed, empty if met.
        warnings: lines for the user.
    """

    proposal: Proposal | None
    met: bool
    shortfall: str = ""
    warnings: tuple[str, ...] = ()


def search(planner: Planner, budget: Budget) -> Outcome:
    """The proposal of least damage that meets ``budget`` when measured; else the nearest one.

    Raises:
        BudgetError: a rank is asked for a layer or scheme that does not exist, or fewer ranks in all than there are layers.
    """
    if budget.fixes_ranks:
        return _with_chosen_ranks(planner, budget)
    return _search_freely(planner, budget)


def _search_freely(planner: Planner, budget: Budget) -> Outcome:
    if not _limits(planner, budget).given():
        return _least_latency(planner, budget.max_error or 0.0)
    return _within_limits(planner, budget)


def target_ratio(planner: Planner, budget: Budget) -> float | None:
    """The wanted latency relative to the original's; a wish for a percentile is compared with the original's."""
    if budget.speedup is not None:
        return 1.0 / budget.speedup
    if budget.latency_ms is None:
        return None
    return budget.latency_ms / planner.original_percentile_ms(budget.percentile)


def _limits(planner: Planner, budget: Budget) -> Limits:
    """Limits on latency (of the whole model) and on MACs and size of the considered layers: what others use is taken off."""
    ratio = target_ratio(planner, budget)
    considered = {layer.name for layer in planner.considered}
    others = [layer for layer in planner.subject.inventory.layers if layer.name not in considered]
    macs = size = None
    if budget.mac_fraction is not None:
        total = sum(layer.macs for layer in planner.subject.inventory.layers)
        macs = max(budget.mac_fraction * total - sum(layer.macs for layer in others), 0.0)
    if budget.memory_bytes is not None:
        kept = planner.subject.detached.size_bytes - sum(weight_bytes(ORIGINAL, layer) for layer in planner.considered)
        size = max(budget.memory_bytes - kept, 0.0)
    return Limits(None if ratio is None else ratio * planner.reference_ms, macs, size)


def _least_latency(planner: Planner, max_error: float) -> Outcome:
    """The fastest selection whose error stays within ``max_error``; exact where that is 0."""
    exact = planner.propose(planner.fastest_exact())
    best = exact if exact.is_faster else None
    return Outcome(_faster_within(planner, max_error, best) if max_error > 0.0 else best, met=True)


def _faster_within(planner: Planner, max_error: float, best: Proposal | None) -> Proposal | None:
    """``best``, or a faster selection whose measured error stays within ``max_error``."""
    allowed = max_error
    for step in range(MAX_CORRECTIONS):
        planner.progress(Progress("verify", step / MAX_CORRECTIONS, "largest allowed error"))
        proposal = planner.propose(planner.select_fastest(planner.all_options, allowed))
        error = proposal.built.error
        if error <= max_error and proposal.is_faster and (best is None or proposal.built.ratio < best.built.ratio):
            best = proposal
        if max_error * 0.8 <= error <= max_error or error <= 0.0:
            break
        allowed *= float(np.clip(max_error * 0.9 / error, 0.2, 4.0))
    planner.progress(Progress("verify", 1.0, "done"))
    return best


def _within_limits(planner: Planner, budget: Budget) -> Outcome:
    limits = _limits(planner, budget)
    if budget.max_error != 0.0 and _is_out_of_reach(planner, limits):
        return _corrected(planner, budget)
    exact = planner.propose(planner.fastest_exact())
    if not _shortfalls(planner, exact, budget):
        return Outcome(exact if exact.is_faster else None, met=True)
    if _only_latency(limits) and (limits.latency_ms or 0.0) >= planner.reference_ms:
        return Outcome(exact if exact.is_faster else None, met=True)
    if budget.max_error == 0.0:
        return _missed(planner, exact, budget)
    return _corrected(planner, budget, exact)


def _is_out_of_reach(planner: Planner, limits: Limits) -> bool:
    """Whether the limit lies so far below what is exact that the largest of all models need not be built to know it."""
    if limits.latency_ms is None:
        return False
    predicted_ms = planner.predicted_ratio(planner.fastest_exact()) * planner.reference_ms
    return predicted_ms > OUT_OF_REACH * limits.latency_ms


def _corrected(planner: Planner, budget: Budget, nearest: Proposal | None = None) -> Outcome:
    """Select, build, measure, learn; until the measured latency is within the tolerance of the limit or nothing changes."""
    best: Proposal | None = None
    bearable = USELESS_ERROR if budget.max_error is None else budget.max_error
    is_passed_over = False
    tried: list[Mapping[str, Option]] = []
    met: list[Mapping[str, Option]] = []
    aim = 1.0 - TOLERANCE / 2
    whole = _whole_kernels(planner, _limits(planner, budget))
    for step in range(MAX_CORRECTIONS):
        planner.progress(Progress("verify", step / MAX_CORRECTIONS, "whole model"))
        limits = _limits(planner, budget)
        found = whole if whole is not None and not tried else planner.least_damage(_scaled(limits, aim))
        choices = planner.fastest_of_all() if found is None else found
        if choices in tried:
            if choices in met or found is None:
                break
            aim -= TOLERANCE / 2  # The same plan again, and it was too slow: aim lower.
            continue
        tried.append(choices)
        proposal = planner.propose(choices)
        is_met = proposal.is_faster and not _shortfalls(planner, proposal, budget)
        if is_met and proposal.built.error <= bearable:
            met.append(choices)
            if best is None or proposal.score < best.score:
                best = proposal
        elif proposal.built.error > bearable:
            is_passed_over = True
        elif nearest is None or _remoteness(proposal) < _remoteness(nearest):
            nearest = proposal
        if limits.latency_ms is not None:
            share = proposal.built.ratio * planner.reference_ms / limits.latency_ms
            if 1.0 - TOLERANCE <= share <= 1.0:
                break
    planner.progress(Progress("verify", 1.0, "whole model"))
    if best is not None:
        return Outcome(best, met=True)
    if planner.look_further():
        return _corrected(planner, budget, nearest)
    if is_passed_over and (nearest is None or budget.max_error is not None):
        nearest = _faster_within(planner, bearable, nearest)
    return _missed(planner, nearest or planner.propose(planner.fastest_exact()), budget)


def _remoteness(proposal: Proposal) -> float:
    """Of plans that miss a budget: a little more latency is no worse than as much more error."""
    return proposal.built.ratio + proposal.built.error


def _whole_kernels(planner: Planner, limits: Limits) -> dict[str, Option] | None:
    """All kernels whole and in integers, if that may be about as fast as is wanted: it loses little for what it saves.

    Nothing in it is converted, so that it is often faster than predicted, where others are slower.
    """
    if limits.latency_ms is None:
        return None
    choices = planner.wholly_in_integers()
    share = planner.predicted_ratio(choices) * planner.reference_ms / limits.latency_ms
    return choices if in_integers(choices) and NEAR_WANTED[0] <= share <= NEAR_WANTED[1] else None


def _scaled(limits: Limits, factor: float) -> Limits:
    """The limits with the latency times ``factor``."""
    latency_ms = None if limits.latency_ms is None else limits.latency_ms * factor
    return Limits(latency_ms, limits.macs, limits.size_bytes)


def _only_latency(limits: Limits) -> bool:
    return limits.macs is None and limits.size_bytes is None


def _shortfalls(planner: Planner, proposal: Proposal, budget: Budget) -> list[str]:
    """What of the budget a measured proposal misses, in words."""
    found = []
    limits = _limits(planner, budget)
    measured = proposal.built.ratio * planner.reference_ms
    if limits.latency_ms is not None and measured > limits.latency_ms * (1 + TOLERANCE / 2):
        what, scale = "latency", planner.original_ms / planner.reference_ms
        if budget.latency_ms is not None:  # say it at the percentile that was asked for
            what, scale = f"latency at p{budget.percentile}", budget.latency_ms / limits.latency_ms
        found.append(f"{what} {measured * scale:.3g} ms where {limits.latency_ms * scale:.3g} ms is wanted")
    if budget.max_error is not None and proposal.built.error > max(budget.max_error, EXACT_ERROR):
        found.append(f"predicted error {proposal.built.error:.3g} where {budget.max_error:.3g} is allowed")
    macs = sum(option.macs for option in proposal.choices.values())
    if limits.macs is not None and macs > limits.macs * (1 + 1e-9):
        found.append(
            f"{planner.mac_fraction(proposal.choices):.3g} of the MACs where {budget.mac_fraction:.3g} is allowed"
        )
    size = sum(option.size_bytes for option in proposal.choices.values())
    if limits.size_bytes is not None and size > limits.size_bytes:
        found.append(f"{proposal.built.size_bytes} bytes where {budget.memory_bytes} are allowed")
    return found


def _missed(planner: Planner, nearest: Proposal, budget: Budget) -> Outcome:
    """The nearest proposal, or the original where that is not faster, with what it misses."""
    shortfall = "; ".join(_shortfalls(planner, nearest, budget)) or "nothing is faster than the original"
    shortfall += f" (latency ratio {nearest.built.ratio:.3f}, predicted error {nearest.built.error:.3g})"
    return Outcome(nearest if nearest.is_faster else None, met=False, shortfall=shortfall)


def _with_chosen_ranks(planner: Planner, budget: Budget) -> Outcome:
    """Ranks that the user chose are obeyed, also where they are slower; other limits are met with the layers left free."""
    chosen = choose_ranks(planner, budget)
    limits = budget.without_ranks()
    if budget.leaves_layers_free and limits != Budget():
        with planner.holding(chosen):
            return _search_freely(planner, limits)
    proposal = planner.propose(chosen)
    shortfalls = _shortfalls(planner, proposal, budget)
    warnings = []
    if proposal.built.ratio > 1.0:
        warnings.append(
            f"the ranks asked for make the model slower: measured {proposal.built.ratio:.3f} of the original's latency"
        )
    return Outcome(proposal, not shortfalls, "; ".join(shortfalls), tuple(warnings))


def climb(planner: Planner, points: int) -> Iterator[Proposal]:
    """The rungs below the original: the fastest exact point, then lossy ones; each faster than the one before.

    Latencies fall in equal ratios from the fastest exact point to the bottom; a rung that would lose nearly everything
    ends the ladder.
    """
    exact = planner.propose(planner.fastest_exact())
    fastest = 1.0
    if exact.is_faster:
        fastest = exact.built.ratio
        yield exact
    start = fastest
    bottom = float(np.clip(planner.predicted_ratio(planner.fastest_of_all()), 0.05 * fastest, fastest))
    for rung in range(1, points - 1):
        ratio = start * (bottom / start) ** (rung / (points - 2))
        found = planner.least_damage(Limits(latency_ms=ratio * planner.reference_ms))
        proposal = planner.propose(planner.fastest_of_all() if found is None else found)
        if proposal.built.error > USELESS_ERROR:
            return
        if proposal.is_faster and proposal.built.ratio < fastest * (1 - TOLERANCE):
            fastest = proposal.built.ratio
            yield proposal
