"""A selection that was built and measured, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_dac.planning.building import Built
from edge_dac.planning.candidates import ORIGINAL
from edge_dac.planning.selection import Option

WORTHWHILE_FOLDS = 0.02
"""Folds alone (``graph/canonical.py``) must save this share of the time before they are worth another file."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """A selection that was built and measured."""

    choices: Mapping[str, Option]
    predicted_ratio: float
    built: Built

    @property
    def score(self) -> float:
        """What plans are ranked by; see :func:`plan_score`."""
        return plan_score(self.built.output_error, self.choices)

    @property
    def is_faster(self) -> bool:
        """Whether it beats the original by more than the comparison may be wrong."""
        comparison = self.built.comparison
        slowest = max(comparison.ratio(1), comparison.undisturbed_ratio(1))
        bar = 1.0 if self.replaces_layers else 1.0 - WORTHWHILE_FOLDS
        return slowest + comparison.standard_error(1) < bar

    @property
    def replaces_layers(self) -> bool:
        """Whether it is more than the original with its neighbours folded into layers."""
        return any(option.candidate != ORIGINAL for option in self.choices.values())


def plan_score(joint_error: float, choices: Mapping[str, Option]) -> float:
    """Predicted loss of a whole plan: root of the joint output error times the sum of the layers' damage.

    The joint error alone tells gross failures but not near ties, the sum alone misses what errors do to each other; their
    product ranks plans best (docs/fidelity.md).
    """
    return float(np.sqrt(joint_error) * sum(option.damage for option in choices.values()))
