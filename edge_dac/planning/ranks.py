"""Ranks that the user chose: one for all layers, a sum for all layers, or layer by layer. Only the lowering is left to us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge_dac.errors import BudgetError
from edge_dac.planning.budget import Budget, LayerRank
from edge_dac.planning.candidates import ORIGINAL, Candidate, lowerings_for
from edge_dac.planning.fits import make_option, weight_only_fit
from edge_dac.planning.knapsack import solve
from edge_dac.planning.planner import Planner
from edge_dac.planning.selection import Option
from edge_dac.progress import Progress
from edge_dac.schemes import SCHEMES

Chosen = dict[str, Option]


def choose_ranks(planner: Planner, budget: Budget) -> Chosen:
    """What stands in the layers whose ranks the budget fixes, in the fastest lowering measured.

    Raises:
        BudgetError: a layer or scheme does not exist or does not apply, or the total is below one rank a layer.
    """
    if budget.total_rank is not None:
        chosen = _within_total(planner, budget.total_rank)
    elif budget.uniform_rank is not None:
        chosen = _weights_alone(planner, _fastest(planner, _uniform(planner, budget.uniform_rank)))
    else:
        chosen = {}
    if budget.layer_ranks:
        requests = {name: _checked(planner, name, request) for name, request in budget.layer_ranks.items()}
        chosen |= _fitted(planner, _fastest(planner, requests))
    return chosen


def _dac_ranks(planner: Planner) -> dict[str, int]:
    """Full rank of every layer that DAC applies to."""
    dac = SCHEMES["dac"]
    return {n: int(np.max(dac.ranks(layer))) for n, layer in planner.layers.items() if dac.refuse(layer) is None}


def _uniform(planner: Planner, rank: int) -> dict[str, LayerRank]:
    """The paper: one rank for all."""
    return {name: LayerRank("dac", min(rank, full)) for name, full in _dac_ranks(planner).items()}


def _within_total(planner: Planner, total: int) -> Chosen:
    """DAC ranks whose sum is at most ``total``, of least predicted damage; a layer left alone counts with its full rank."""
    full_ranks = _dac_ranks(planner)
    if total < len(full_ranks):
        raise BudgetError(f"total_rank: expected at least 1 for each of {len(full_ranks)} layers, got {total}")
    options: dict[str, list[Option]] = {}
    requests = {n: [LayerRank("dac", rank) for rank in range(1, full)] for n, full in full_ranks.items()}
    candidates = {n: [c for r in ranks for c in _in_all_lowerings(planner, n, r)] for n, ranks in requests.items()}
    planner.probe(candidates)
    fastest = {n: [_fastest_of(planner, n, _in_all_lowerings(planner, n, r)) for r in rs] for n, rs in requests.items()}
    # What is scarce here is not time but rank: a candidate is beaten by one of lower rank only.
    judged = planner.judge({n: {c: float(i) for i, c in enumerate(entries)} for n, entries in fastest.items()})
    for name, entries in judged.items():
        layer = planner.layers[name]
        options[name] = [_option(planner, name, ORIGINAL, 0.0, 0.0)]
        for candidate, judgement in entries.items():
            latency_ms = _latency_ms(planner, name, candidate)
            options[name].append(make_option(layer, candidate, latency_ms, judgement.error, judgement.damage))
    selection = solve(
        [np.array([_rank_of(o, full_ranks[name]) for o in entries], float) for name, entries in options.items()],
        [np.array([o.damage for o in entries]) for entries in options.values()],
        float(total),
    )
    if selection is None:
        raise BudgetError(f"total_rank: expected at least the full rank of layers without statistics more, got {total}")
    return {name: options[name][index] for name, index in zip(options, selection.items, strict=True)}


def _rank_of(option: Option, full: int) -> int:
    rank = option.candidate.rank
    return rank if isinstance(rank, int) else full


def _checked(planner: Planner, name: str, request: LayerRank) -> LayerRank:
    """The request for one layer with a rank that exists."""
    layer = planner.layers.get(name)
    if layer is None:
        raise BudgetError(f"layer_ranks: expected one of the model's {len(planner.layers)} layers, got {name!r}")
    if request.scheme not in SCHEMES:
        raise BudgetError(f"layer {name!r}: expected a scheme of {', '.join(SCHEMES)}, got {request.scheme!r}")
    refusal = SCHEMES[request.scheme].refuse(layer)
    if refusal is not None:
        raise BudgetError(f"layer {name!r}: scheme {request.scheme!r} does not apply: {refusal.message}")
    if request.scheme == "dense":
        return LayerRank("dense", None)
    if SCHEMES[request.scheme].computes_integers and layer.axes and name in planner.subject.inventory.unobserved:
        raise BudgetError(
            f"layer {name!r}: inside a Loop or Scan, where nobody sees the ranges that {request.scheme} needs"
        )
    if request.rank is None:
        raise BudgetError(f"layer {name!r}: expected a rank for scheme {request.scheme!r}, got none")
    full = SCHEMES[request.scheme].ranks(layer)[-1]
    rank = request.rank
    if isinstance(rank, int) and isinstance(full, int):
        if rank < 1:
            raise BudgetError(f"layer {name!r}: expected a rank of at least 1, got {rank}")
        rank = min(rank, full)
    SCHEMES[request.scheme].check_rank(layer, rank)
    return LayerRank(request.scheme, rank)


def _fastest(planner: Planner, requests: Mapping[str, LayerRank]) -> dict[str, Candidate]:
    candidates = {name: _in_all_lowerings(planner, name, request) for name, request in requests.items()}
    planner.probe(candidates)
    return {name: _fastest_of(planner, name, entries) for name, entries in candidates.items()}


def _fastest_of(planner: Planner, name: str, entries: Sequence[Candidate]) -> Candidate:
    layer = planner.layers[name]
    known = {c: ms for c in entries if (ms := planner.estimator.latency_ms(layer, c)) is not None}
    return min(known, key=known.__getitem__) if known else entries[0]


def _in_all_lowerings(planner: Planner, name: str, request: LayerRank) -> list[Candidate]:
    layer = planner.layers[name]
    if request.scheme == "dense":
        return [ORIGINAL]
    allowed = planner.settings.lowerings
    applicable = lowerings_for(layer, Candidate(request.scheme, request.rank, "direct"))
    names = [name for name in applicable if allowed is None or name in allowed]
    return [Candidate(request.scheme, request.rank, lowering) for lowering in names or applicable[:1]]


def _weights_alone(planner: Planner, chosen: Mapping[str, Candidate]) -> Chosen:
    """Options fitted to the weights, as in the paper."""
    options = {}
    for done, (name, candidate) in enumerate(chosen.items()):
        planner.progress(Progress("fit", done / len(chosen), name))
        fit = weight_only_fit(planner.layers[name], candidate)
        planner.remember(name, {candidate: fit})
        options[name] = _option(planner, name, candidate, fit.error, 1.0)
    return options


def _fitted(planner: Planner, chosen: Mapping[str, Candidate]) -> Chosen:
    """Options fitted to statistics; to the weights where a layer has none."""
    factored = {name: {candidate: 0.0} for name, candidate in chosen.items() if not candidate.is_exact}
    errors = {name: next(iter(fits.values())).error for name, fits in planner.fit(factored)}
    return {name: _option(planner, name, candidate, errors.get(name, 0.0), 0.0) for name, candidate in chosen.items()}


def _option(planner: Planner, name: str, candidate: Candidate, error: float, damage: float) -> Option:
    return make_option(planner.layers[name], candidate, _latency_ms(planner, name, candidate), error, damage)


def _latency_ms(planner: Planner, name: str, candidate: Candidate) -> float:
    return planner.estimator.latency_ms(planner.layers[name], candidate) or 0.0
