"""From a budget to a measured proposal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_dac.errors import BudgetError
from edge_dac.planning.budget import Budget, LayerRank
from edge_dac.planning.candidates import ORIGINAL, Candidate, chain_of, lowerings_for
from edge_dac.planning.fits import fit_layers, make_option, weight_bytes, weight_only_fit
from edge_dac.planning.planner import MAX_CORRECTIONS, TOLERANCE, Planner, Proposal
from edge_dac.planning.selection import Limits, Option
from edge_dac.progress import Progress
from edge_dac.schemes import SCHEMES

LADDER_POINTS = 6

EXACT_ERROR = 1e-6
"""Output error up to which a plan counts as exact: rounding of float32 through a deep network (a squared norm)."""


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
        BudgetError: a rank is asked for a layer or scheme that does not exist.
    """
    if budget.fixes_ranks:
        return _fixed_ranks(planner, budget)
    target_ms = target_latency_ms(planner, budget)
    limits = _limits(planner, budget, target_ms)
    if not limits.given():
        return _least_latency(planner, budget.max_error or 0.0)
    return _within_limits(planner, budget, limits)


def target_latency_ms(planner: Planner, budget: Budget) -> float | None:
    """The wanted median latency; a wish for another percentile is scaled by that percentile of the original's runs."""
    if budget.speedup is not None:
        return planner.original_ms / budget.speedup
    if budget.latency_ms is None:
        return None
    if budget.percentile == 50:
        return budget.latency_ms
    return budget.latency_ms / planner.tail_ratio(budget.percentile)


def _limits(planner: Planner, budget: Budget, target_ms: float | None) -> Limits:
    """Limits over the considered layers: what the others use is taken off."""
    considered = {layer.name for layer in planner.worthwhile}
    others = [layer for layer in planner.subject.inventory.layers if layer.name not in considered]
    macs = size = None
    if budget.mac_fraction is not None:
        total = sum(layer.macs for layer in planner.subject.inventory.layers)
        macs = max(budget.mac_fraction * total - sum(layer.macs for layer in others), 0.0)
    if budget.memory_bytes is not None:
        kept = len(planner.subject.serialized) - sum(weight_bytes(ORIGINAL, layer) for layer in planner.worthwhile)
        size = max(budget.memory_bytes - kept, 0.0)
    return Limits(target_ms, macs, size)


def _least_latency(planner: Planner, max_error: float) -> Outcome:
    """The fastest selection whose error stays within ``max_error``; exact where that is 0."""
    exact = planner.propose(planner.fastest_exact())
    best = exact if exact.built.ratio < 1.0 else None
    allowed = max_error
    for step in range(MAX_CORRECTIONS if max_error > 0.0 else 0):
        planner.progress(Progress("verify", step / MAX_CORRECTIONS, "largest allowed error"))
        proposal = planner.propose(planner.select_fastest(planner.all_options, allowed))
        error = proposal.built.error
        if error <= max_error and (best is None or proposal.built.ratio < best.built.ratio):
            best = proposal
        if max_error * 0.8 <= error <= max_error or error <= 0.0:
            break
        allowed *= float(np.clip(max_error * 0.9 / error, 0.2, 4.0))
    planner.progress(Progress("verify", 1.0, "done"))
    return Outcome(best, met=True)


def _within_limits(planner: Planner, budget: Budget, limits: Limits) -> Outcome:
    exact = planner.propose(planner.fastest_exact())
    if _meets(planner, exact, budget, limits) and exact.built.ratio < 1.0:
        return Outcome(exact, met=True)
    if limits.latency_ms is not None and planner.original_ms <= limits.latency_ms and _only_latency(limits):
        return Outcome(exact if exact.built.ratio < 1.0 else None, met=True)
    if budget.max_error == 0.0:
        return _missed(planner, exact, budget)
    return _corrected(planner, budget, limits, exact)


def _corrected(planner: Planner, budget: Budget, limits: Limits, exact: Proposal) -> Outcome:
    """Select, build, measure, learn; until the measured latency is within the tolerance of the limit or nothing changes."""
    best: Proposal | None = None
    nearest = exact
    tried: list[Mapping[str, Option]] = []
    aim = limits
    for step in range(MAX_CORRECTIONS):
        planner.progress(Progress("verify", step / MAX_CORRECTIONS, "whole model"))
        found = planner.best_objective(aim)
        choices = planner.fastest_of_all() if found is None else found[1]
        if choices in tried:
            break
        tried.append(choices)
        proposal = planner.propose(choices)
        if _meets(planner, proposal, budget, limits):
            if best is None or proposal.built.error < best.built.error:
                best = proposal
        elif proposal.built.ratio < nearest.built.ratio:
            nearest = proposal
        aim = _next_aim(planner, proposal, limits, aim)
    planner.progress(Progress("verify", 1.0, "whole model"))
    return Outcome(best, met=True) if best is not None else _missed(planner, nearest, budget)


