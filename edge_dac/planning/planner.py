"""The planner: measure, fit, select, build, measure the whole, correct the prediction, select again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from edge_dac.convolution import ConvLayer, Factorization
from edge_dac.device.latency_table import LatencyTable, original_key
from edge_dac.device.probes import compare, open_session, session_options
from edge_dac.device.profile import DeviceProfile, profile_device
from edge_dac.graph.loading import serialize_and_discard
from edge_dac.planning.building import Verifier, build_model
from edge_dac.planning.candidates import ORIGINAL, Candidate, enumerate_candidates, promising, scheme_rank
from edge_dac.planning.conversions import Conversions, converted_bytes, in_integers
from edge_dac.planning.correction import LatencyCorrection
from edge_dac.planning.fidelity_table import FidelityTable, Judgement, samples_key
from edge_dac.planning.fits import Fit, fit_layers, make_option, thinned
from edge_dac.planning.plan import Plan
from edge_dac.planning.probing import LatencyEstimator, Prober, measure_original
from edge_dac.planning.proposal import Proposal, plan_score
from edge_dac.planning.selection import OBJECTIVES, Limits, Option
from edge_dac.planning.sensitivity import measure_damage
from edge_dac.planning.settings import PlannerSettings
from edge_dac.planning.subject import Subject
from edge_dac.progress import Progress, ProgressCallback, ignore_progress
from edge_dac.schemes import SCHEMES
from edge_dac.shared_constants import register

WORTHWHILE_SHARE = 0.003
"""Layers below this share of the model's time are not approximated, for nothing could be gained; but see ``bystanders``."""
TOLERANCE = 0.02
ORIGINAL_TIME_S = 2.0
"""Spent on the untouched model alone; every comparison adds rounds to it."""
MAX_CORRECTIONS = 6


