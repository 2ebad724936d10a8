"""Every form of a network side by side on one thread: the original, the paper, edge-dac, int8, other engines.

``python -m benchmarks.compare [--tasks demo,u2netp]`` measures, keeps one JSON file a task in ``benchmarks/results``
and writes the tables of all of them to ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks import report
from benchmarks.baselines import (
    DAC_LOWERINGS,
    SINGLE_SCHEMES,
    lowered,
    mac_fraction,
    one_mac_fraction,
    one_rank,
    single_scheme,
)
from benchmarks.interleaved import time_interleaved
from benchmarks.peers import Unavailable, build_peers, quantize_static
from benchmarks.tasks import TASKS, Task
from benchmarks.tasks.task import Array, Run, session_run
from edge_dac.compression import Compressed, Options, open_planner, plan_for
from edge_dac.errors import BudgetUnreachableError, EdgeDacError
from edge_dac.planning.budget import Budget
from edge_dac.planning.planner import Planner
from edge_dac.planning.subject import InputRange

RESULTS = Path(__file__).parent / "results"
PAPER_RANK = 4
"""The rank that the paper reports for VGG16: 53 % of the MACs saved."""
SINGLE_SCHEME_FRACTION = 0.5


@dataclass(frozen=True, eq=False)
class Variant:
    """One form of the network.

    ``lossless``: it computes what the original computes, up to rounding. ``macs``: relative to the original's; None for
    other engines.
    """

    name: str
    run: Run
    macs: float | None
    lossless: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one variant."""

    name: str
    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    macs: float | None
    lossless: bool
    measures: dict[str, float]
    note: str


def compare_task(task: Task) -> report.Comparison:
    """Build all variants of one task's network, evaluate and time them."""
    feeds = {task.input_name: task.calibration()[:1]}
    variants = [Variant("original (ONNX Runtime float32)", session_run(task.model_path()), 1.0, lossless=True)]
    missing: dict[str, str] = {}
    variants.extend(_edge_dac_variants(task, missing))
    for name, peer in build_peers(task.model_path(), task.input_shapes, feeds).items():
        if isinstance(peer, Unavailable):
            missing[name] = peer.reason
        else:
            variants.append(Variant(name, peer, None, lossless=True))
    print(f"{task.name}: timing {len(variants)} variants", flush=True)
    calls = {variant.name: _call(variant.run, feeds) for variant in variants}
    timings = time_interleaved(calls, rounds=40, limit_s=120, clock=time.process_time)
    rows = []
    original: dict[str, float] = {}
    for variant in variants:
        checked = variant.macs is None  # other engines, whose outputs were compared when they were built
        measures = original if checked else task.evaluate(variant.run)
        original = original or measures
        timing = timings[variant.name]
        spread = (timing.ratio, timing.ratio_low, timing.ratio_high)
        rows.append(
            asdict(Row(variant.name, timing.median_ms, *spread, variant.macs, variant.lossless, measures, variant.note))
        )
    return report.Comparison(
        task=task.name,
        about=" ".join((type(task).__doc__ or "").split()),
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        input_shapes={name: list(shape) for name, shape in task.input_shapes.items()},
        rounds=timings[variants[0].name].rounds,
        rows=rows,
        missing=missing,
        layer_share=_layer_share(task, feeds),
        machine=report.machine(("onnxruntime", "ncnn", "MNN", "openvino")),
    )


LAYER_OPERATORS = ("Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul")
"""What edge-dac can replace: convolutions, and matrix products that mostly have constant weights."""


def _layer_share(task: Task, feeds: dict[str, Array]) -> float:
    """Share of the original's kernel time that is spent in layers, from ONNX Runtime's own profile."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(task.model_path(), options, providers=["CPUExecutionProvider"])
        for _ in range(10):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    spent = sum(event["dur"] for event in kernels if event["args"]["op_name"] in LAYER_OPERATORS)
    return float(spent / sum(event["dur"] for event in kernels))


def _call(run: Run, feeds: dict[str, Array]) -> Callable[[], object]:
    return lambda: run(feeds)


def _edge_dac_variants(task: Task, missing: dict[str, str]) -> Iterator[Variant]:
    """All forms that start from edge-dac's view of the network; budgets that fail go to ``missing`` with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "latency.json"
        planner = _planner(task, table, None)
        yield from _weight_only_variants(task, planner)
        yield from _planned(task, planner, "edge-dac, exact", [Budget(max_error=0.0)], missing)
        budgets = [Budget(speedup=speedup) for speedup in task.speedups]
        yield from _planned(task, planner, "edge-dac, no data", budgets, missing)
        if task.metric:
            real = Path(folder) / "real"
            real.mkdir()
            np.save(real / "inputs.npy", task.calibration())
            oracle = _planner(task, table, real)
            yield from _planned(task, oracle, "edge-dac, 32 real inputs", budgets, missing)
        synthetic = np.asarray(planner.subject.fit_samples[task.input_name])
        note = "calibrated on edge-dac's synthetic images"
        yield Variant("ONNX Runtime static int8", _int8(task, synthetic), 1.0, note=note)