def _next_aim(planner: Planner, proposal: Proposal, limits: Limits, aim: Limits) -> Limits:
    """Tighten a missed latency a little beyond the learned correction; return to the limit where there is room."""
    if limits.latency_ms is None or aim.latency_ms is None:
        return aim
    measured_ms = proposal.built.ratio * planner.original_ms
    if measured_ms > limits.latency_ms:
        return Limits(aim.latency_ms * min(limits.latency_ms / measured_ms, 0.995), aim.macs, aim.size_bytes)
    if measured_ms < (1 - TOLERANCE) * limits.latency_ms:
        return Limits(limits.latency_ms, aim.macs, aim.size_bytes)
    return aim


def _only_latency(limits: Limits) -> bool:
    return limits.macs is None and limits.size_bytes is None


def _meets(planner: Planner, proposal: Proposal, budget: Budget, limits: Limits) -> bool:
    return not _shortfalls(planner, proposal, budget, limits) and proposal.built.ratio < 1.0


def _shortfalls(planner: Planner, proposal: Proposal, budget: Budget, limits: Limits) -> list[str]:
    found = []
    measured_ms = proposal.built.ratio * planner.original_ms
    if limits.latency_ms is not None and measured_ms > limits.latency_ms * (1 + TOLERANCE / 2):
        found.append(f"latency {measured_ms:.3g} ms, budget {limits.latency_ms:.3g} ms")
    if budget.max_error is not None and proposal.built.error > max(budget.max_error, EXACT_ERROR):
        found.append(f"predicted error {proposal.built.error:.3g}, budget {budget.max_error:.3g}")
    macs = sum(option.macs for option in proposal.choices.values())
    if limits.macs is not None and macs > limits.macs * (1 + 1e-9):
        found.append(f"{planner.mac_fraction(proposal.choices):.3g} of the MACs, budget {budget.mac_fraction:.3g}")
    size = sum(option.size_bytes for option in proposal.choices.values())
    if limits.size_bytes is not None and size > limits.size_bytes:
        found.append(f"size {len(proposal.built.model)} bytes, budget {budget.memory_bytes} bytes")
    return found


def _missed(planner: Planner, nearest: Proposal, budget: Budget) -> Outcome:
    limits = _limits(planner, budget, target_latency_ms(planner, budget))
    proposal = nearest if nearest.built.ratio < 1.0 else None
    shortfall = "; ".join(_shortfalls(planner, nearest, budget, limits)) or "nothing is faster than the original"
    return Outcome(proposal, met=False, shortfall=shortfall)


def _fixed_ranks(planner: Planner, budget: Budget) -> Outcome:
    """Ranks that the user fixed are obeyed; only the lowering is ours to choose, by measurement."""
    wanted = _requested(planner, budget)
    candidates = {name: _in_all_lowerings(planner, name, request) for name, request in wanted.items()}
    planner.probe(candidates)
    chosen: dict[str, Candidate] = {}
    for name, entries in candidates.items():
        layer = planner.layers[name]
        known = {c: ms for c in entries if (ms := planner.estimator.latency_ms(layer, c)) is not None}
        chosen[name] = min(known, key=known.__getitem__) if known else entries[0]
    choices = _fixed_options(planner, chosen, weighted=budget.uniform_rank is None)
    proposal = planner.propose(choices)
    warnings = []
    if proposal.built.ratio > 1.0:
        warnings.append(
            f"the ranks asked for make the model slower: measured {proposal.built.ratio:.3f} of the original's latency"
        )
    return Outcome(proposal, met=True, warnings=tuple(warnings))


