"""Fill the latency table: measure candidates in context, several layers in one probe.

A probe is the whole model with one candidate in every layer that still wants one; layers of equal shape share what is
measured, so a network of repeated blocks needs few probes. Of the ranks of a (scheme, lowering) the middle one is measured
first; a lowering that loses clearly there is not measured again. Ranks between measured ones are interpolated over their
multiply-accumulates. Candidates in integers come first, for on a slow device the time may not do for all, and those in real
numbers are then few.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from edge_dac.convolution import ConvLayer
from edge_dac.device.latency_table import LatencyTable, LayerLatency, candidate_key, layer_signature
from edge_dac.device.probes import AnyModel, Feeds, profile_models
from edge_dac.graph.detached import DetachedModel, detach
from edge_dac.graph.layers import Inventory
from edge_dac.graph.rewriting import replace_layers
from edge_dac.lowerings import LoweredLayer, lowering_of
from edge_dac.planning.attribution import Attribution
from edge_dac.planning.candidates import ORIGINAL, Candidate, macs_of, timing_factorization
from edge_dac.planning.conversions import Conversions, map_bytes
from edge_dac.progress import Progress, ProgressCallback

LOSING_RATIO = 1.15
"""A lowering this much slower than the best of its scheme at the middle rank is not looked at again."""

FAST_INTEGERS = 0.5
"""Of the time of a convolution in real numbers: where integers take less, low rank in real numbers is not looked at."""

PROBED_AT_ONCE_BYTES = 400_000_000
"""Models open at the same time in one interleaved run may take about this much together."""

ACTIVATIONS_HELD = 10
"""Memory of a run, in inputs and outputs of the largest layer: transforms and the arena's habit of doubling."""


@dataclass(eq=False)
class LatencyEstimator:
    """Milliseconds of any candidate, from the table and the dense layer's own time.

    Args:
        table: measured ratios.
        threads: intra-op threads they belong to.
        original: times of the untouched model.
    """

    table: LatencyTable
    threads: int
    original: LayerLatency
    _curves: dict[tuple[str, str, str], list[tuple[int, float]]] = field(default_factory=dict)

    def ratio(self, layer: ConvLayer, candidate: Candidate) -> float | None:
        """Time of the candidate relative to the untouched layer; None where nothing near was measured."""
        if candidate == ORIGINAL:
            return 1.0
        key = candidate_key(layer_signature(layer), candidate.scheme, candidate.rank, candidate.lowering, self.threads)
        measured = self.table.get(key)
        return self._interpolated(layer, candidate) if measured is None else measured

    def latency_ms(self, layer: ConvLayer, candidate: Candidate) -> float | None:
        """Milliseconds of the candidate in place of ``layer``."""
        ratio = self.ratio(layer, candidate)
        return None if ratio is None else ratio * self.original.layer_ms.get(layer.name, 0.0)

    def remember_curve(self, layer: ConvLayer, candidates: Sequence[Candidate]) -> None:
        """Gather the measured ranks among ``candidates`` for interpolation."""
        signature = layer_signature(layer)
        for candidate in candidates:
            if candidate.rank is None:
                continue
            key = candidate_key(signature, candidate.scheme, candidate.rank, candidate.lowering, self.threads)
            ratio = self.table.get(key)
            if ratio is not None:
                curve = self._curves.setdefault((signature, candidate.scheme, candidate.lowering), [])
                point = (macs_of(candidate, layer), ratio)
                if point not in curve:
                    curve.append(point)
                    curve.sort()

    def _interpolated(self, layer: ConvLayer, candidate: Candidate) -> float | None:
        curve = self._curves.get((layer_signature(layer), candidate.scheme, candidate.lowering), [])
        macs = macs_of(candidate, layer)
        if len(curve) < 2 or not curve[0][0] <= macs <= curve[-1][0]:
            return None
        return float(np.interp(macs, [point[0] for point in curve], [point[1] for point in curve]))