def _int8(task: Task, images: Array) -> Run:
    return session_run(quantize_static(task.model_path(), task.input_name, images))


def _planner(task: Task, table: Path, calibration: Path | None) -> Planner:
    options = Options(
        input_shapes=task.input_shapes,
        input_range=InputRange(**task.input_options),
        latency_table=table,
        calibration=calibration,
    )
    return open_planner(task.model_path(), options)


def _planned(
    task: Task, planner: Planner, name: str, budgets: list[Budget], missing: dict[str, str]
) -> Iterator[Variant]:
    for budget in budgets:
        begin = time.monotonic()
        note = ""
        asked = f" {budget.speedup:g}x" if budget.speedup else ""
        try:
            made = plan_for(planner, budget)
        except BudgetUnreachableError as error:
            if not isinstance(error.best, Compressed):
                raise
            made, note = error.best, "budget missed; "
        except EdgeDacError as error:
            missing[name + asked] = str(error)
            continue
        plan = made.plan
        note += f"planned in {time.monotonic() - begin:.0f} s"
        print(f"{task.name}: {name}{asked}: measured ratio {plan.measured_ratio}, {note}", flush=True)
        exact = plan.predicted_error == 0.0
        yield Variant(name + asked, session_run(made.model), plan.macs / plan.original_macs, exact, note)


def _weight_only_variants(task: Task, planner: Planner) -> Iterator[Variant]:
    """The paper (multiplier form), the same in its fastest lowering, and the best single scheme at half the MACs."""
    subject = planner.subject
    paper = single_scheme(subject, "dac", one_rank(PAPER_RANK))
    macs = mac_fraction(subject, paper)
    runs = {lowering: session_run(lowered(subject, paper, lowering)) for lowering in DAC_LOWERINGS}
    yield Variant(f"the paper: DAC r={PAPER_RANK}, multiplier form", runs["multiplier"], macs)
    feeds = {task.input_name: task.calibration()[:1]}
    calls = {name: _call(run, feeds) for name, run in runs.items()}
    timings = time_interleaved(calls, rounds=9, limit_s=30, clock=time.process_time)
    fastest = min(timings, key=lambda name: timings[name].ratio)
    yield Variant(f"DAC r={PAPER_RANK}, best lowering ({fastest})", runs[fastest], macs)
    yield _best_single_scheme(task, planner)


def _best_single_scheme(task: Task, planner: Planner) -> Variant:
    found: list[tuple[float, Variant]] = []
    for scheme in SINGLE_SCHEMES:
        factors = single_scheme(planner.subject, scheme, one_mac_fraction(SINGLE_SCHEME_FRACTION))
        run = session_run(lowered(planner.subject, factors, "branch_sum" if scheme == "dac" else "direct"))
        value = task.evaluate(run).get(task.metric, 0.0) * (1 if task.higher_is_better else -1)
        name = f"best single scheme, weights only ({scheme})"
        found.append((value, Variant(name, run, mac_fraction(planner.subject, factors))))
    return max(found, key=lambda pair: pair[0])[1]


def main() -> None:
    names = [task.name for task in TASKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(names), help=f"comma-separated, out of: {', '.join(names)}")
    parser.add_argument("--output", type=Path, default=RESULTS.parent.parent / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    wanted = arguments.tasks.split(",")
    unknown = set(wanted) - set(names)
    if unknown:
        parser.error(f"--tasks: expected some of {', '.join(names)}, got {sorted(unknown)[0]!r}")
    RESULTS.mkdir(exist_ok=True)
    for task in TASKS:
        if task.name in wanted:
            comparison = compare_task(task)
            target = RESULTS / f"{task.name.replace(' ', '_')}.json"
            target.write_text(json.dumps(asdict(comparison), indent=1) + "\n")
    stored = [RESULTS / f"{name.replace(' ', '_')}.json" for name in names]
    comparisons = [report.Comparison(**json.loads(path.read_text())) for path in stored if path.is_file()]
    arguments.output.write_text(report.page(comparisons))


if __name__ == "__main__":
    main()
