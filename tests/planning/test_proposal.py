"""When a measured plan counts as faster."""

from __future__ import annotations

import numpy as np
import pytest

from edge_dac.device.probes import Comparison
from edge_dac.planning.building import Built
from edge_dac.planning.candidates import ORIGINAL, Candidate
from edge_dac.planning.proposal import Proposal
from edge_dac.planning.selection import Option


def _proposal(candidate: Candidate, ratio: float, scatter: float = 0.0) -> Proposal:
    rounds = np.ones((2, 100))
    rounds[1] = ratio * (1 + scatter * np.linspace(-1, 1, 100))
    return Proposal(
        {"conv": Option(candidate, 1.0, 1, 1, 0.0, 0.0)}, 1.0, Built(1, 0.0, 0.0, Comparison(rounds, rounds))
    )


@pytest.mark.parametrize(
    ("candidate", "ratio", "scatter", "faster"),
    [
        (Candidate("dense", None, "winograd4"), 0.99, 0.0, True),
        (Candidate("dense", None, "winograd4"), 0.99, 0.3, False),
        (Candidate("dense", None, "winograd4"), 1.01, 0.0, False),
        (ORIGINAL, 0.99, 0.0, False),
        (ORIGINAL, 0.9, 0.0, True),
    ],
)
def test_faster_is_what_the_measurement_can_tell(
    candidate: Candidate, ratio: float, scatter: float, faster: bool
) -> None:
    assert _proposal(candidate, ratio, scatter).is_faster is faster
