"""The life of the daemon: start in order, wait for signals, reload, drain, end."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from edge_dac.device.sensors import Sensors
from edge_dac.errors import EdgeDacError, RefusedError
from edge_dacd import logs
from edge_dacd.config import Config, needs_restart
from edge_dacd.control_plane import ControlPlane
from edge_dacd.executor import Executor
from edge_dacd.inference import SERVICE, InferenceServicer
from edge_dacd.metrics import MetricsServer, collect_device, collect_process, collect_serving
from edge_dacd.models import ModelRepository, ModelSource, ServedModel
from edge_dacd.rpc import handler, unary_answers
from edge_dacd.running import compute
from edge_dacd.server import AddressError, Server, answers, check_free, message_bytes_for, request_bytes
from edge_dacd.shared_memory import SharedMemory
from edge_dacd.signals import Signals
from edge_dacd.systemd import Notifier

_log = logging.getLogger(__name__)


class Daemon:
    """Everything that one process serves.

    Start: claim the addresses, load the models, answer calls, and only then tell systemd. End: tell systemd, refuse new
    calls, let those in flight finish.

    Args:
        config: to start with.
        read_config: reads the configuration again at each reload.
        find_sources: the models that could be served under a configuration, looked up again at each reload.
        required: names of models without which the daemon does not start.
        state: folder for operating points and history.
    """

    def __init__(
        self,
        config: Config,
        read_config: Callable[[], Config],
        find_sources: Callable[[Config], Mapping[str, ModelSource]],
        required: Sequence[str],
        state: Path,
    ) -> None:
        self._read_config = read_config
        self._find_sources = find_sources
        self._config = self._started_with = config
        self._required = required
        self._state = state
        self._notifier = Notifier()
        threads = _thread_budget(config.compute.threads)
        slots = min(config.compute.parallel_runs, threads)
        self._repository = ModelRepository(lambda: find_sources(self._config), threads // slots)
        self._executor = Executor(slots, compute)
        self._memory = SharedMemory()
        self._ready = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code.

        Raises:
            AddressError: an address cannot be listened on.
            RefusedError: a required model, or every model, cannot be loaded.
        """
        with closing(Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))) as signals:
            self._run(signals)
        _log.info("stopped")
        return 0

    def _run(self, signals: Signals) -> None:
        for address in self._config.server.listen:
            check_free(address)
        control = ControlPlane(self._repository, self._config, self._state, self._executor.hold)
        metrics = self._start_metrics(control)
        self._load_models()
        inference = InferenceServicer(
            self._repository, self._executor, self._memory, control.authorizer, is_ready=lambda: self._ready
        )
        server = self._build_server(inference, control)
        self._take_over(server, inference)
        server.start()
        control.start(server.addresses)
        self._ready = True
        server.set_ready(True)
        for address in server.addresses:
            _log.info("listening", extra={"address": address})
        self._notifier.ready(self._status())
        self._wait(signals, server, inference, control)
        self._ready = False
        self._notifier.stopping()
        _log.info("draining")
        control.close()
        server.drain()
        if metrics is not None:
            metrics.close()

    def _load_models(self) -> None:
        failures = self._repository.reload()
        for name, reason in failures.items():
            _log.error("model not loaded", extra={"model": name, "reason": reason})
            if name in self._required:
                raise RefusedError(reason)
        if failures and not self._repository.models():
            raise RefusedError(next(iter(failures.values())))

    def _build_server(self, inference: InferenceServicer, control: ControlPlane) -> Server:
        limits = self._config.server
        handlers = {SERVICE: handler(SERVICE, inference), **control.handlers()}
        models = self._repository.models()
        size = inference.message_bytes = limits.max_message_bytes or message_bytes_for(models)
        for model in models:
            _warn_of_size(model, size)
        self._repository.on_loaded(lambda model: _warn_of_size(model, size))
        others = {**unary_answers(SERVICE, inference), **control.unary_answers()}
        infer = f"/{SERVICE}/ModelInfer"
        return Server(limits, handlers, size, {infer: others.pop(infer)}, others)

    def _take_over(self, server: Server, inference: InferenceServicer) -> None:
        """Put in force what may change while the daemon runs, see ``needs_restart``."""
        limits = self._config.server
        logs.configure(limits.log_level, limits.log_format)
        self._memory.enabled = limits.shared_memory
        inference.longest_deadline_s = limits.max_deadline_s or None
        server.drain_s = limits.drain_s

    def _start_metrics(self, control: ControlPlane) -> MetricsServer | None:
        address = self._config.server.metrics_listen
        if not address:
            return None
        host, _, port = address.rpartition(":")
        sensors = Sensors()
        collectors = (
            lambda: collect_serving(self._repository, self._executor),
            collect_process,
            lambda: collect_device(sensors.read()),
            control.collect,
        )
        try:
            metrics = MetricsServer(host, int(port), collectors)
        except OSError as error:
            raise AddressError(f"{address}: cannot listen there: {error.strerror}") from error
        metrics.start()
        _log.info("metrics", extra={"address": metrics.address})
        return metrics

    def _wait(self, signals: Signals, server: Server, inference: InferenceServicer, control: ControlPlane) -> None:
        """Keep the watchdog fed and reload on SIGHUP until told to end."""
        interval = self._notifier.watchdog_interval_s
        while True:
            received = signals.next(interval)
            if received is None:
                if answers(server.probe_address, interval or 1.0):
                    self._notifier.watchdog()
                else:
                    _log.error("no answer from the own server")
                continue
            if received != signal.SIGHUP:
                return
            self._notifier.reloading()
            if self._reload_config(control):
                self._take_over(server, inference)
            self._reload_models()
            self._notifier.ready(self._status())

    def _reload_config(self, control: ControlPlane) -> bool:
        """Read the configuration again; one that cannot be used changes nothing."""
        try:
            config = self._read_config()
            self._find_sources(config)
            control.take_over(config.control)
        except EdgeDacError as error:
            _log.error("configuration not reloaded", extra={"reason": str(error)})
            return False
        keys = needs_restart(self._started_with, config)
        if keys:
            _log.warning("these changes need a restart", extra={"keys": keys})
        self._config = config
        return True

    def _reload_models(self) -> None:
        for name, reason in self._repository.reload().items():
            _log.error("model not reloaded", extra={"model": name, "reason": reason})
        _log.info("reloaded", extra={"models": [model.name for model in self._repository.models()]})

    def _status(self) -> str:
        names = [model.name for model in self._repository.models()]
        return f"serving {', '.join(names) or 'no model'}"


def _thread_budget(configured: int) -> int:
    """More threads than cores would only take turns; one configuration may serve devices of many sizes."""
    cores = len(os.sched_getaffinity(0))
    if configured > cores:
        _log.warning("compute.threads: more than there are cores", extra={"configured": configured, "used": cores})
    return min(configured, cores) or cores


def _warn_of_size(model: ServedModel, limit_bytes: int) -> None:
    """gRPC cannot raise its limit while it runs; requests with tensors in shared memory pass all the same."""
    needed = request_bytes(model)
    if needed > limit_bytes:
        _log.warning(
            "requests for this model are larger than server.max_message_bytes lets in: restart, with 0 or a larger value",
            extra={"model": model.name, "request_bytes": needed, "limit_bytes": limit_bytes},
        )
