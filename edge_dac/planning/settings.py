"""What plans of one model have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_SCHEMES = ("int8", "dac", "spatial_vh", "spatial_hv", "channel", "tucker")


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """What does not depend on the budget.

    Attributes:
        threads: intra-op threads the model will run with; what is timed runs with them.
        work_threads: threads of everything that is not timed.
        schemes: names of the schemes to consider.
        lowerings: names of the lowerings to consider, None for all.
        latency_table, fidelity_table: files of the tables, None to keep them in memory.
        probe_time_s, sensitivity_time_s, verify_time_s: time budgets of the phases.
    """

    threads: int = 1
    work_threads: int = 1
    schemes: Sequence[str] = DEFAULT_SCHEMES
    lowerings: Sequence[str] | None = None
    latency_table: Path | None = None
    fidelity_table: Path | None = None
    probe_time_s: float = 45.0
    sensitivity_time_s: float = 20.0
    verify_time_s: float = 6.0
