"""Candidates: what could stand in a layer's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_dac.convolution import Affine, ConvLayer, Factor, Factorization, FactorShape, Quantization, Rank
from edge_dac.errors import UsageError
from edge_dac.lowerings import INTEGER_LOWERINGS, LOWERINGS
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.int8 import rounded

FRACTIONS = (0.08, 0.12, 0.18, 0.25, 0.33, 0.42, 0.52, 0.64, 0.78)
"""Shares of the dense layer's multiply-accumulates at which ranks are offered."""

LONG_PATCH = 2000
"""Layers with longer input patches get every second share only: each fit of one takes up to a second."""

LONG_FILTER = 64
"""Taps from which ranks in steps of :data:`RANK_MULTIPLE` are fine enough."""

RANK_MULTIPLE = 8
"""ONNX Runtime's blocked kernels want channel counts that are multiples of their block."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scheme at a rank, in one lowering. ``dense``/``direct`` is the layer as it is."""

    scheme: str
    rank: Rank | None
    lowering: str

    @property
    def is_exact(self) -> bool:
        return self.scheme == "dense"

    @property
    def computes_integers(self) -> bool:
        return self.lowering in INTEGER_LOWERINGS

    @property
    def function(self) -> tuple[str, Rank | None, bool]:
        """What it computes: lowerings differ in speed only, but for integers."""
        return self.scheme, self.rank, self.computes_integers

    @property
    def plainest(self) -> Candidate:
        """The same function in the lowering that takes the least time and memory to build."""
        return self if self.computes_integers else replace(self, lowering="direct")


ORIGINAL = Candidate("dense", None, "direct")


def scheme_rank(candidate: Candidate, layer: ConvLayer) -> Rank:
    """The rank to hand to the scheme: the candidate's, or the full one for ``dense``."""
    return SCHEMES[candidate.scheme].ranks(layer)[-1] if candidate.rank is None else candidate.rank


def chain_of(candidate: Candidate, layer: ConvLayer) -> tuple[FactorShape, ...]:
    """Shapes of the candidate's chain in place of ``layer``."""
    return SCHEMES[candidate.scheme].shapes(layer, scheme_rank(candidate, layer))


def macs_of(candidate: Candidate, layer: ConvLayer) -> int:
    """Multiply-accumulates of the candidate in place of ``layer`` (of its algebra; a lowering may need fewer)."""
    return layer.chain_macs(chain_of(candidate, layer))


def lowerings_for(layer: ConvLayer, candidate: Candidate) -> list[str]:
    """Names of the lowerings that apply to the candidate's scheme and rank in place of ``layer``."""
    chain = chain_of(candidate, layer)
    lowerings = INTEGER_LOWERINGS if SCHEMES[candidate.scheme].computes_integers else LOWERINGS
    return [name for name, lowering in lowerings.items() if lowering.refuse(layer, chain) is None]


def integer_lowerings_for(layer: ConvLayer, candidate: Candidate) -> list[str]:
    """Names of those that compute the candidate's factors in integers."""
    chain = chain_of(candidate, layer)
    return [name for name, lowering in INTEGER_LOWERINGS.items() if lowering.refuse(layer, chain) is None]