def _requested(planner: Planner, budget: Budget) -> dict[str, LayerRank]:
    wanted: dict[str, LayerRank] = {}
    if budget.uniform_rank is not None:
        for name, layer in planner.layers.items():
            if SCHEMES["dac"].refuse(layer) is None:
                wanted[name] = LayerRank("dac", min(budget.uniform_rank, int(np.max(SCHEMES["dac"].ranks(layer)))))
    for name, request in budget.layer_ranks.items():
        layer_or_none = planner.layers.get(name)
        if layer_or_none is None:
            raise BudgetError(f"layer_ranks: expected one of the model's {len(planner.layers)} layers, got {name!r}")
        if request.scheme not in SCHEMES:
            raise BudgetError(f"layer {name!r}: expected a scheme of {', '.join(SCHEMES)}, got {request.scheme!r}")
        refusal = SCHEMES[request.scheme].refuse(layer_or_none)
        if refusal is not None:
            raise BudgetError(f"layer {name!r}: scheme {request.scheme!r} does not apply: {refusal.message}")
        wanted[name] = _clamped(planner, name, request)
    return wanted


def _clamped(planner: Planner, name: str, request: LayerRank) -> LayerRank:
    if request.scheme == "dense":
        return LayerRank("dense", None)
    ranks = SCHEMES[request.scheme].ranks(planner.layers[name])
    if request.rank is None:
        raise BudgetError(f"layer {name!r}: expected a rank for scheme {request.scheme!r}, got none")
    if isinstance(request.rank, int) and isinstance(ranks[-1], int):
        if request.rank < 1:
            raise BudgetError(f"layer {name!r}: expected a rank of at least 1, got {request.rank}")
        return LayerRank(request.scheme, min(request.rank, ranks[-1]))
    SCHEMES[request.scheme].check_rank(planner.layers[name], request.rank)
    return request


def _in_all_lowerings(planner: Planner, name: str, request: LayerRank) -> list[Candidate]:
    layer = planner.layers[name]
    probe = Candidate(request.scheme, request.rank, "direct")
    allowed = planner.settings.lowerings
    names = [n for n in lowerings_for(layer, chain_of(probe, layer)) if allowed is None or n in allowed]
    if request.scheme == "dense":
        return [probe]
    return [Candidate(request.scheme, request.rank, lowering) for lowering in names or ["direct"]]


def _fixed_options(planner: Planner, chosen: Mapping[str, Candidate], *, weighted: bool) -> dict[str, Option]:
    """Options of fixed candidates. The paper's uniform rank is fitted to the weights alone, single layers to statistics."""
    factored = {name: candidate for name, candidate in chosen.items() if not candidate.is_exact}
    errors = dict.fromkeys(chosen, 0.0)
    if weighted and factored:
        wanted = {name: {candidate: 0.0} for name, candidate in factored.items()}
        for name, fits in fit_layers(
            planner.subject, wanted, threads=planner.settings.threads, progress=planner.progress
        ):
            planner.remember(name, fits)
            errors[name] = next(iter(fits.values())).error
    else:
        for done, (name, candidate) in enumerate(factored.items()):
            planner.progress(Progress("fit", done / len(factored), name))
            fit = weight_only_fit(planner.layers[name], candidate)
            planner.remember(name, {candidate: fit})
            errors[name] = fit.error
    return {
        name: make_option(
            planner.layers[name],
            candidate,
            planner.estimator.latency_ms(planner.layers[name], candidate) or 0.0,
            errors[name],
            1.0,
        )
        for name, candidate in chosen.items()
    }


def ladder_targets_ms(planner: Planner, fastest_exact_ms: float, points: int) -> list[float]:
    """Latencies of the lossy rungs: evenly spaced ratios from the fastest exact point down to the predicted bottom."""
    bottom_ms = max(planner.predicted_ms(planner.fastest_of_all()), 0.05 * fastest_exact_ms)
    steps = np.linspace(0.0, 1.0, points + 1)[1:]
    return [float(fastest_exact_ms * (bottom_ms / fastest_exact_ms) ** step) for step in steps]


def climb(planner: Planner, points: int) -> Iterator[Proposal]:
    """The rungs below the original: the fastest exact point, then lossy ones; each faster than the one before."""
    exact = planner.propose(planner.fastest_exact())
    fastest = 1.0
    start_ms = planner.original_ms
    if exact.built.ratio < 1.0:
        fastest = exact.built.ratio
        start_ms = fastest * planner.original_ms
        yield exact
    for target_ms in ladder_targets_ms(planner, start_ms, points - 1):
        found = planner.best_objective(Limits(latency_ms=target_ms))
        proposal = planner.propose(planner.fastest_of_all() if found is None else found[1])
        if proposal.built.ratio < fastest * (1 - TOLERANCE):
            fastest = proposal.built.ratio
            yield proposal
