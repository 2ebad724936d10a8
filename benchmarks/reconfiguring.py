"""What changes cost those who ask for answers meanwhile, and what is left after kill -9, with the embedded model.

    python -m benchmarks.reconfiguring swaps [--swaps N]       # 99th percentile while points are swapped, over that without
    python -m benchmarks.reconfiguring storm [--seconds S]     # 100 budgets a second
    python -m benchmarks.reconfiguring kills [--rounds N]      # kill -9 in the middle of reconfigurations

Four clients, each a process of its own, ask as fast as they can; each answer is compared with those of all points.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import psutil
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from benchmarks.serving import CACHE, free_port
from edge_dac.artifacts.store import ArtifactStore
from edge_dac.assets import demo_images, demo_model_path
from edge_dac.client import AsyncControlClient, ChangeOptions, ControlClient, ControlError
from edge_dac.control_values import Event
from edge_dac.planning.budget import Budget

Array = npt.NDArray[np.float32]
MODEL, INPUT, OUTPUT = "demo", "image", "logits"
CLIENTS = 4
BLOCKS = 10
BUDGETS_A_SECOND = 100
SERVING_LIMIT_S = 5.0
PHASES = ("accepted", "load", "probe", "fit", "sensitivity", "plan", "verify", "swap", "applied")
LONGEST_PAUSE_S = 1.0


class Daemon:
    """The daemon with the embedded model, on the same address and state after each start."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._folder = folder
        (folder / "config.toml").write_text("[compression]\nnice = 0\n")  # the load must not starve it
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; returns the seconds until the first answer to an inference."""
        command = [sys.executable, "-m", "edge_dacd", "--listen", self.address, "--threads", "1"]
        command += ["--state-dir", str(self._folder / "state"), "--config", str(self._folder / "config.toml")]
        begin = time.monotonic()
        with (self._folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stderr=log)
        while True:
            try:
                self.answer()
            except InferenceServerException:
                if self._process.poll() is not None or time.monotonic() > begin + 60:
                    raise RuntimeError((self._folder / "daemon.log").read_text()[-2000:]) from None
                time.sleep(0.02)
            else:
                return time.monotonic() - begin

    def answer(self) -> Array:
        with triton.InferenceServerClient(self.address) as client:
            return ask(client)

    def wait_idle(self) -> None:
        """Until no compiler is at work."""
        while self.process.children():
            time.sleep(0.1)

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)


@contextmanager
def running(folder: Path) -> Iterator[Daemon]:
    daemon = Daemon(folder)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def prepare(folder: Path) -> None:
    """A state with a ladder of points. Planning takes a minute, so it is kept for the next measurement."""
    kept = CACHE / "reconfiguring"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as name:
            with running(Path(name)) as daemon, ControlClient(daemon.address) as control:
                control.set_budget(MODEL, Budget(speedup=1.5))
                daemon.wait_idle()
            shutil.copytree(Path(name), kept)
    shutil.copytree(kept, folder, dirs_exist_ok=True)


@contextmanager
def prepared() -> Iterator[Daemon]:
    """A daemon with all points of its ladder loaded."""
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        with running(Path(name)) as daemon, ControlClient(daemon.address) as control:
            while not all(point.loaded for point in control.model(MODEL).points):
                time.sleep(0.1)
            yield daemon


def ask(client: triton.InferenceServerClient) -> Array:
    """The answer to the first image."""
    pixels = demo_images()[0][:1]
    tensor = triton.InferInput(INPUT, list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels)
    logits: Array = client.infer(MODEL, [tensor]).as_numpy(OUTPUT)
    return logits


# Clients.


def client_process(address: str, right: list[Array], stop: Any, results: Any) -> None:
    """Ask until told to stop; then hand in when each answer came, what it took, and what went wrong."""
    times, failures = [], []
    with triton.InferenceServerClient(address) as client:
        while not stop.is_set():
            begin = time.monotonic()
            try:
                logits = ask(client)
            except InferenceServerException as error:
                failures.append(str(error))
                continue
            end = time.monotonic()
            times.append((end, 1e3 * (end - begin)))
            if not any(np.array_equal(logits, one) for one in right):
                failures.append("a wrong answer")
    results.put((times, failures))


class Load:
    """Four clients at work. ``right``: the answers that may come; after the end ``times`` has [answers, (when, ms)]."""

    def __init__(self, address: str, right: list[Array]) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._results = context.Event(), context.Queue()
        arguments = (address, right, self._stop, self._results)
        self._clients = [context.Process(target=client_process, args=arguments) for _ in range(CLIENTS)]
        self.times = np.empty((0, 2))
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        time.sleep(3)  # until all have started and warmed up
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for _ in self._clients:
            times, failures = self._results.get(timeout=60)
            self.times = np.concatenate([self.times, np.array(times).reshape(-1, 2)])
            self.failures += failures
        for client in self._clients:
            client.join()

    def during(self, spans: list[tuple[float, float]]) -> npt.NDArray[np.float64]:
        """Milliseconds of the answers that came within ``spans``."""
        ends, took_ms = self.times.T
        inside = np.any([(ends >= begin) & (ends < end) for begin, end in spans], axis=0)
        return np.asarray(took_ms[inside])


def right_answers(daemon: Daemon, control: ControlClient) -> dict[str, Array]:
    """What each point answers, by its id."""
    answers = {}
    for point in control.model(MODEL).points:
        control.pin(MODEL, point.id)
        answers[point.id] = daemon.answer()
    return answers


# Measurements.


def swaps(count: int) -> None:
    """Blocks of swaps, and between them as long without."""
    with prepared() as daemon, ControlClient(daemon.address) as control:
        right = right_answers(daemon, control)
        steady, swapping, generations = [], [], []
        with Load(daemon.address, list(right.values())) as load:
            for _ in range(BLOCKS):
                begin = time.monotonic()
                block = [list(right)[index % len(right)] for index in range(count // BLOCKS)]
                generations += [control.pin(MODEL, point).generation for point in block]
                end = time.monotonic()
                swapping.append((begin, end))
                time.sleep(end - begin)
                steady.append((end, time.monotonic()))
    calm, changing = load.during(steady), load.during(swapping)
    seconds = sum(end - begin for begin, end in swapping)
    print(f"{len(generations)} swaps among {len(right)} points in {seconds:.1f} s, {len(load.failures)} failures")
    for name, values in (("steady", calm), ("swapping", changing)):
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        print(
            f"{name:9}{len(values):7} answers, p50 {p50:.2f} ms, p95 {p95:.2f}, p99 {p99:.2f}, max {values.max():.2f}"
        )
    print(f"p99 while swapping over steady: {np.percentile(changing, 99) / np.percentile(calm, 99):.2f}")


async def send_budgets(address: str, seconds: float) -> tuple[list[int], Counter[str], list[float]]:
    """One budget every 10 ms, whether those before have been answered or not; numbers, codes and seconds to answer."""
    numbers: list[int] = []
    codes: Counter[str] = Counter()
    took_s: list[float] = []

    async def send(client: AsyncControlClient, index: int) -> None:
        begin = time.monotonic()
        try:
            budget = Budget(latency_ms=100 + index / 100)
            numbers.append((await client.set_budget(MODEL, budget, ChangeOptions(no_wait=True))).generation)
            codes["accepted"] += 1
        except ControlError as error:
            codes[error.code] += 1
        took_s.append(time.monotonic() - begin)

    async with AsyncControlClient(address) as client:
        begin, tasks = time.monotonic(), []
        for index in range(int(seconds * BUDGETS_A_SECOND)):
            await asyncio.sleep(begin + index / BUDGETS_A_SECOND - time.monotonic())
            tasks.append(asyncio.create_task(send(client, index)))
        await asyncio.gather(*tasks)
    return numbers, codes, took_s


def storm(seconds: float) -> None:
    """100 budgets a second; memory afterwards, when all is at rest, against before."""
    with prepared() as daemon, ControlClient(daemon.address) as control:
        right = right_answers(daemon, control)
        control.unpin(MODEL)
        with Load(daemon.address, list(right.values())):
            pass
        before = daemon.process.memory_info().rss
        with Load(daemon.address, list(right.values())) as load:
            numbers, codes, took_s = asyncio.run(send_budgets(daemon.address, seconds))
        state = control.model(MODEL)
        last = state.pending_generation or state.generation
        while control.model(MODEL).pending_generation:
            time.sleep(0.2)
        daemon.wait_idle()
        time.sleep(1)
        after = daemon.process.memory_info().rss
    rate = sum(codes.values()) / seconds
    print(f"{rate:.0f} budgets a second for {seconds:.0f} s: {dict(codes)}; {len(load.failures)} failed inferences")
    print(f"answers to them: p50 {1e3 * np.median(took_s):.0f} ms, p99 {1e3 * np.percentile(took_s, 99):.0f} ms")
    print(f"all generations differ: {len(set(numbers)) == len(numbers)}; the last one won: {last == max(numbers)}")
    print(f"resident before {before / 1e6:.1f} MB, after {after / 1e6:.1f} MB")


class Killer:
    """Starts the daemon, changes something, kills it -9 at a random moment, and looks at what is left."""

    def __init__(self, folder: Path, seed: int, longest_s: float) -> None:
        prepare(folder)
        self.daemon = Daemon(folder)
        self.serving_s: list[float] = []
        self.orphaned_s: list[float] = []
        self.phases: Counter[str] = Counter()
        self._state = folder / "state"
        self._random = random.Random(seed)
        self._longest_s = longest_s
        self._acknowledged = 0

    def start(self) -> None:
        """Start, and check that a whole generation serves and that nothing acknowledged is lost."""
        self.serving_s.append(self.daemon.start())
        with ControlClient(self.daemon.address) as control:
            model = control.model(MODEL)
        assert max(one.number for one in model.history) >= self._acknowledged, model.history
        assert not model.last_failure, model.last_failure
        points = {point.digest: point.model_path for point in ArtifactStore(self._state / "artifacts").points()}
        session = ort.InferenceSession(points.get(model.active_point, demo_model_path()))
        (expected,) = session.run(None, {INPUT: demo_images()[0][:1]})
        assert np.allclose(self.daemon.answer(), expected, atol=1e-5)

    def change_and_kill(self) -> None:
        """Ask for a budget; kill at a random moment of a random phase, and wait until the compiler child is gone too."""
        if self._random.random() < 0.3:  # else the device need not be probed again, and the later phases come sooner
            (self._state / "latency_table.json").unlink(missing_ok=True)
        wanted = self._random.choice(PHASES)
        with ControlClient(self.daemon.address) as control:
            events = control.watch(timeout_s=self._longest_s)
            next(events)
            budget = Budget(speedup=round(self._random.uniform(1.2, 2.5), 3))
            self._acknowledged = control.set_budget(MODEL, budget, ChangeOptions(no_wait=True)).generation
            for phase in map(phase_of, events):  # one that is left out this time ends with the watch
                if phase == wanted:
                    break
            time.sleep(self._random.uniform(0, LONGEST_PAUSE_S))
            children = self.daemon.process.children()
            self.daemon.stop(signal.SIGKILL)
        begin = time.monotonic()
        while any(map(computes, children)):
            assert time.monotonic() < begin + 10, "the compiler lives on"
            time.sleep(0.005)
        self.orphaned_s.append(time.monotonic() - begin)
        self.phases[phase] += 1


def phase_of(event: Event) -> str:
    return str(event.values["phase"]) if event.kind == "progress" else event.kind


def computes(process: psutil.Process) -> bool:
    """Whether it is there and not just waiting to be buried."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kills(rounds: int, longest_s: float, seed: int) -> None:
    """So many kills, and one more start."""
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), seed, longest_s)
        for _ in range(rounds):
            killer.start()
            killer.change_and_kill()
        killer.start()
        killer.daemon.stop()
    first, *serving_s = killer.serving_s
    print(f"{rounds} kills; in the phases {dict(killer.phases)}")
    print(
        f"first answer after the first start: {first:.2f} s; after kills: median {np.median(serving_s):.2f} s, ", end=""
    )
    print(f"longest {max(serving_s):.2f} s; over {SERVING_LIMIT_S:g} s: {sum(np.array(serving_s) > SERVING_LIMIT_S)}")
    print(f"the compiler child was gone at most {max(killer.orphaned_s):.2f} s after the daemon")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measurements = parser.add_subparsers(dest="measurement", required=True)
    one = measurements.add_parser("swaps")
    one.add_argument("--swaps", type=int, default=1000)
    one = measurements.add_parser("storm")
    one.add_argument("--seconds", type=float, default=60)
    one = measurements.add_parser("kills")
    one.add_argument("--rounds", type=int, default=100)
    one.add_argument("--longest-s", type=float, default=60, help="to wait for a phase")
    one.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.measurement == "swaps":
        swaps(options.swaps)
    elif options.measurement == "storm":
        storm(options.seconds)
    else:
        kills(options.rounds, options.longest_s, options.seed)


if __name__ == "__main__":
    main()