def enumerate_candidates(
    layer: ConvLayer, schemes: Sequence[str], lowerings: Sequence[str] | None = None, *, exact_only: bool = False
) -> list[Candidate]:
    """All candidates of a layer, the original first.

    Args:
        schemes: names of the schemes to consider; ``dense`` is always among them. With ``int8`` the others, too, may be
            computed in integers.
        lowerings: names of the lowerings to consider, those for integers included; None for all.
        exact_only: no candidate that changes the function.

    Raises:
        UsageError: an unknown scheme or lowering.
    """
    unknown = [name for name in schemes if name not in SCHEMES]
    if unknown:
        raise UsageError(f"scheme: expected one of {', '.join(SCHEMES)}, got {unknown[0]!r}")
    known = [*LOWERINGS, *INTEGER_LOWERINGS]
    unknown = [name for name in lowerings or () if name not in known]
    if unknown:
        raise UsageError(f"lowering: expected one of {', '.join(known)}, got {unknown[0]!r}")
    if _is_filter_bank(layer) and "channel" in schemes:
        schemes = [name for name in schemes if name != "dac"]
    fractions = FRACTIONS[::2] if layer.weight[0].size > LONG_PATCH else FRACTIONS
    candidates = [ORIGINAL]
    for name in dict.fromkeys(("dense", *(() if exact_only else schemes))):
        scheme = SCHEMES[name]
        if scheme.refuse(layer) is not None:
            continue
        ranks: Sequence[Rank | None]
        ranks = [None] if name == "dense" else scheme.candidate_ranks(layer, fractions, RANK_MULTIPLE)
        for rank in ranks:
            candidate = Candidate(name, rank, "direct")
            applicable = lowerings_for(layer, candidate)
            if "int8" in schemes and name != "dense":
                applicable += integer_lowerings_for(layer, candidate)
            if lowerings is not None:
                applicable = [lowering for lowering in applicable if lowering in lowerings]
            candidates.extend(Candidate(name, rank, lowering) for lowering in applicable)
    return list(dict.fromkeys(candidates))


def promising(latency_ms: Mapping[Candidate, float], bar_ms: float, *, has_maps: bool) -> dict[Candidate, float]:
    """Approximate candidates faster than what loses nothing, or nearly nothing, as a whole kernel in integers does.

    Each in its fastest lowering only.

    Args:
        latency_ms: of the approximate candidates.
        bar_ms: of what loses nothing.
        has_maps: keep the whole kernel in integers in any case: it spares its neighbours conversions (``conversions.py``).
    """
    whole_ms = min((latency for c, latency in latency_ms.items() if c.scheme == "int8"), default=bar_ms)
    fastest: dict[object, Candidate] = {}
    for candidate, latency in latency_ms.items():
        is_whole = candidate.scheme == "int8"
        limit_ms = bar_ms if is_whole else min(bar_ms, whole_ms)
        if latency >= limit_ms and not (is_whole and has_maps):
            continue
        known = fastest.setdefault(candidate.function, candidate)
        if latency < latency_ms[known]:
            fastest[candidate.function] = candidate
    return {candidate: latency_ms[candidate] for candidate in fastest.values()}


def _is_filter_bank(layer: ConvLayer) -> bool:
    """Long filters of a single channel, as spectra have them: ``dac`` gives what ``channel`` gives, and takes far longer."""
    return layer.in_channels == 1 and layer.weight[0].size >= LONG_FILTER


def timing_factorization(candidate: Candidate, layer: ConvLayer) -> Factorization:
    """A factorization of the candidate's shapes with arbitrary weights: latency does not depend on their values.

    The values are small and far from zero's neighbourhood, so that no denormal number slows a kernel down.
    """
    random = np.random.default_rng(0)
    factors = []
    for shape in chain_of(candidate, layer):
        extents = (shape.out_channels, shape.in_channels // shape.attributes.groups, *shape.kernel)
        scale = 1.0 / np.sqrt(np.prod(extents[1:]))
        pattern = random.uniform(0.5, 1.5, 4096).astype(np.float32) * np.float32(scale)
        pattern[::2] *= -1
        factors.append(Factor(np.resize(pattern, extents), shape.attributes))
    quantization = None
    if candidate.computes_integers:
        # Rounding keeps the largest weights: of weights that are all zero ONNX Runtime takes the packed kernels of two
        # shapes for the same, and then does not open the model.
        factors = [rounded(factor, bits=8) for factor in factors]
        # The same for all layers, so that their maps stay in integers from one to the next as they do in a plan.
        quantization = Quantization((Affine(1.0, 0),) * (len(factors) + 1) if layer.axes else ())
    rank = scheme_rank(candidate, layer)
    return Factorization(candidate.scheme, rank, tuple(factors), layer.bias, quantization=quantization)
