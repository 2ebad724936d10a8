"""What every subcommand prints with: JSON or tables, progress bars, one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from edge_dac.progress import Progress, ProgressCallback, ignore_progress

_PHASES = {
    "load": "Reading the model",
    "probe": "Timing candidates",
    "moments": "Synthetic statistics",
    "fit": "Factorizing",
    "sensitivity": "Sensitivity of layers",
    "plan": "Choosing ranks",
    "verify": "Verifying the whole model",
}


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, sort_keys=False)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output, never cut off where there is no terminal."""
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=200)
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_numeric(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def _is_numeric(cell: object) -> bool:
    text = str(cell).strip().rstrip("%x")
    return text in ("", "-") or text.replace(".", "", 1).replace(",", "").replace("e-", "", 1).isdigit()


def print_error(message: str) -> None:
    """One line on standard error."""
    line = " ".join(str(message).split())
    print(f"edge-dac: {line}", file=sys.stderr)


def print_warning(message: str) -> None:
    """One line on standard error, marked as a warning."""
    print_error(f"warning: {message}")


@contextlib.contextmanager
def progress_bar(arguments: argparse.Namespace) -> Iterator[ProgressCallback]:
    """A progress bar on a terminal; nothing where standard error is not one, or with ``--json``."""
    if not sys.stderr.isatty() or getattr(arguments, "json", False):
        yield ignore_progress
        return
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(step: Progress) -> None:
            if step.phase not in tasks:
                title = _PHASES.get(step.phase, step.phase)
                tasks[step.phase] = bar.add_task(title, total=1.0, note="")
            bar.update(tasks[step.phase], completed=step.fraction, note=step.message)

        yield show
