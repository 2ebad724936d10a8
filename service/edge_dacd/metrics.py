"""The Prometheus endpoint: the counters of all models and the state of the device, in the text format 0.0.4."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import Any

import psutil

from edge_dac.device.sensors import SensorReading
from edge_dacd.executor import Executor
from edge_dacd.models import ModelRepository, ServedModel
from edge_dacd.statistics import BUCKETS_S, Histogram, Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_TIMEOUT_S = 10


@dataclass(slots=True)
class Family:
    """One metric: its kind, its help and its samples as ``(suffix, labels, value)``."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", **labels: str) -> None:
        self.samples.append((suffix, labels, value))

    def add_histogram(self, histogram: Histogram, **labels: str) -> None:
        bounds = [*(f"{bound:g}" for bound in BUCKETS_S), "+Inf"]
        for bound, total in zip(bounds, accumulate(histogram.counts), strict=True):
            self.add(total, "_bucket", **labels, le=bound)
        self.add(histogram.sum_ns / 1e9, "_sum", **labels)
        self.add(histogram.count, "_count", **labels)


Collector = Callable[[], Iterable[Family]]


def render(families: Iterable[Family]) -> str:
    """The text form."""
    lines: list[str] = []
    for family in families:
        lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            shown = ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items())
            lines.append(
                f"{family.name}{suffix}{{{shown}}} {value:.10g}" if shown else f"{family.name}{suffix} {value:.10g}"
            )
    return "\n".join(lines) + "\n"


def collect_serving(repository: ModelRepository, executor: Executor[Any, Any]) -> Iterator[Family]:
    """What happened to the requests of each model."""
    durations = {
        name: Family(f"edge_dac_{name}_seconds", "histogram", text)
        for name, text in (
            ("request", "From the received message to the finished answer."),
            ("queue", "Waiting for a run to start."),
            ("decode", "Checking and decoding inputs."),
            ("compute", "The run itself."),
            ("encode", "Encoding outputs."),
        )
    }
    batches = Family("edge_dac_batch_size_total", "counter", "Runs by the number of requests in them.")
    failures = Family("edge_dac_failures_total", "counter", "Requests that were not answered, by status.")
    waiting = Family("edge_dac_waiting_requests", "gauge", "Requests in the queue.")
    active = Family("edge_dac_active_point_info", "gauge", "The operating point that computes now.")
    size = Family("edge_dac_model_size_bytes", "gauge", "Size of the active operating point's file.")
    load = Family("edge_dac_model_load_seconds", "gauge", "How long the model took to load and warm up.")
    for model in repository.models():
        _collect_model(model, durations, batches, failures)
        waiting.add(executor.waiting(model.name), model=model.name)
        active.add(1, model=model.name, point=model.active.point_id)
        size.add(model.active.size_bytes, model=model.name)
        load.add(model.load_s, model=model.name)
    running = Family("edge_dac_running_requests", "gauge", "Runs going on now.")
    running.add(executor.running())
    yield from (*durations.values(), batches, failures, waiting, running, active, size, load)


def _collect_model(model: ServedModel, durations: dict[str, Family], batches: Family, failures: Family) -> None:
    def read(totals: Totals) -> None:
        for name, family in durations.items():
            family.add_histogram(getattr(totals, name), model=model.name)
        for size, count in sorted(totals.batches.items()):
            batches.add(count, model=model.name, size=str(size))
        for status, count in sorted(totals.failures.items()):
            failures.add(count, model=model.name, status=status)

    model.statistics.read(read)


def collect_process() -> Iterator[Family]:
    """The daemon as a process."""
    process = psutil.Process()
    memory = Family("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.")
    memory.add(process.memory_info().rss)
    cpu = Family("process_cpu_seconds_total", "counter", "CPU time of the daemon.")
    times = process.cpu_times()
    cpu.add(times.user + times.system)
    descriptors = Family("process_open_fds", "gauge", "Open file descriptors.")
    descriptors.add(process.num_fds())
    threads = Family("process_threads", "gauge", "Threads.")
    threads.add(process.num_threads())
    yield from (memory, cpu, descriptors, threads)


def collect_device(reading: SensorReading) -> Iterator[Family]:
    """What the sensors of the device say; what none of them can tell is left out."""
    for name, text, value in (
        ("temperature_celsius", "Hottest sensor of the processor.", reading.temperature_c),
        ("frequency_hertz", "Mean frequency of the processor's cores.", _hertz(reading.frequency_mhz)),
        ("throttled", "1 while the clock is held down.", reading.throttled),
        ("available_memory_bytes", "What can be allocated without swapping.", reading.available_memory_bytes),
    ):
        if value is not None:
            family = Family(f"edge_dac_device_{name}", "gauge", text)
            family.add(float(value))
            yield family


def _hertz(frequency_mhz: float | None) -> float | None:
    return None if frequency_mhz is None else frequency_mhz * 1e6


class MetricsServer:
    """Serves ``/metrics`` on a thread of its own.

    Raises:
        OSError: ``host:port`` cannot be listened on.
    """

    def __init__(self, host: str, port: int, collectors: Iterable[Collector]) -> None:
        known = tuple(collectors)

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = render(family for collect in known for family in collect()).encode()
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not worth a log line."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
