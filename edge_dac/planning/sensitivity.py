"""How much an error in one layer moves the model's outputs.

One end-to-end measurement per layer, with a factorization whose own error is moderate: the slope (error of the outputs per
error of the layer) then turns the error of every candidate of that layer into predicted damage.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from edge_dac.planning.candidates import Candidate
from edge_dac.planning.fits import Fit
from edge_dac.planning.gated_model import GatedModel
from edge_dac.planning.subject import Subject
from edge_dac.progress import Progress, ProgressCallback
from edge_dac.statistics.output_error import output_error

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

    Layers take turns over the held-out samples until all samples are used or the time is over; every layer sees the same
    samples, and at least one.
    """
    probes = {
        name: min(entries.values(), key=lambda fit: abs(np.log(max(fit.error, 1e-12) / REFERENCE_ERROR)))
        for name, entries in fits.items()
        if entries
    }
    if not probes:
        return {}
    gated = GatedModel(
        subject.proto, subject.inventory, {name: fit.factorization for name, fit in probes.items()}, threads
    )
    errors: dict[str, list[float]] = {name: [] for name in probes}
    deadline = time.monotonic() + time_budget_s
    feeds = subject.held_out_feeds
    for used, feed in enumerate(feeds):
        if used and time.monotonic() > deadline:
            break
        reference = gated.run(feed)
        for done, name in enumerate(probes):
            errors[name].append(output_error(reference, gated.run(feed, [name])))
            progress(Progress("sensitivity", (used + done / len(probes)) / len(feeds), name))
    progress(Progress("sensitivity", 1.0, f"{len(probes)} layers"))
    return {name: float(np.mean(errors[name])) / max(fit.error, 1e-12) for name, fit in probes.items()}
