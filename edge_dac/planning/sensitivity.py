"""How much a candidate in one layer moves the model's outputs.

Measured end to end, one layer at a time, for as many candidates of every layer as the time allows; the damage of the
others follows from the error of their layer's output, by interpolation between measured ones on logarithmic axes. (One
slope per layer, taken at one error, gave a worse plan; figures in docs/fidelity.md.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge_dac.device.probes import Feeds
from edge_dac.planning.candidates import Candidate
from edge_dac.planning.fits import Fit
from edge_dac.planning.gated_model import GatedModel
from edge_dac.planning.subject import Subject
from edge_dac.progress import Progress, ProgressCallback
from edge_dac.statistics.output_error import comparable_tensors, output_error

LayerFits = Mapping[str, Mapping[Candidate, Fit]]
MOST_LEVELS = 6
INTEGER_SHARE = 0.5
"""Of the runs, for layers in integers."""
TINY = 1e-12


def measure_damage(
    subject: Subject,
    fits: LayerFits,
    *,
    spreads: Sequence[float],
    threads: int,
    runs: float,
    progress: ProgressCallback,
) -> dict[str, dict[Candidate, float]]:
    """Relative error of the model's outputs, by layer name and candidate, with that candidate alone in place.

    Args:
        spreads: of the original's outputs on all held-out samples.
        runs: how many runs of the model may be spent.
    """
    integers, others = (
        {name: {c: f for c, f in entries.items() if c.computes_integers is kind} for name, entries in fits.items()}
        for kind in (True, False)
    )
    # Rounding and cutting ranks harm in different ways: one says nothing about the other.
    share = runs * INTEGER_SHARE if any(integers.values()) else 0.0
    damage = _damage_by_error(subject, others, spreads, threads, runs - share, progress)
    for name, entries in _damage_by_error(subject, integers, spreads, threads, share, progress).items():
        damage.setdefault(name, {}).update(entries)
    return damage


def _damage_by_error(
    subject: Subject,
    fits: LayerFits,
    spreads: Sequence[float],
    threads: int,
    runs: float,
    progress: ProgressCallback,
) -> dict[str, dict[Candidate, float]]:
    """Damage of candidates of one kind: of as many as the runs allow, and by their errors that of the others."""
    considered = {name: sorted(entries, key=lambda c: entries[c].error) for name, entries in fits.items() if entries}
    if not considered:
        return {}
    levels, feeds = _affordable(subject.held_out_feeds, considered, runs)
    measured: dict[str, dict[Candidate, float]] = {name: {} for name in considered}
    for level in range(levels):
        chosen = {name: _at_level(order, level, levels) for name, order in considered.items()}
        pending = {name: candidate for name, candidate in chosen.items() if candidate not in measured[name]}
        progress(Progress("sensitivity", level / levels, f"{len(pending)} layers"))
        for name, damage in _measure_each(subject, fits, pending, feeds, spreads, threads).items():
            fit = fits[name][pending[name]]
            # The outputs, too, were only seen on synthetic samples.
            measured[name][pending[name]] = damage * fit.error / max(fit.seen_error, TINY)
    progress(Progress("sensitivity", 1.0, f"{len(considered)} layers"))
    return {name: _interpolated(fits[name], measured[name]) for name in considered}


def _at_level(order: Sequence[Candidate], level: int, levels: int) -> Candidate:
    """Candidates spread evenly from the least error to the largest."""
    share = (level + 0.5) / levels
    return order[min(int(share * len(order)), len(order) - 1)]


def _affordable(
    feeds: Sequence[Feeds], considered: Mapping[str, Sequence[Candidate]], runs: float
) -> tuple[int, Sequence[Feeds]]:
    """How many candidates of each layer can be measured, and on which feeds; at least two before more than one feed."""
    of_each = runs / len(considered)
    most = max(map(len, considered.values()))
    count = int(np.clip(of_each / min(2, most), 1, len(feeds)))
    return int(np.clip(of_each / count, 1, min(most, MOST_LEVELS))), feeds[:count]


def _measure_each(
    subject: Subject,
    fits: LayerFits,
    chosen: Mapping[str, Candidate],
    feeds: Sequence[Feeds],
    spreads: Sequence[float],
    threads: int,
) -> dict[str, float]:
    if not chosen:
        return {}
    factorizations = {name: fits[name][candidate].factorization for name, candidate in chosen.items()}
    tensors = comparable_tensors(subject.proto)
    gated = GatedModel(subject.proto, subject.inventory, factorizations, tensors, threads)
    references = [gated.run(feed) for feed in feeds]
    return {
        name: float(
            np.mean(
                [
                    output_error(reference, gated.run(feed, [name]), spreads)
                    for feed, reference in zip(feeds, references, strict=True)
                ]
            )
        )
        for name in chosen
    }


def _interpolated(fits: Mapping[Candidate, Fit], measured: Mapping[Candidate, float]) -> dict[Candidate, float]:
    """Damage of every candidate: as measured, else its error times the slope (damage per error) of its neighbours."""
    known = sorted(measured, key=lambda candidate: fits[candidate].error)
    errors = np.log([max(fits[candidate].error, TINY) for candidate in known])
    slopes = np.log([max(measured[candidate], TINY) / max(fits[candidate].error, TINY) for candidate in known])
    return {
        candidate: measured[candidate]
        if candidate in measured
        else fit.error * float(np.exp(np.interp(np.log(max(fit.error, TINY)), errors, slopes)))
        for candidate, fit in fits.items()
    }
