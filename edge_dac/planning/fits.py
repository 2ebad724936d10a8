"""Factorize candidates and keep, for every layer, those worth choosing.

Layers come one after another with their moments, so that the large second moments of one layer are gone before those of
the next arrive; what stays is the factors of the candidates that no other beats in both latency and error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from edge_dac.convolution import ConvLayer, Factorization
from edge_dac.planning.candidates import Candidate, chain_of, macs_of, scheme_rank
from edge_dac.planning.selection import Option
from edge_dac.planning.subject import Subject
from edge_dac.progress import Progress, ProgressCallback
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.error import LayerError
from edge_dac.schemes.int8 import quantize
from edge_dac.schemes.metric import shrunk_covariance, shrunk_probes
from edge_dac.schemes.scheme import DEFAULT_SHRINKAGE, Decomposition, Moments, ProbedMoments
from edge_dac.statistics.moments import collect_judging_moments, collect_moments, is_too_wide
from edge_dac.statistics.ranges import collect_ranges

JudgingMoments: TypeAlias = Moments | ProbedMoments

HELD_OUT_PATCHES = 2000
PRODUCT_SHRINKAGE, JUDGED_SHRINKAGE = 0.9, 0.4
"""A matrix product late in a network sees features of things that synthetic images do not show: its statistics are
trusted little when it is fitted, and half when it is judged against convolutions. (The captcha reader's last one at an
eighth of its MACs: accuracy .71 fitted at 0.2, .79 at 0.8 and at 0.95, .80 untouched.)"""

UNSEEN_SHARE = 0.05
"""Convolutions are judged as if this share of their input's variance lay in directions that synthetic images do not show.
Without it, layers near the outputs, where little is to be seen on synthetic images, are cut to almost nothing."""

SLACK = 0.95
"""Error at a higher rank bounds that at a lower one, up to what fits to samples deviate from it."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A factorized candidate.

    Attributes:
        error: relative output error of the layer (squared norms) on held-out moments, made as cautious as the fit.
        seen_error: the same on the held-out moments as they are.
    """

    factorization: Factorization
    error: float
    seen_error: float


def fit_layers(
    subject: Subject,
    wanted: Mapping[str, Mapping[Candidate, float]],
    *,
    threads: int,
    progress: ProgressCallback,
    weight_bits: int = 8,
    keep_all: bool = False,
) -> Iterator[tuple[str, dict[Candidate, Fit]]]:
    """Fit the wanted candidates to the statistics of the subject's samples.

    Matrix products too wide for statistics are fitted to their weights alone; of the others, statistics count for a
    tenth (:data:`PRODUCT_SHRINKAGE`).

    Args:
        wanted: by layer name, candidates with their predicted milliseconds.
        weight_bits: of factors that are computed in integers.
        keep_all: fit every candidate.

    Yields:
        layer name and the fits of its candidates, with ``keep_all`` or where none beats them in both latency and error.
    """
    layers = [layer for layer in subject.inventory.layers if wanted.get(layer.name)]
    by_name = {layer.name: layer for layer in layers}
    integers = [by_name[name] for name, entries in wanted.items() if any(c.computes_integers for c in entries)]
    ranges = collect_ranges(
        subject.proto, integers, subject.fit_samples, subject.input_shapes, subject.inventory.sites, threads=threads
    )
    fitting = collect_moments(
        subject.proto,
        layers,
        subject.fit_samples,
        subject.input_shapes,
        subject.inventory.sites,
        seed=subject.seed,
        threads=threads,
    )
    held_out = collect_judging_moments(
        subject.proto,
        layers,
        subject.held_out_samples,
        subject.input_shapes,
        subject.inventory.sites,
        patches_per_layer=HELD_OUT_PATCHES,
        seed=subject.seed + 1,
        threads=threads,
    )
    for name, moments, held_out_moments in _aligned(fitting, held_out, list(by_name)):
        progress(Progress("fit", list(by_name).index(name) / len(layers), name))
        moments = replace(moments, ranges=ranges.get(name))
        fitting_layer = _LayerFitting(by_name[name], wanted[name], moments, held_out_moments, weight_bits, keep_all)
        fits = fitting_layer.run()
        del moments, held_out_moments
        yield name, fits
    for layer in layers:
        if layer.axes == 0 and is_too_wide(layer):
            progress(Progress("fit", list(by_name).index(layer.name) / len(layers), layer.name))
            fits = _fit_weights(layer, wanted[layer.name])
            yield layer.name, fits if keep_all else _undominated(fits, wanted[layer.name])
    progress(Progress("fit", 1.0, f"{len(layers)} layers"))


def _aligned(
    left: Iterator[tuple[str, Moments]], right: Iterator[tuple[str, JudgingMoments]], order: Sequence[str]
) -> Iterator[tuple[str, Moments, JudgingMoments]]:
    """Layers that have moments on both sides: one that saw numbers that are not finite is missing on its side only."""
    position = {name: index for index, name in enumerate(order)}
    first, second = next(left, None), next(right, None)
    while first is not None and second is not None:
        if first[0] == second[0]:
            pair = (first[0], first[1], second[1])
            first = second = None  # The covariance of a layer must be gone before that of the next arrives.
            yield pair
            del pair
            first, second = next(left, None), next(right, None)
        elif position[first[0]] < position[second[0]]:
            first = next(left, None)
        else:
            second = next(right, None)


class _LayerFitting:
    """Fits of one layer's candidates that none beats; integers and others each among themselves."""

    def __init__(
        self,
        layer: ConvLayer,
        wanted: Mapping[Candidate, float],
        moments: Moments,
        held_out: JudgingMoments,
        weight_bits: int,
        keep_all: bool,
    ) -> None:
        self._layer, self._wanted, self._moments = layer, wanted, moments
        self._weight_bits, self._keep_all = weight_bits, keep_all
        self._seen = LayerError(layer, held_out)
        self._cautious = LayerError(layer, _shrunk(held_out, UNSEEN_SHARE if layer.axes else JUDGED_SHRINKAGE))

    def run(self) -> dict[Candidate, Fit]:
        """By candidate."""
        shrinkage = DEFAULT_SHRINKAGE if self._layer.axes else PRODUCT_SHRINKAGE
        has_grids = self._moments.ranges is not None or not self._layer.axes
        real: dict[Candidate, Fit] = {}
        integers: dict[Candidate, Fit] = {}
        for scheme, curve in _by_scheme(self._layer, self._wanted).items():
            if SCHEMES[scheme].computes_integers and not has_grids:
                continue
            decomposition = SCHEMES[scheme].decompose(self._layer, self._moments, shrinkage)
            self._follow([c for c in curve if not c.computes_integers], decomposition, real)
            if has_grids:
                self._follow([c for c in curve if c.computes_integers], decomposition, integers)
            del decomposition  # It holds a covariance; the next one makes its own.
            if not self._keep_all:
                real, integers = (_undominated(fits, self._wanted) for fits in (real, integers))
        return real | integers

    def _follow(self, curve: Sequence[Candidate], decomposition: Decomposition, fitted: dict[Candidate, Fit]) -> None:
        """Fit the ranks of a scheme, from coarse to fine.

        The error falls with the rank, so a rank that lies below one already tried, and whose error at that one a faster
        candidate reaches, cannot win and is not fitted.
        """
        tried: dict[int, float] = {}
        for index in _coarse_to_fine(len(curve)):
            candidate = curve[index]
            above = [error for other, error in tried.items() if other > index]
            at_best = SLACK * max(above, default=0.0)
            latency_ms = self._wanted[candidate]
            beaten = (fit.error <= at_best and self._wanted[c] <= latency_ms for c, fit in fitted.items())
            if not self._keep_all and any(beaten):
                continue
            factorization = decomposition.at(scheme_rank(candidate, self._layer))
            if candidate.computes_integers and factorization.quantization is None:
                factorization = quantize(self._layer, factorization, self._moments, self._weight_bits)
            fitted[candidate] = Fit(factorization, self._cautious.of(factorization), self._seen.of(factorization))
            tried[index] = fitted[candidate].error


