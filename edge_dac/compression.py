"""The path from a model and a budget to a verified model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from edge_dac.device.profile import profile_device
from edge_dac.errors import BudgetUnreachableError, UsageError
from edge_dac.graph.loading import self_contained
from edge_dac.planning.budget import Budget
from edge_dac.planning.candidates import ORIGINAL
from edge_dac.planning.plan import LayerChoice, Plan, Refused
from edge_dac.planning.planner import Planner
from edge_dac.planning.proposal import Proposal
from edge_dac.planning.search import EXACT_ERROR, LADDER_POINTS, USELESS_ERROR, Outcome, climb, search
from edge_dac.planning.settings import DEFAULT_SCHEMES, PlannerSettings
from edge_dac.planning.subject import InputRange, Subject, load_subject
from edge_dac.progress import Progress, ProgressCallback, ignore_progress


@dataclass(frozen=True, eq=False)
class Compressed:
    """A model with the plan that made it. Where nothing helps, ``model`` is the original file, byte by byte, or with
    the tensor data in it that lay beside it."""

    plan: Plan
    model: bytes
    changed: bool


DOUBTFUL_ERROR = 0.1
"""Predicted error from which the user is warned."""


@dataclass(frozen=True, slots=True)
class Options:
    """What besides the budget decides on a plan.

    Attributes:
        input_shapes: shapes of inputs whose dimensions the model leaves open.
        threads: intra-op threads the model will run with.
        work_threads: threads that planning may use where nothing is timed; None for all cores of this process.
        schemes, lowerings: names to consider; None for the default, all lowerings.
        input_range: what the inputs' values are; read off the model where it is not given.
        input_values: by input name, the one number that it holds in every run.
        seed: of everything random.
        calibration: folder of real inputs to fit to instead of synthetic ones.
        latency_table: file that keeps measured latency ratios between runs.
        fidelity_table: file that keeps what candidates cost in fidelity, so that a further budget takes less time.
        allow_external: accept external tensor data inside the model's folder.
    """

    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    threads: int = 1
    work_threads: int | None = None
    schemes: Sequence[str] | None = None
    lowerings: Sequence[str] | None = None
    input_range: InputRange | None = None
    input_values: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    calibration: Path | None = None
    latency_table: Path | None = None
    fidelity_table: Path | None = None
    allow_external: bool = False


def _work_threads(options: Options) -> int:
    return profile_device().usable_cores if options.work_threads is None else options.work_threads


def open_planner(
    model: str | Path, options: Options | None = None, progress: ProgressCallback = ignore_progress
) -> Planner:
    """Load a model and prepare to plan for any number of budgets.

    Raises:
        RefusedError: the model cannot be worked on (see its subclasses).
    """
    chosen = options or Options()
    progress(Progress("load", 0.0, Path(model).name))
    subject = load_subject(
        Path(model),
        input_shapes=chosen.input_shapes,
        input_range=chosen.input_range,
        input_values=chosen.input_values,
        seed=chosen.seed,
        calibration=chosen.calibration,
        allow_external=chosen.allow_external,
    )
    settings = PlannerSettings(
        threads=chosen.threads,
        work_threads=_work_threads(chosen),
        schemes=tuple(chosen.schemes or DEFAULT_SCHEMES),
        lowerings=chosen.lowerings,
        latency_table=chosen.latency_table,
        fidelity_table=chosen.fidelity_table,
    )
    return Planner(subject, settings, progress)


def compress(
    model: str | Path,
    budget: Budget,
    options: Options | None = None,
    *,
    progress: ProgressCallback = ignore_progress,
) -> Compressed:
    """Factorize ``model`` so that it meets ``budget`` on this device with the least loss of fidelity.

    Needs no data: factors are fitted to the statistics of synthetic images.

    Returns:
        the plan and the rewritten model, which has the inputs and outputs of the original.

    Raises:
        RefusedError: the model cannot be worked on (see its subclasses).
        BudgetUnreachableError: no plan meets the budget; its ``best`` is the nearest :class:`Compressed`.
        UsageError: an option makes no sense.
    """
    chosen = options or Options()
    with threadpool_limits(_work_threads(chosen)):
        return plan_for(open_planner(model, chosen, progress), budget)


def plan_for(planner: Planner, budget: Budget) -> Compressed:
    """:func:`compress` with a planner that keeps its measurements for further budgets."""
    outcome = search(planner, budget)
    result = _compressed(planner, outcome.proposal, budget, outcome)
    if not outcome.met:
        raise BudgetUnreachableError(
            f"{planner.subject.path.name}: the budget cannot be met on this device; best found: {outcome.shortfall}",
            best=result,
        )
    return result


def compress_ladder(
    model: str | Path,
    options: Options | None = None,
    *,
    points: int = LADDER_POINTS,
    progress: ProgressCallback = ignore_progress,
) -> Iterator[Compressed]:
    """Pareto-optimal operating points from the original to the fastest, sharing all measurements.

    Raises:
        RefusedError: the model cannot be worked on (see its subclasses).
        UsageError: fewer than 2 points are asked for.
    """
    if points < 2:
        raise UsageError(f"points: expected at least 2, got {points}")
    chosen = options or Options()
    with threadpool_limits(_work_threads(chosen)):
        yield from ladder_for(open_planner(model, chosen, progress), points)


def ladder_for(planner: Planner, points: int = LADDER_POINTS) -> Iterator[Compressed]:
    """:func:`compress_ladder` with a planner that keeps its measurements."""
    yield _compressed(planner, None, Budget(), None)
    for proposal in climb(planner, points):
        yield _compressed(planner, proposal, Budget(), None)


def _compressed(planner: Planner, proposal: Proposal | None, budget: Budget, outcome: Outcome | None) -> Compressed:
    plan = _plan(planner, proposal, budget)
    if outcome is not None:
        plan = replace(plan, warnings=plan.warnings + outcome.warnings)
    if proposal is None or not (proposal.replaces_layers or proposal.is_faster):
        return Compressed(plan, self_contained(planner.subject.path, planner.subject.allow_external), changed=False)
    return Compressed(plan, planner.model(proposal.choices, plan), changed=True)


def _plan(planner: Planner, proposal: Proposal | None, budget: Budget) -> Plan:
    subject: Subject = planner.subject
    choices = tuple(_layer_choices(planner, proposal))
    error = proposal.built.error if proposal else 0.0
    ratio = proposal.built.ratio if proposal else 1.0
    original_ms = planner.original_ms
    warnings: tuple[str, ...]
    warnings = () if proposal else ("no plan is faster than the original on this device: the model stays as it is",)
    if not planner.verifier.can_judge:
        warnings += ("the outputs are the same for all synthetic inputs, so that no error can be predicted",)
    if error > USELESS_ERROR:
        warnings = (f"predicted error {error:.2g}: little of the original's answers is left (1: as good as none)",)
    elif error > DOUBTFUL_ERROR:
        warnings = (f"predicted error {error:.2g}: try this model on your own task before you rely on it",)
    if error > EXACT_ERROR:
        warnings += subject.warnings
    return Plan(
        model_digest=subject.digest,
        choices=choices,
        refused=tuple(Refused(r.subject, str(r.reason), r.message) for r in subject.inventory.refusals),
        input_shapes=subject.input_shapes,
        threads=planner.settings.threads,
        original_latency_ms=original_ms,
        predicted_latency_ms=original_ms * (proposal.predicted_ratio if proposal else 1.0),
        measured_latency_ms=ratio * original_ms,
        measured_ratio=ratio,
        latency_p95_ms=original_ms * _tail(proposal) if proposal else planner.original_percentile_ms(95),
        predicted_error=0.0 if error <= EXACT_ERROR else error,
        macs=sum(choice.macs for choice in choices),
        original_macs=sum(choice.dense_macs for choice in choices),
        device_fingerprint=planner.fingerprint,
        budget=budget.to_json(),
        seed=subject.seed,
        assumptions=subject.assumptions,
        warnings=warnings,
    )


def _tail(proposal: Proposal) -> float:
    """95th percentile of the rewritten model's latency, relative to the original's median in the same run."""
    comparison = proposal.built.comparison
    return comparison.percentile_ms(1, 95) / comparison.median_ms(0)


def _layer_choices(planner: Planner, proposal: Proposal | None) -> Iterator[LayerChoice]:
    spent = planner.estimator.original.layer_ms
    for layer in planner.subject.inventory.layers:
        option = proposal.choices.get(layer.name) if proposal else None
        dense_ms = spent.get(layer.name, 0.0)
        candidate = option.candidate if option else ORIGINAL
        yield LayerChoice(
            layer=layer.name,
            scheme=candidate.scheme,
            rank=candidate.rank,
            lowering=candidate.lowering,
            macs=option.macs if option else layer.macs,
            dense_macs=layer.macs,
            latency_ms=option.latency_ms if option else dense_ms,
            dense_latency_ms=dense_ms,
            error=option.error if option else 0.0,
        )
