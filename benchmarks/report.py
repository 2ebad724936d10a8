"""From measured comparisons to the page ``docs/benchmarks.md``."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Written by `make bench` (`python -m benchmarks.compare`); do not edit by hand.

Real networks and real images out of the package registries (`benchmarks/models.py`), one thread, batch 1. All forms of
a network run in turn in one loop; *latency* is the median over the rounds of a form's time divided by the original's in
the same round, with the quartiles of that ratio. Time is the processor time of the process: on one thread that is the
latency of a device which does nothing else. *Layers* is the same without the time that the original spends
outside convolutions and matrix products: `1 - (1 - latency) / share of layers`. *MACs* counts the algebra of the layers,
not what Winograd saves on top. Other engines were checked to give the original's outputs and are not evaluated again.

**Bold**: lossy and not faster than the fastest lossless form, so not worth its loss. "no data": fitted to synthetic
images alone; "32 real inputs": fitted to inputs of the task that are not evaluated. A budget such as "2x" asks for a
latency of 1/2. Plans mix low rank, Winograd and 8-bit integers, layer by layer, as is fastest here: on a processor
without integer dot products (VNNI) the plans, and what they lose, are others, and they were on an Intel Xeon that has
them (docs/fidelity.md, *Another processor*).
"""


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that was measured of one task; plain JSON values. ``rows``: see ``benchmarks.compare.Row``."""

    task: str
    about: str
    metric: str
    higher_is_better: bool
    input_shapes: dict[str, list[int]]
    rounds: int
    rows: list[dict[str, Any]]
    missing: dict[str, str]
    layer_share: float
    """Of the original's time."""
    machine: str


def machine(packages: Sequence[str]) -> str:
    """Date, processor and the versions of ``packages``, one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{datetime.now(UTC):%Y-%m-%d}, {model} ({platform.machine()}), {versions}"


def page(comparisons: Sequence[Comparison]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_section(comparison) for comparison in comparisons)])


def _section(comparison: Comparison) -> str:
    shapes = ", ".join(f"`{name}` {'x'.join(map(str, shape))}" for name, shape in comparison.input_shapes.items())
    direction = "" if comparison.higher_is_better else " (less is better)"
    metric = (comparison.metric.replace("_", " ") + direction) or "-"
    lines = [f"## {comparison.task}", "", comparison.about, ""]
    lines += [f"{shapes}; {comparison.rounds} rounds; {comparison.machine}."]
    lines += [f"Convolutions and matrix products take {comparison.layer_share:.0%} of the original's time.", ""]
    lines += [
        f"| form | latency (quartiles) | ms | layers | MACs | {metric} | |",
        "|---|---|---|---|---|---|---|",
    ]
    bar = min(row["ratio"] for row in comparison.rows if row["lossless"])
    lines += [_line(row, comparison, bar) for row in comparison.rows]
    lines += [f"| {name} | - | - | - | - | - | {reason} |" for name, reason in comparison.missing.items()]
    return "\n".join([*lines, ""])


def _line(row: dict[str, Any], comparison: Comparison, lossless_ratio: float) -> str:
    metric = comparison.metric
    beaten = not row["lossless"] and row["ratio"] >= lossless_ratio
    latency = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
    macs = "-" if row["macs"] is None else f"{row['macs']:.2f}"
    layers = "-" if row["macs"] is None else f"{1 - (1 - row['ratio']) / comparison.layer_share:.2f}"
    value = f"{row['measures'][metric]:.3f}" if metric else "-"
    others = [f"{name} {share:.3f}" for name, share in row["measures"].items() if name != metric and share <= 1]
    notes = "; ".join(filter(None, [row["note"], ", ".join(others)]))
    name = f"**{row['name']}**" if beaten else row["name"]
    return f"| {name} | {latency} | {row['median_ms']:.1f} | {layers} | {macs} | {value} | {notes} |"