def measure_original(
    model: AnyModel, proto: onnx.ModelProto, inventory: Inventory, feeds: Feeds, threads: int
) -> LayerLatency:
    """Times of the untouched model, by layer."""
    (first,) = profile_models([model], feeds, threads, rounds=1)
    (timing,) = profile_models([model], feeds, threads, rounds=_rounds(first.total_ms, target_ms=1500))
    attribution = Attribution(proto, [layer.name for layer in inventory.layers])
    return LayerLatency(timing.total_ms, attribution.layer_ms(timing.node_ms))


def _rounds(model_ms: float, target_ms: float) -> int:
    return int(np.clip(target_ms / max(model_ms, 1e-3), 3, 25))


class Prober:
    """Measures what is missing in a latency table.

    Args:
        model: canonical model, the reference of every probe.
        proto: the same, parsed.
        inventory: its layers.
        feeds: inputs of the runs.
        threads: intra-op threads.
        table: where ratios go.
        original: times of the untouched model.
        conversion_key: under which the table keeps what a byte costs that is converted between real and integer layers,
            relative to the time of the untouched model.
        converted: from :func:`converted_bytes`.
    """

    def __init__(
        self,
        model: DetachedModel,
        proto: onnx.ModelProto,
        inventory: Inventory,
        feeds: Feeds,
        threads: int,
        table: LatencyTable,
        original: LayerLatency,
        conversion_key: str,
        converted: Mapping[tuple[str, str], float],
    ) -> None:
        self._conversion_key = conversion_key
        self._converted = Conversions(converted)  # at a price of 1 for a byte
        self._model, self._proto, self._inventory = model, proto, inventory
        self._feeds, self._threads, self._table = feeds, threads, table
        self._original = original
        self._layers = {layer.name: layer for layer in inventory.layers}
        self._reference_owner = Attribution(proto, self._layers)
        largest = max((activation_bytes(layer) for layer in inventory.layers), default=0)
        self._batch = int(np.clip(PROBED_AT_ONCE_BYTES // (model.size_bytes + ACTIVATIONS_HELD * largest + 1), 1, 4))

    def fill(
        self,
        candidates: Mapping[str, Sequence[Candidate]],
        *,
        time_budget_s: float,
        progress: ProgressCallback,
        is_thorough: bool,
    ) -> bool:
        """Measure the candidates of every layer (by layer name) until all are known or the time is over.

        Returns:
            Whether some were left out because integers are fast, which ``is_thorough`` does not.
        """
        deadline = time.monotonic() + time_budget_s
        self._measure_whole_kernels(candidates)
        whole = _whole_kernels(candidates)
        integers = {name: [c for c in entries if c.computes_integers] for name, entries in candidates.items()}
        self._measure_curves(integers, whole, deadline, lambda done: progress(Progress("probe", done / 2, "integers")))
        real = {name: [c for c in entries if not c.computes_integers] for name, entries in candidates.items()}
        others = real
        if not is_thorough:
            others = {name: self._worth_a_probe(name, entries, whole.get(name)) for name, entries in real.items()}
        self._measure_curves(
            others, {}, deadline, lambda done: progress(Progress("probe", 0.5 + done / 2, "real numbers"))
        )
        self._table.save()
        return others != real

    def _worth_a_probe(self, name: str, candidates: Sequence[Candidate], whole: Candidate | None) -> list[Candidate]:
        """Those in real numbers, unless the ``whole`` kernel in integers is fast: it loses less, and low rank in integers
        is faster still. Plans of four networks without any such candidate of a convolution were as good down to about the
        time that all kernels take in integers (docs/algorithm.md).
        """
        layer = self._layers[name]
        known = None if whole is None else self._table.get(self._key(layer_signature(layer), whole))
        is_idle = layer.axes > 0 and known is not None and known < FAST_INTEGERS
        return [c for c in candidates if c.is_exact or not is_idle]

    def _measure_curves(
        self,
        candidates: Mapping[str, Sequence[Candidate]],
        around: Mapping[str, Candidate],
        deadline: float,
        report: Callable[[float], None],
    ) -> None:
        """The middle ranks of all, then the ends of what does not lose there."""
        middle = {name: _middle_ranks(entries) for name, entries in candidates.items()}
        self._measure(middle, deadline, lambda done: report(done / 2), around)
        ends = {name: self._surviving_ends(self._layers[name], entries) for name, entries in candidates.items()}
        self._measure(ends, deadline, lambda done: report(0.5 + done / 2), around)

    def _measure_whole_kernels(self, candidates: Mapping[str, Sequence[Candidate]]) -> None:
        """Whole kernels in integers, all layers in one probe: what they take depends on their neighbours.

        Beside it three with each third of the layers in real numbers, which tell what these neighbours cost.
        """
        everywhere = _whole_kernels(candidates)
        keys = [self._key(layer_signature(self._layers[name]), c) for name, c in everywhere.items()]
        if all(self._table.get(key) is not None for key in (*keys, *([self._conversion_key] if keys else []))):
            return
        parts = [{n: c for i, (n, c) in enumerate(everywhere.items()) if i % 3 != third} for third in range(3)]
        reference, whole, *mixed = self._profiled([everywhere, *parts])
        self._record(everywhere, whole.layer_ms, reference.layer_ms)
        paid_ms = converted = 0.0
        for part, some in zip(parts, mixed, strict=True):
            left_out = everywhere.keys() - part.keys()
            slower_ms = sum(reference.layer_ms.get(name, 0.0) - whole.layer_ms.get(name, 0.0) for name in left_out)
            paid_ms += some.model_ms - whole.model_ms - slower_ms
            converted += self._converted.paid_ms(part.keys())
        self._table.put(self._conversion_key, max(paid_ms, 0.0) / max(converted, 1.0) / reference.model_ms)

    def _key(self, signature: str, candidate: Candidate) -> str:
        return candidate_key(signature, candidate.scheme, candidate.rank, candidate.lowering, self._threads)

    def _surviving_ends(self, layer: ConvLayer, candidates: Sequence[Candidate]) -> list[Candidate]:
        signature = layer_signature(layer)
        ratios: dict[tuple[str, str], float] = {}
        for candidate in _middle_ranks(candidates):
            ratio = self._table.get(self._key(signature, candidate))
            if ratio is not None and candidate.rank is not None:
                ratios[candidate.scheme, candidate.lowering] = ratio
        best = {scheme: min(r for (s, _), r in ratios.items() if s == scheme) for scheme, _ in ratios}
        kept = {pair for pair, ratio in ratios.items() if ratio <= LOSING_RATIO * best[pair[0]]}
        return [c for c in _end_ranks(candidates) if (c.scheme, c.lowering) in kept]

    def _measure(
        self,
        wanted: Mapping[str, Sequence[Candidate]],
        deadline: float,
        report: Callable[[float], None],
        around: Mapping[str, Candidate],
    ) -> None:
        queues: dict[str, deque[Candidate]] = {}
        members: dict[str, list[ConvLayer]] = {}
        for name, entries in wanted.items():
            layer = self._layers[name]
            if self._original.layer_ms.get(name, 0.0) <= 0.0:
                continue
            signature = layer_signature(layer)
            members.setdefault(signature, []).append(layer)
            queue = queues.setdefault(signature, deque())
            queue.extend(c for c in entries if c not in queue and self._table.get(self._key(signature, c)) is None)
        total = sum(map(len, queues.values()))
        while any(queues.values()) and time.monotonic() < deadline:
            assignments = [self._next_assignment(queues, members) for _ in range(self._batch)]
            self._run([assignment for assignment in assignments if assignment], around)
            report(1.0 - sum(map(len, queues.values())) / max(total, 1))

    def _next_assignment(
        self, queues: Mapping[str, deque[Candidate]], members: Mapping[str, list[ConvLayer]]
    ) -> dict[str, Candidate]:
        assignment: dict[str, Candidate] = {}
        for signature, queue in queues.items():
            for layer in members[signature]:
                if not queue:
                    break
                assignment[layer.name] = queue.popleft()
        return assignment

    def _run(self, assignments: Sequence[Mapping[str, Candidate]], around: Mapping[str, Candidate]) -> None:
        """Measure the assignments; the layers that they leave free take what is ``around``."""
        reference, *probes = self._profiled([{**around, **assignment} for assignment in assignments])
        for assignment, probe in zip(assignments, probes, strict=True):
            self._record(assignment, probe.layer_ms, reference.layer_ms)

    def _profiled(self, assignments: Sequence[Mapping[str, Candidate]]) -> list[LayerLatency]:
        """Times of the untouched model and of those with the assignments, in one interleaved run."""
        owners = [self._reference_owner]

        def models() -> Iterator[AnyModel]:
            # One at a time: with Winograd's kernels a probe can be several times the size of the model.
            yield self._model
            for assignment in assignments:
                proto = self._probe_model(assignment)
                owners.append(Attribution(proto, self._layers))
                detached = detach(proto)
                del proto
                yield detached

        rounds = _rounds(self._original.model_ms, target_ms=250)
        timings = profile_models(models(), self._feeds, self._threads, rounds=rounds)
        pairs = zip(owners, timings, strict=True)
        return [LayerLatency(timing.total_ms, owner.layer_ms(timing.node_ms)) for owner, timing in pairs]

    def _record(
        self,
        assignment: Mapping[str, Candidate],
        measured: Mapping[str, float],
        reference: Mapping[str, float],
    ) -> None:
        times: dict[str, list[float]] = {}
        for name, candidate in assignment.items():
            if name in measured and reference.get(name, 0.0) > 0.0:
                total = times.setdefault(self._key(layer_signature(self._layers[name]), candidate), [0.0, 0.0])
                total[0] += measured[name]
                total[1] += reference[name]
        for key, (candidate_ms, original_ms) in times.items():
            self._table.put(key, candidate_ms / original_ms)

    def _probe_model(self, assignment: Mapping[str, Candidate]) -> onnx.ModelProto:
        replacements = {name: probe_replacement(candidate) for name, candidate in assignment.items()}
        return replace_layers(self._proto, self._inventory, replacements)


def probe_replacement(candidate: Candidate) -> Callable[[ConvLayer, str, str], LoweredLayer]:
    """A replacement for :func:`replace_layers` with arbitrary weights of the candidate's shapes."""

    def replace(layer: ConvLayer, input_name: str, output_name: str) -> LoweredLayer:
        factorization = timing_factorization(candidate, layer)
        return lowering_of(candidate.lowering).lower(layer, factorization, input_name, output_name)

    return replace


def activation_bytes(layer: ConvLayer) -> int:
    """Input and output of a layer in float32, at the profiled shape."""
    return map_bytes(layer, layer.in_channels, layer.input_size) + map_bytes(
        layer, layer.out_channels, layer.output_size
    )


def _whole_kernels(candidates: Mapping[str, Sequence[Candidate]]) -> dict[str, Candidate]:
    """The candidate of scheme ``int8`` of every layer that has one."""
    return {name: c for name, entries in candidates.items() for c in entries if c.scheme == "int8"}


def _by_curve(candidates: Sequence[Candidate]) -> dict[tuple[str, str], list[Candidate]]:
    curves: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        if candidate != ORIGINAL:
            curves.setdefault((candidate.scheme, candidate.lowering), []).append(candidate)
    return curves


def _middle_ranks(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [curve[len(curve) // 2] for curve in _by_curve(candidates).values()]


def _end_ranks(candidates: Sequence[Candidate]) -> list[Candidate]:
    ends: list[Candidate] = []
    for curve in _by_curve(candidates).values():
        ends.extend(c for c in dict.fromkeys((curve[0], curve[-1])) if c is not curve[len(curve) // 2])
    return ends