@dataclass(eq=False)
class Planner:
    """Plans for one model on this device; measurements are shared by all budgets.

    Args:
        subject: the model.
        settings: what does not depend on the budget.
        progress: called with every step.
    """

    subject: Subject
    settings: PlannerSettings
    progress: ProgressCallback = ignore_progress
    _factors: dict[str, dict[object, Factorization]] = field(default_factory=dict)
    _held: dict[str, Option] = field(default_factory=dict)
    _is_thorough: bool = False
    _left_out: bool = False
    _corrections: dict[bool, LatencyCorrection] = field(
        default_factory=lambda: {False: LatencyCorrection(), True: LatencyCorrection()}
    )

    @cached_property
    def profile(self) -> DeviceProfile:
        return profile_device()

    @property
    def fingerprint(self) -> str:
        return self.profile.fingerprint

    @cached_property
    def verifier(self) -> Verifier:
        return Verifier(
            self.subject, self.settings.threads, self.settings.verify_time_s, work_threads=self.settings.work_threads
        )

    @cached_property
    def layers(self) -> dict[str, ConvLayer]:
        return {layer.name: layer for layer in self.subject.inventory.layers}

    @cached_property
    def estimator(self) -> LatencyEstimator:
        """Latency of candidates; on first use the untouched model is measured, unless the table knows it."""
        self.progress(Progress("load", 1.0, f"{len(self.layers)} layers"))
        subject, threads = self.subject, self.settings.threads
        table = LatencyTable(self.settings.latency_table, self.fingerprint)
        key = original_key(subject.digest, subject.input_shapes, threads)
        original = table.original(key)
        if original is None:
            original = measure_original(
                subject.detached, subject.proto, subject.inventory, subject.timing_feed, threads
            )
            table.put_original(key, original)
        return LatencyEstimator(table, threads, original)

    @property
    def reference_ms(self) -> float:
        """Kernel time of the untouched model in the run that layer times come from; predictions are in its units."""
        return self.estimator.original.model_ms

    @cached_property
    def _original_rounds_ms(self) -> list[float]:
        session = self.verifier.original
        alone = compare(
            [session],
            self.subject.timing_feed,
            threads=self.settings.threads,
            time_budget_s=ORIGINAL_TIME_S,
        )
        return list(alone.round_ms[0])

    @cached_property
    def _canonical_ratio(self) -> float:
        """Latency of the canonical model, which predictions start from, relative to the original's."""
        canonical = open_session(self.subject.detached, session_options(self.settings.threads))
        comparison = compare(
            [self.verifier.original, canonical],
            self.subject.timing_feed,
            threads=self.settings.threads,
            time_budget_s=ORIGINAL_TIME_S,
        )
        self._original_rounds_ms.extend(comparison.round_ms[0])
        return min(comparison.undisturbed_ratio(1), 1.0)

    @property
    def original_ms(self) -> float:
        """Median latency of the untouched model over all runs so far: the device's speed drifts, ratios do not."""
        return float(np.median(self._original_rounds_ms))

    def original_percentile_ms(self, percentile: int) -> float:
        """A percentile of the untouched model's latency over all runs so far."""
        return float(np.percentile(self._original_rounds_ms, percentile))

    @cached_property
    def worthwhile(self) -> list[ConvLayer]:
        """Layers that take a noticeable share of the time."""
        spent = self.estimator.original.layer_ms
        least = WORTHWHILE_SHARE * self.reference_ms
        return [layer for layer in self.subject.inventory.layers if spent.get(layer.name, 0.0) >= least]

    @cached_property
    def bystanders(self) -> list[ConvLayer]:
        """Smaller convolutions, which gain nothing by themselves but where they spare neighbours conversions."""
        noticed = {layer.name for layer in self.worthwhile}
        layers = [layer for layer in self.layers.values() if layer.axes and layer.name not in noticed]
        return [layer for layer in layers if self._enumerate(layer, integers_only=True)]

    @contextmanager
    def holding(self, chosen: Mapping[str, Option]) -> Iterator[None]:
        """Leave these layers no other option meanwhile."""
        self._held = dict(chosen)
        try:
            yield
        finally:
            self._held = {}

    @property
    def considered(self) -> list[ConvLayer]:
        """Layers that plans choose for."""
        chosen = {layer.name for layer in (*self.worthwhile, *self.bystanders)} | self._held.keys()
        return [layer for name, layer in self.layers.items() if name in chosen]

    @property
    def exact_options(self) -> dict[str, list[Option]]:
        """Options that keep the function, by layer; what is held stands alone."""
        return self._exact_options | {name: [option] for name, option in self._held.items()}

    @property
    def all_options(self) -> dict[str, list[Option]]:
        """Exact and approximate options, by layer, with predicted damage; what is held stands alone."""
        return self._all_options | {name: [option] for name, option in self._held.items()}

    def _release(self) -> None:
        """Make room: work follows that takes much memory, and no session of the original."""
        if "verifier" in self.__dict__:
            self.verifier.release()

    def probe(self, candidates: Mapping[str, Sequence[Candidate]]) -> None:
        """Measure what the latency table lacks."""
        self._release()
        prober = Prober(
            self.subject.detached,
            self.subject.proto,
            self.subject.inventory,
            self.subject.timing_feed,
            self.settings.threads,
            self.estimator.table,
            self.estimator.original,
            self._conversion_key,
            self._converted_bytes,
        )
        self._left_out |= prober.fill(
            candidates,
            time_budget_s=self.settings.probe_time_s,
            progress=self.progress,
            is_thorough=self._is_thorough,
        )
        for name, entries in candidates.items():
            self.estimator.remember_curve(self.layers[name], entries)

    @cached_property
    def _exact_options(self) -> dict[str, list[Option]]:
        candidates = {layer.name: self._enumerate(layer, exact_only=True) for layer in self.worthwhile}
        self.probe(candidates)
        candidates |= {layer.name: [ORIGINAL] for layer in self.bystanders}
        return {
            name: thinned([o for c in entries if (o := self._exact_option(self.layers[name], c)) is not None])
            for name, entries in candidates.items()
        }

    @cached_property
    def _all_options(self) -> dict[str, list[Option]]:
        exact = self._exact_options
        if not self.verifier.can_judge:
            return exact
        candidates = {layer.name: self._enumerate(layer) for layer in self.worthwhile}
        candidates |= {layer.name: self._enumerate(layer, integers_only=True) for layer in self.bystanders}
        self.probe(candidates)
        wanted = {name: self._promising(self.layers[name], entries) for name, entries in candidates.items()}
        options = {
            name: [
                make_option(self.layers[name], candidate, wanted[name][candidate], judgement.error, judgement.damage)
                for candidate, judgement in judged.items()
            ]
            for name, judged in self.judge(wanted).items()
        }
        return {
            name: thinned(exact[name] + [o for o in entries if not o.candidate.computes_integers])
            + thinned([o for o in entries if o.candidate.computes_integers])
            for name, entries in options.items()
        }

    def look_further(self) -> bool:
        """Offer what was left out because integers are fast: low rank in real numbers. False if there is no more."""
        if self._is_thorough or not self._left_out:
            return False
        self._is_thorough = True
        self.__dict__.pop("_all_options", None)
        return True

    def judge(self, wanted: Mapping[str, Mapping[Candidate, float]]) -> dict[str, dict[Candidate, Judgement]]:
        """Errors and damage of the candidates worth it, by layer: those that the table lacks are fitted and measured."""
        settings = self.settings
        table = FidelityTable(settings.fidelity_table, samples_key(self.subject, settings.schemes))
        unknown = {name: entries for name, entries in wanted.items() if table.get(name, entries) is None}
        self._release()
        fits: dict[str, dict[Candidate, Fit]] = {name: {} for name in unknown}
        fits |= dict(self.fit(unknown))
        damage = measure_damage(
            self.subject,
            fits,
            spreads=self.verifier.spreads,
            threads=settings.work_threads,
            runs=settings.sensitivity_time_s * 1e3 / self.reference_ms,
            progress=self.progress,
        )
        for name, fitted in fits.items():
            judged = {candidate: Judgement(fit.error, damage[name][candidate]) for candidate, fit in fitted.items()}
            table.put(name, wanted[name], judged)
        if unknown:
            table.save()
        return {name: table.get(name, entries) or {} for name, entries in wanted.items()}

    def _enumerate(self, layer: ConvLayer, *, exact_only: bool = False, integers_only: bool = False) -> list[Candidate]:
        schemes = [name for name in self.settings.schemes if name == "int8" or not integers_only]
        candidates = enumerate_candidates(layer, schemes, self.settings.lowerings, exact_only=exact_only)
        integers = [c for c in candidates if c.scheme == "int8" and c.rank == self.profile.int8_weight_bits]
        return integers if integers_only else [c for c in candidates if c.scheme != "int8"] + integers

    def _exact_option(self, layer: ConvLayer, candidate: Candidate) -> Option | None:
        latency_ms = self.estimator.latency_ms(layer, candidate)
        return None if latency_ms is None else make_option(layer, candidate, latency_ms, 0.0, 0.0)

    def _promising(self, layer: ConvLayer, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
        bar = min(option.latency_ms for option in self._exact_options[layer.name])
        latencies = {c: self.estimator.latency_ms(layer, c) for c in candidates if not c.is_exact}
        return promising({c: ms for c, ms in latencies.items() if ms is not None}, bar, has_maps=layer.axes > 0)

    def fit(
        self, wanted: Mapping[str, Mapping[Candidate, float]], *, keep_all: bool = False
    ) -> Iterator[tuple[str, dict[Candidate, Fit]]]:
        """:func:`fit_layers`; the factors are kept for building."""
        fitting = fit_layers(
            self.subject,
            wanted,
            threads=self.settings.work_threads,
            progress=self.progress,
            weight_bits=self.profile.int8_weight_bits,
            keep_all=keep_all,
        )
        for name, fits in fitting:
            self.remember(name, fits)
            yield name, fits

    def remember(self, name: str, fits: Mapping[Candidate, Fit]) -> None:
        """Keep the factors of fitted candidates for building."""
        stored = self._factors.setdefault(name, {})
        stored.update({c.function: fit.factorization for c, fit in fits.items()})
        for fit in fits.values():
            for factor in fit.factorization.factors:
                register(factor.values)

    def predicted_ratio(self, choices: Mapping[str, Option]) -> float:
        """Whole-model latency of a selection relative to the original, with the correction learned from measured ones."""
        correction = self._correction_of(in_integers(choices))
        return self._canonical_ratio * correction.measured_for(self._sum_of_layers(choices))

    def _sum_of_layers(self, choices: Mapping[str, Option]) -> float:
        """Whole-model latency of a selection relative to the original, from its layers alone."""
        spent = self.estimator.original.layer_ms
        saved_ms = sum(spent[name] - option.latency_ms for name, option in choices.items())
        return 1.0 - (saved_ms - self.conversions.paid_ms(in_integers(choices))) / self.reference_ms

    def model(self, choices: Mapping[str, Option], plan: Plan) -> bytes:
        """The serialized model of a selection, with the plan in its metadata."""
        return serialize_and_discard(build_model(self.subject, self._factored(choices), plan), self.subject.path)

    def _factored(self, choices: Mapping[str, Option]) -> dict[str, tuple[Candidate, Factorization]]:
        return {name: self._chosen(name, o.candidate) for name, o in choices.items() if o.candidate != ORIGINAL}

    def _chosen(self, name: str, candidate: Candidate) -> tuple[Candidate, Factorization]:
        stored = self._factors.setdefault(name, {})
        if candidate.function not in stored:
            layer = self.layers[name]
            stored[candidate.function] = SCHEMES[candidate.scheme].factorize(layer, scheme_rank(candidate, layer))
        return candidate, stored[candidate.function]

    def _fit_missing(self, selections: Sequence[Mapping[str, Option]]) -> None:
        """Fit what the selections choose and only the table knew."""
        missing: dict[str, dict[Candidate, float]] = {}
        for selection in selections:
            for name, option in selection.items():
                candidate = option.candidate
                known = self._factors.get(name, {})
                if not candidate.is_exact and candidate.function not in known:
                    missing.setdefault(name, {})[candidate] = option.latency_ms
        for _ in self.fit(missing, keep_all=True):
            pass

    def propose(self, choices: Mapping[str, Option]) -> Proposal:
        """Build a selection, measure it, and learn from it how predictions come true."""
        predicted = self.predicted_ratio(choices)
        self._fit_missing([choices])
        factored, features, feature_error = self._factored(choices), self.verifier.features, 0.0
        if features:
            feature_error = self.verifier.feature_error(build_model(self.subject, factored, exposed=features))
        built = self.verifier.measure(build_model(self.subject, factored), feature_error=feature_error)
        self._original_rounds_ms.extend(built.comparison.round_ms[0])
        self._correction_of(in_integers(choices)).observe(
            self._sum_of_layers(choices), built.ratio / self._canonical_ratio
        )
        return Proposal(choices, predicted, built)

    def fastest_exact(self) -> dict[str, Option]:
        """The fastest option without loss, for every layer."""
        return {name: min(entries, key=lambda o: o.latency_ms) for name, entries in self.exact_options.items()}

    def select(
        self, options: Mapping[str, Sequence[Option]], limits: Limits, objective: str
    ) -> dict[str, Option] | None:
        """Least damage within limits.

        The latency limit is for the whole model, in the units of :attr:`reference_ms`, and gets the learned correction.
        """
        most_ms: Callable[[Set[str]], float] | None = None
        if limits.latency_ms is not None:
            wanted = limits.latency_ms / self.reference_ms / self._canonical_ratio
            others_ms = self.reference_ms - sum(self.estimator.original.layer_ms[name] for name in options)

            def most_ms(integers: Set[str]) -> float:
                return self._correction_of(integers).predicted_for(wanted) * self.reference_ms - others_ms

        return self.conversions.least_damage(options, replace(limits, latency_ms=None), OBJECTIVES[objective], most_ms)

    def _correction_of(self, integers: Set[str]) -> LatencyCorrection:
        """Plans that take most of their time in integers come out slower than predicted where others come out faster."""
        spent = self.estimator.original.layer_ms
        return self._corrections[2 * sum(spent.get(name, 0.0) for name in integers) > sum(spent.values())]

    def select_fastest(self, options: Mapping[str, Sequence[Option]], max_damage: float) -> dict[str, Option]:
        """Least latency with a total predicted damage of at most ``max_damage``."""
        return self.conversions.least_latency(options, max_damage)

    @property
    def conversions(self) -> Conversions:
        """What layers in real numbers pay among layers in integers, as far as it was measured."""
        per_byte_ms = (self.estimator.table.get(self._conversion_key) or 0.0) * self.reference_ms
        return Conversions({pair: per_byte_ms * size for pair, size in self._converted_bytes.items()})

    @cached_property
    def _converted_bytes(self) -> dict[tuple[str, str], float]:
        return converted_bytes(self.subject.proto, self.subject.inventory)

    @property
    def _conversion_key(self) -> str:
        subject = self.subject
        return f"{original_key(subject.digest, subject.input_shapes, self.settings.threads)}|conversions"

    def least_damage(self, limits: Limits) -> dict[str, Option] | None:
        """The selection within limits of least :func:`plan_score` of those that the objectives find."""
        selections: list[dict[str, Option]] = []
        for objective in OBJECTIVES:
            selection = self.select(self.all_options, limits, objective)
            if selection is not None and selection not in selections:
                selections.append(selection)
        if len(selections) < 2:
            return selections[0] if selections else None
        self._fit_missing(selections)
        scores = []
        for index, selection in enumerate(selections):
            self.progress(Progress("plan", (index + 1) / len(selections), "outputs of whole plans"))
            lossy = {n: o for n, o in selection.items() if not o.candidate.is_exact}
            plain = {n: (c.plainest, f) for n, (c, f) in self._factored(lossy).items()}
            scores.append(plan_score(self.verifier.error(build_model(self.subject, plain)), selection))
        return selections[int(np.argmin(scores))]

    def wholly_in_integers(self) -> dict[str, Option]:
        """Every kernel as it is, in integers where it can be, else its fastest form without loss."""
        whole = {n: o for n, entries in self.all_options.items() for o in entries if o.candidate.scheme == "int8"}
        return self.fastest_exact() | whole

    def fastest_of_all(self) -> dict[str, Option]:
        """The fastest option of every layer, whatever its damage."""
        return self.select_fastest(self.all_options, np.inf)

    def mac_fraction(self, choices: Mapping[str, Option]) -> float:
        """Share of the original's multiply-accumulates that a selection keeps."""
        total = sum(layer.macs for layer in self.layers.values())
        saved = sum(self.layers[name].macs - option.macs for name, option in choices.items())
        return 1.0 - saved / max(total, 1)
