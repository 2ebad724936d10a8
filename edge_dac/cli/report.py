"""``edge-dac report PLAN -o report.html``: a plan as a page with pictures."""

from __future__ import annotations

import argparse
import html
import json
from pathlib import Path
from typing import Any

from edge_dac.errors import ModelFormatError, ModelNotFoundError
from edge_dac.files import write_atomically
from edge_dac.planning.plan import LayerChoice, Plan

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #e3e6ea }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.cards { display: flex; flex-wrap: wrap; gap: 1rem }
.card { border: 1px solid #d7dbe0; border-radius: .5rem; padding: .7rem 1rem }
.card b { display: block; font-size: 1.3rem } .muted { color: #667 } svg { width: 100%; height: auto }
"""
_BAR, _GAP, _LABEL, _WIDTH = 14, 6, 190, 640


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("report", help="the plan as a page with pictures")
    parser.add_argument("plan", type=Path, metavar="PLAN", help="OUT.plan.json, as compress wrote it")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="report.html")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    plan = _read(arguments.plan)
    write_atomically(arguments.output, render(plan, arguments.plan.name).encode())
    print(f"written   {arguments.output}")
    return 0


def _read(path: Path) -> Plan:
    try:
        return Plan.from_json(json.loads(path.read_text()))
    except OSError as error:
        raise ModelNotFoundError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{path}: expected a plan that compress wrote, got something else") from error


def render(plan: Plan, title: str) -> str:
    """The page, complete in one file: style and pictures inside, no script."""
    measured_ms = plan.measured_latency_ms or plan.original_latency_ms
    cards = [
        (f"{plan.original_latency_ms:.3g} → {measured_ms:.3g} ms", "latency, measured"),
        (f"{plan.original_latency_ms / measured_ms:.2f}x", "speed-up"),
        (f"{1 - plan.macs / max(plan.original_macs, 1):.1%}", "of the MACs saved"),
        (f"{plan.predicted_error:.3g}", "predicted relative output error"),
    ]
    card_row = "".join(
        f'<div class="card"><b>{value}</b><span class="muted">{name}</span></div>' for value, name in cards
    )
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in (*plan.warnings, *plan.assumptions))
    refused = "".join(
        f"<tr><td>{html.escape(entry.layer)}</td><td>{entry.reason}</td><td>{html.escape(entry.message)}</td></tr>"
        for entry in plan.refused
    )
    return "".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>',
            f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>",
            f'<p class="muted">model {plan.model_digest[:12]}, device {html.escape(plan.device_fingerprint)}, ',
            f"{plan.threads} thread(s), budget {html.escape(json.dumps(dict(plan.budget)))}</p>",
            f'<div class="cards">{card_row}</div>',
            f"<h2>Milliseconds by layer</h2>{_bars(plan.choices)}",
            f"<h2>Layers</h2>{_table(plan.choices)}",
            f"<h2>Left as they are</h2><table>{refused}</table>" if refused else "",
            f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
            "</html>\n",
        )
    )


def _bars(choices: tuple[LayerChoice, ...]) -> str:
    """Two bars a layer: as it was (pale) and as planned (strong)."""
    largest = max((c.dense_latency_ms for c in choices), default=0.0) or 1.0
    pitch = 2 * _BAR + _GAP
    rows = []
    for index, choice in enumerate(choices):
        top = index * pitch
        for offset, latency_ms, colour in (
            (0, choice.dense_latency_ms, "#c9d3de"),
            (_BAR, choice.latency_ms, "#2f6fb3"),
        ):
            width = _WIDTH * latency_ms / largest
            rows.append(
                f'<rect x="{_LABEL}" y="{top + offset}" width="{width:.1f}" height="{_BAR - 1}" fill="{colour}"/>'
            )
        name = html.escape(choice.layer[-28:])
        rows.append(f'<text x="{_LABEL - 6}" y="{top + _BAR + 4}" text-anchor="end" font-size="11">{name}</text>')
        label = f"{choice.dense_latency_ms:.3g} → {choice.latency_ms:.3g} ms"
        rows.append(f'<text x="{_LABEL + _WIDTH + 6}" y="{top + _BAR + 4}" font-size="11">{label}</text>')
    height = max(len(choices) * pitch, 1)
    size = f"0 0 {_LABEL + _WIDTH + 150} {height}"
    return f'<svg viewBox="{size}" role="img" aria-label="latency by layer">{"".join(rows)}</svg>'


def _table(choices: tuple[LayerChoice, ...]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("layer", "scheme", "rank", "lowering"))
    head += "".join(f'<th class="number">{name}</th>' for name in ("MMACs before", "MMACs", "error"))
    rows = []
    for c in choices:
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in (c.layer, c.scheme, c.rank or "", c.lowering))
        numbers = (f"{c.dense_macs / 1e6:.2f}", f"{c.macs / 1e6:.2f}", f"{c.error:.4f}")
        rows.append(f"<tr>{cells}{''.join(f'<td class=number>{number}</td>' for number in numbers)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
