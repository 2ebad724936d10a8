"""How much an error in one layer moves the model's outputs.

One end-to-end measurement per layer, with a factorization whose own error is moderate: the slope (error of the outputs per
error of the layer) then turns the error of every candidate of that layer into predicted damage.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from edge_dac.device.probes import Feeds
from edge_dac.planning.candidates import Candidate
from edge_dac.planning.fits import Fit
from edge_dac.planning.gated_model import GatedModel
from edge_dac.planning.subject import Subject
from edge_dac.progress import Progress, ProgressCallback
from edge_dac.statistics.output_error import comparable_tensors, output_error

REFERENCE_ERROR = 0.06
"""Layer error near which the slope is taken: large enough to stand out, small enough to be near linear."""


def measure_slopes(
    subject: Subject,
    fits: Mapping[str, Mapping[Candidate, Fit]],
    *,
    threads: int,
    time_budget_s: float,
    progress: ProgressCallback,
) -> dict[str, float]:
    """Output error per layer error, by layer name.

    All layers see the same held-out samples: as many as the time allows.
    """
    probes = {
        name: min(entries.values(), key=lambda fit: abs(np.log(max(fit.error, 1e-12) / REFERENCE_ERROR)))
        for name, entries in fits.items()
        if entries
    }
    if not probes:
        return {}
    tensors = comparable_tensors(subject.proto)
    factorizations = {name: fit.factorization for name, fit in probes.items()}
    gated = GatedModel(subject.proto, subject.inventory, factorizations, tensors, threads)
    batches = _affordable_feeds(subject, gated, len(probes), time_budget_s)
    references = [gated.run(batch) for batch in batches]
    slopes: dict[str, float] = {}
    for done, (name, fit) in enumerate(probes.items()):
        progress(Progress("sensitivity", done / len(probes), name))
        errors = [
            output_error(reference, gated.run(batch, [name]))
            for batch, reference in zip(batches, references, strict=True)
        ]
        slopes[name] = float(np.mean(errors)) / max(fit.error, 1e-12)
    progress(Progress("sensitivity", 1.0, f"{len(probes)} layers"))
    return slopes


def _affordable_feeds(subject: Subject, gated: GatedModel, layers: int, time_budget_s: float) -> list[Feeds]:
    """As many held-out feeds as all layers can be run on in the time, at least one."""
    gated.run(subject.timing_feed)
    begin = time.perf_counter()
    gated.run(subject.timing_feed)
    run_s = time.perf_counter() - begin
    return subject.held_out_feeds[: max(1, int(time_budget_s / (layers * run_s)))]
