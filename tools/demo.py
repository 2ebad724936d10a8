"""`make demo`: the embedded network, a daemon, two budgets, a standard client, and what each changed.

Everything here is what a user would do by hand: `edge-dac bench`, `edge-dac serve`, `tritonclient`, `edge_dac.client`.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from rich.console import Console
from rich.table import Table
from tritonclient import grpc as triton

from edge_dac.assets import demo_images, demo_model_path
from edge_dac.client import ControlClient
from edge_dac.control_values import ModelState
from edge_dac.planning.budget import Budget

MODEL = "demo"
FIRST_SHARE, SECOND_SHARE = 0.60, 0.35
READY_WITHIN_S = 30.0
PLANNED_WITHIN_S = 600.0


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    title: str
    round_trip_ms: npt.NDArray[np.float64]
    accuracy: float
    state: ModelState

    def percentile_ms(self, percentile: int) -> float:
        return float(np.percentile(self.round_trip_ms, percentile))


def main() -> int:
    console = Console(width=120)
    original_ms = measured_latency_ms()
    console.print(f"embedded model: {original_ms:.2f} ms on one thread of this device")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="edge-dac-demo-") as state_dir:
        log_path = Path(state_dir) / "daemon.log"
        daemon = start_daemon(port, state_dir, log_path, FIRST_SHARE * original_ms)
        try:
            stages = run_stages(console, f"127.0.0.1:{port}", original_ms)
        except BaseException:
            sys.stderr.write(log_path.read_text())
            raise
        finally:
            clean = stop_daemon(daemon)
    show(console, stages, original_ms)
    console.print(
        "daemon stopped cleanly" if clean else "daemon did not stop cleanly", style="green" if clean else "red"
    )
    return 0 if clean else 1


def measured_latency_ms() -> float:
    """Median latency of the embedded model, by `edge-dac bench`."""
    command = [sys.executable, "-m", "edge_dac", "bench", str(demo_model_path()), "--json", "--seconds", "3"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(answer.stdout)["models"][0]["p50_ms"])


def free_port() -> int:
    """A TCP port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_daemon(port: int, state_dir: str, log_path: Path, budget_ms: float) -> subprocess.Popen[bytes]:
    """`edge-dac serve` on the embedded model with a budget."""
    command = [sys.executable, "-m", "edge_dac", "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--threads", "1", "--state-dir", state_dir, "--budget-ms", f"{budget_ms:.3f}"]
    with log_path.open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def stop_daemon(daemon: subprocess.Popen[bytes]) -> bool:
    """SIGTERM; true if it ended by itself with exit code 0 and left no process behind."""
    family = psutil.Process(daemon.pid).children(recursive=True) if daemon.poll() is None else []
    daemon.send_signal(signal.SIGTERM)
    try:
        code = daemon.wait(timeout=30)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
        return False
    _, alive = psutil.wait_procs(family, timeout=5)
    return code == 0 and not alive


def run_stages(console: Console, address: str, original_ms: float) -> list[Stage]:
    """Ask the daemon before and after each budget."""
    with triton.InferenceServerClient(address) as client, ControlClient(address) as control:
        wait_until_ready(client)
        stages = [ask_all(client, control, "original")]
        console.print(f"waiting for the plan for {FIRST_SHARE:.0%} of the latency ...")
        wait_for_plan(control)
        stages.append(ask_all(client, control, f"budget {FIRST_SHARE:.0%}"))
        console.print(f"setting a budget of {SECOND_SHARE:.0%} remotely ...")
        control.set_budget(MODEL, Budget(latency_ms=SECOND_SHARE * original_ms))
        stages.append(ask_all(client, control, f"budget {SECOND_SHARE:.0%}"))
    return stages


def wait_until_ready(client: triton.InferenceServerClient) -> None:
    """Until the first model answers."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            if client.is_model_ready(MODEL):
                return
        except triton.InferenceServerException:
            pass  # Not listening yet.
        time.sleep(0.05)
    raise TimeoutError(f"the daemon was not ready within {READY_WITHIN_S:.0f} s")


def wait_for_plan(control: ControlClient) -> None:
    """Until the daemon has moved to a point that meets its budget."""
    deadline = time.monotonic() + PLANNED_WITHIN_S
    while time.monotonic() < deadline:
        state = control.model(MODEL)
        if state.last_failure:
            raise RuntimeError(f"the daemon could not plan: {state.last_failure}")
        if state.active_point != "original" and not state.pending_generation:
            return
        time.sleep(0.2)
    raise TimeoutError(f"no plan within {PLANNED_WITHIN_S:.0f} s")


def ask_all(client: triton.InferenceServerClient, control: ControlClient, title: str) -> Stage:
    """Send every labelled image by itself."""
    images, labels = demo_images()
    metadata = client.get_model_metadata(MODEL)
    wanted = triton.InferInput(metadata.inputs[0].name, [1, *images.shape[1:]], "FP32")
    round_trip_ms = np.zeros(len(images))
    right = 0
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        wanted.set_data_from_numpy(image[None])
        begin = time.perf_counter()
        answer = client.infer(MODEL, [wanted])
        round_trip_ms[index] = (time.perf_counter() - begin) * 1e3
        right += int(np.argmax(answer.as_numpy(metadata.outputs[0].name)) == label)
    return Stage(title, round_trip_ms, right / len(images), control.model(MODEL, with_layers=True))


def show(console: Console, stages: list[Stage], original_ms: float) -> None:
    """Two tables: what a client saw, and what became of the layers."""
    table = Table(title=f"{len(stages[0].round_trip_ms)} real digits through tritonclient", title_justify="left")
    for column in (
        "stage",
        "p50 ms",
        "p95 ms",
        "speed-up",
        "model ms",
        "model speed-up",
        "accuracy",
        "predicted error",
    ):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        point = stage.state.active
        model_ms = original_ms if point is None or point.latency_ms is None else point.latency_ms
        error = 0.0 if point is None else point.predicted_error or 0.0
        table.add_row(
            stage.title,
            f"{stage.percentile_ms(50):.2f}",
            f"{stage.percentile_ms(95):.2f}",
            f"{stages[0].percentile_ms(50) / stage.percentile_ms(50):.2f}x",
            f"{model_ms:.2f}",
            f"{original_ms / model_ms:.2f}x",
            f"{stage.accuracy:.1%}",
            f"{error:.2g}",
        )
    console.print(table)
    layers = Table(title="layers: scheme, rank, lowering", title_justify="left")
    layers.add_column("layer")
    for stage in stages:
        layers.add_column(stage.title)
    rows: dict[str, list[str]] = {}
    for column, stage in enumerate(stages):
        for layer in stage.state.active.layers if stage.state.active else ():
            row = rows.setdefault(layer.layer, ["dense direct"] * len(stages))
            row[column] = " ".join(str(part) for part in (layer.scheme, layer.rank, layer.lowering) if part)
    for name, row in rows.items():
        layers.add_row(name, *row)
    console.print(layers)


if __name__ == "__main__":
    sys.exit(main())
