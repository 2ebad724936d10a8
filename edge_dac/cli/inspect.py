"""``edge-dac inspect MODEL``: its layers, what they cost here, and what could be done with them."""

from __future__ import annotations

import argparse
from typing import Any

from edge_dac.cli.arguments import (
    add_allow_external,
    add_json,
    add_model,
    add_shapes,
    add_threads,
    add_values,
)
from edge_dac.cli.output import print_json, print_table, print_warning
from edge_dac.convolution import ConvLayer, Reason, Refusal


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect", help="layers: shape, MACs, measured ms, schemes that apply or the refusal"
    )
    add_model(parser)
    add_shapes(parser)
    add_values(parser)
    add_threads(parser)
    add_allow_external(parser)
    add_json(parser)
    parser.add_argument("--no-timing", action="store_true", help="do not run the model")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from edge_dac.cli.named_subject import load_named_subject
    from edge_dac.planning.probing import measure_original

    subject = load_named_subject(arguments)
    original = None
    if not arguments.no_timing:
        original = measure_original(
            subject.detached, subject.proto, subject.inventory, subject.timing_feed, arguments.threads
        )
    spent = original.layer_ms if original else {}
    unobserved = subject.inventory.unobserved
    layers = [
        _describe(layer, spent.get(layer.name), layer.name not in unobserved) for layer in subject.inventory.layers
    ]
    refusals = [
        {"layer": refusal.subject, "reason": str(refusal.reason), "message": refusal.message}
        for refusal in subject.inventory.refusals
    ]
    if arguments.json:
        print_json(
            {
                "model": str(arguments.model),
                "digest": subject.digest,
                "input_shapes": subject.input_shapes,
                "latency_ms": original.model_ms if original else None,
                "macs": sum(layer.macs for layer in subject.inventory.layers),
                "layers": layers,
                "refused": refusals,
                "assumptions": subject.assumptions,
                "warnings": subject.warnings,
            }
        )
        return 0
    title = f"{arguments.model.name}: {len(layers)} layers, {len(refusals)} refused"
    if original:
        title += f", {original.model_ms:.2f} ms"
    columns = ("layer", "operator", "weight", "stride", "groups", "input", "MMACs", "ms", "schemes", "refused")
    print_table(title, columns, [_row(entry) for entry in layers])
    if refusals:
        print_table("Left as they are", ("layer", "reason", "message"), [tuple(r.values()) for r in refusals])
    for assumption in subject.assumptions:
        print(f"assumed: {assumption}")
    for warning in subject.warnings:
        print_warning(warning)
    return 0


def _describe(layer: ConvLayer, latency_ms: float | None, is_observed: bool) -> dict[str, Any]:
    from edge_dac.schemes import SCHEMES

    refused = {name: scheme.refuse(layer) for name, scheme in SCHEMES.items()}
    if not is_observed:
        message = "inside a Loop or Scan, where nobody sees what it reads; only what loses nothing is done of itself"
        unobserved = Refusal(layer.name, Reason.UNOBSERVED, message)
        refused = {name: refusal or (None if name == "dense" else unobserved) for name, refusal in refused.items()}
    return {
        "layer": layer.name,
        "operator": layer.operator,
        "weight": list(layer.weight.shape),
        "strides": list(layer.attributes.strides),
        "groups": layer.attributes.groups,
        "input_size": list(layer.input_size),
        "macs": layer.macs,
        "latency_ms": latency_ms,
        "schemes": [name for name, refusal in refused.items() if refusal is None],
        "refused": {
            name: {"reason": str(refusal.reason), "message": refusal.message}
            for name, refusal in refused.items()
            if refusal is not None
        },
    }


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    latency_ms = entry["latency_ms"]
    useful = " ".join(name for name in entry["schemes"] if name != "dense") or "none"
    reasons: dict[str, list[str]] = {}
    for name, refusal in entry["refused"].items():
        reasons.setdefault(refusal["reason"], []).append(name)
    refused = "; ".join(f"not {' '.join(names)}: {reason}" for reason, names in reasons.items())
    return (
        entry["layer"],
        entry["operator"],
        "x".join(map(str, entry["weight"])),
        "x".join(map(str, entry["strides"])) or "-",
        str(entry["groups"]),
        "x".join("?" if extent is None else str(extent) for extent in entry["input_size"]) or "-",
        f"{entry['macs'] / 1e6:.2f}",
        "-" if latency_ms is None else f"{latency_ms:.3f}",
        useful,
        refused or "-",
    )