def _fit_weights(layer: ConvLayer, wanted: Iterable[Candidate]) -> dict[Candidate, Fit]:
    """Fits to the weights alone; the largest first, of which others are views."""
    fitted: dict[Candidate, Fit] = {}
    for scheme, curve in _by_scheme(layer, wanted).items():
        decomposition = SCHEMES[scheme].decompose(layer)
        fitted.update({candidate: _weight_fit(layer, candidate, decomposition) for candidate in reversed(curve)})
    return fitted


def _shrunk(moments: JudgingMoments, shrinkage: float) -> JudgingMoments:
    if isinstance(moments, ProbedMoments):
        return shrunk_probes(moments, shrinkage)
    return replace(moments, covariance=shrunk_covariance(moments, shrinkage))


def _by_scheme(layer: ConvLayer, wanted: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    curves: dict[str, list[Candidate]] = {}
    for candidate in sorted(wanted, key=lambda c: macs_of(c, layer)):
        curves.setdefault(candidate.scheme, []).append(candidate)
    return curves


def _coarse_to_fine(count: int) -> Iterator[int]:
    """All indices below ``count``, the last first, then halving the distance."""
    seen: set[int] = set()
    step = 1 << max(count - 1, 0).bit_length()
    while step:
        for index in range(count - 1, -1, -step):
            if index not in seen:
                seen.add(index)
                yield index
        step //= 2


def _undominated(fits: Mapping[Candidate, Fit], latency_ms: Mapping[Candidate, float]) -> dict[Candidate, Fit]:
    kept: dict[Candidate, Fit] = {}
    least_error = np.inf
    for candidate in sorted(fits, key=lambda c: (latency_ms[c], fits[c].error)):
        if fits[candidate].error < least_error:
            least_error = fits[candidate].error
            kept[candidate] = fits[candidate]
    return kept


def weight_only_fit(layer: ConvLayer, candidate: Candidate) -> Fit:
    """The candidate without statistics, as in the paper; its error is that of the weights."""
    return _weight_fit(layer, candidate, SCHEMES[candidate.scheme].decompose(layer))


def _weight_fit(layer: ConvLayer, candidate: Candidate, decomposition: Decomposition) -> Fit:
    rank = scheme_rank(candidate, layer)
    # Row by row: squares in float64 would take twice the memory of what can be the largest weight of a model.
    energy = sum(float(np.vdot(row, row)) for row in layer.weight.reshape(layer.out_channels, -1))
    error = decomposition.weight_error(rank) / max(energy, 1e-300)
    return Fit(decomposition.at(rank), error, error)


def weight_bytes(candidate: Candidate, layer: ConvLayer) -> int:
    """Bytes of the candidate's weights, as written by a direct lowering."""
    itemsize = 1 if candidate.computes_integers else np.dtype(layer.dtype).itemsize
    return sum(
        shape.out_channels * (shape.in_channels // shape.attributes.groups) * int(np.prod(shape.kernel)) * itemsize
        for shape in chain_of(candidate, layer)
    )


def make_option(layer: ConvLayer, candidate: Candidate, latency_ms: float, error: float, damage: float) -> Option:
    """An option for selection."""
    return Option(candidate, latency_ms, macs_of(candidate, layer), weight_bytes(candidate, layer), error, damage)


def thinned(options: Sequence[Option]) -> list[Option]:
    """Options that no other beats in latency, damage, MACs and size at once."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.latency_ms, o.damage)):
        beaten = any(
            other.damage <= option.damage and other.macs <= option.macs and other.size_bytes <= option.size_bytes
            for other in kept
        )
        if not beaten:
            kept.append(option)
    return kept
