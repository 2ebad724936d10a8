"""``edge-dac compress MODEL -o OUT.onnx``: plan and factorize for a budget."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_dac.cli.arguments import (
    add_allow_external,
    add_json,
    add_layer_ranks,
    add_model,
    add_shapes,
    add_threads,
    add_total_rank,
    add_values,
    parse_layer_ranks,
    parse_numbers,
    parse_shapes,
    parse_values,
)
from edge_dac.cli.output import print_json, print_table, print_warning, progress_bar
from edge_dac.errors import BudgetUnreachableError, UsageError
from edge_dac.files import write_atomically
from edge_dac.planning.budget import Budget

if TYPE_CHECKING:
    from edge_dac.compression import Compressed, Options


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("compress", help="plan and factorize a model for a budget")
    add_model(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.onnx", help="where to write the model")
    wanted = parser.add_argument_group("budget (without one: the fastest plan without loss)")
    wanted.add_argument("--budget-ms", type=float, metavar="MS", help="latency of the whole model on this device")
    wanted.add_argument("--percentile", type=int, default=50, metavar="P", help="percentile meant by --budget-ms (50)")
    wanted.add_argument("--speedup", type=float, metavar="X", help="original latency over the plan's")
    wanted.add_argument(
        "--max-error", type=float, metavar="E", help="largest relative output error; 0: exact rewrites only"
    )
    wanted.add_argument("--mac-fraction", type=float, metavar="F", help="largest share of the multiply-accumulates")
    wanted.add_argument("--memory-bytes", type=int, metavar="N", help="largest size of the model")
    wanted.add_argument("--rank", type=int, metavar="R", help="the paper: DAC with one rank for all layers")
    add_total_rank(wanted)
    add_layer_ranks(wanted)
    add_shapes(parser)
    add_values(parser)
    add_threads(parser)
    parser.add_argument("--schemes", metavar="A,B", help="schemes to consider")
    parser.add_argument("--lowerings", metavar="A,B", help="lowerings to consider; int8 is that of integers")
    parser.add_argument("--input-range", metavar="LO,HI", help="values of black and white at the inputs")
    parser.add_argument("--mean", metavar="M,...", help="per channel, subtracted from the inputs")
    parser.add_argument("--std", metavar="S,...", help="per channel, the inputs are divided by")
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR", help="fit to real inputs (npy or pictures); never needed"
    )
    parser.add_argument("--latency-table", type=Path, metavar="FILE", help="keep measured latency ratios in FILE")
    parser.add_argument("--fidelity-table", type=Path, metavar="FILE", help="keep what was fitted and judged in FILE")
    add_allow_external(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (0)")
    parser.add_argument("--dry-run", action="store_true", help="plan and measure, write nothing")
    parser.add_argument(
        "--best-effort", action="store_true", help="write the best found where the budget cannot be met"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    budget = Budget(
        latency_ms=arguments.budget_ms,
        percentile=arguments.percentile,
        speedup=arguments.speedup,
        max_error=arguments.max_error,
        mac_fraction=arguments.mac_fraction,
        memory_bytes=arguments.memory_bytes,
        uniform_rank=arguments.rank,
        total_rank=arguments.total_rank,
        layer_ranks=parse_layer_ranks(arguments.layer),
    )
    if arguments.output is None and not arguments.dry_run:
        raise UsageError("-o OUT.onnx: expected where to write the model (or --dry-run), got nothing")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise UsageError(f"{arguments.output}: expected a file in an existing folder")
    options = _options(arguments)
    from edge_dac.compression import compress
    from edge_dac.device.allocator import return_large_blocks

    return_large_blocks()
    with progress_bar(arguments) as progress:
        try:
            result = compress(arguments.model, budget, options, progress=progress)
            unreachable = None
        except BudgetUnreachableError as error:
            if error.best is None:
                raise
            result, unreachable = error.best, error
    written = not arguments.dry_run and (unreachable is None or arguments.best_effort)
    if written:
        _write(arguments.output, result)
    _print(arguments, result, written)
    if unreachable is not None:
        raise unreachable
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    from edge_dac.compression import Options
    from edge_dac.planning.subject import InputRange

    low_high = parse_numbers("--input-range", arguments.input_range, 2)
    return Options(
        input_shapes=parse_shapes(arguments.shape),
        threads=arguments.threads,
        schemes=_schemes(arguments.schemes),
        lowerings=_names(arguments.lowerings),
        input_range=InputRange(
            (low_high[0], low_high[1]) if low_high else None,
            parse_numbers("--mean", arguments.mean),
            parse_numbers("--std", arguments.std),
        ),
        input_values=parse_values(arguments.value),
        seed=arguments.seed,
        calibration=arguments.calibration,
        latency_table=arguments.latency_table,
        fidelity_table=arguments.fidelity_table,
        allow_external=arguments.allow_external,
    )


def _schemes(text: str | None) -> tuple[str, ...] | None:
    """Names of schemes; ``spatial`` stands for both of its orders."""
    names = _names(text)
    if names is None:
        return None
    return tuple(part for name in names for part in (("spatial_vh", "spatial_hv") if name == "spatial" else (name,)))


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else None


def plan_path(output: Path) -> Path:
    """``OUT.plan.json`` beside ``OUT.onnx``."""
    return output.with_suffix(".plan.json")


def _write(output: Path, result: Compressed) -> None:
    write_atomically(plan_path(output), json.dumps(result.plan.to_json(), indent=1).encode())
    write_atomically(output, result.model)


def _print(arguments: argparse.Namespace, result: Compressed, written: bool) -> None:
    plan = result.plan
    for warning in plan.warnings:
        print_warning(warning)
    if arguments.json:
        print_json({**plan.to_json(), "changed": result.changed, "written": str(arguments.output) if written else None})
        return
    rows = [
        (
            c.layer,
            c.scheme,
            c.rank or "-",
            c.lowering,
            f"{c.dense_latency_ms:.3f}",
            f"{c.latency_ms:.3f}",
            f"{c.error:.4f}",
        )
        for c in plan.choices
        if not (c.scheme == "dense" and c.lowering == "direct")
    ]
    if rows:
        columns = ("layer", "scheme", "rank", "lowering", "ms before", "ms predicted", "error")
        print_table("Replaced layers", columns, rows)
    measured_ms = plan.measured_latency_ms or plan.original_latency_ms
    saved = 1 - plan.macs / max(plan.original_macs, 1)
    speedup = plan.original_latency_ms / measured_ms
    print(f"latency   {plan.original_latency_ms:.3f} ms -> {measured_ms:.3f} ms ({speedup:.2f}x, measured)")
    print(f"MACs      {plan.original_macs / 1e6:.1f} M -> {plan.macs / 1e6:.1f} M ({saved:.1%} saved)")
    print(f"error     {plan.predicted_error:.4g} (relative output error on held-out synthetic inputs)")
    for assumption in plan.assumptions:
        print(f"assumed   {assumption}")
    if written:
        print(f"written   {arguments.output}, {plan_path(arguments.output)}")
