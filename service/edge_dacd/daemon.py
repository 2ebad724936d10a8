"""The life of the daemon: start in order, wait for signals, reload, drain, end."""

from __future__ import annotations

import logging
import os
import queue
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_dac.errors import RefusedError
from edge_dacd.config import Config
from edge_dacd.control_plane import ControlPlane
from edge_dacd.executor import Executor
from edge_dacd.inference import SERVICE, InferenceServicer
from edge_dacd.metrics import MetricsServer, collect_process, collect_serving
from edge_dacd.models import ModelRepository, ModelSource
from edge_dacd.rpc import handler
from edge_dacd.running import compute
from edge_dacd.server import AddressError, Server, answers, check_free, message_bytes_for
from edge_dacd.shared_memory import SharedMemory
from edge_dacd.systemd import Notifier

_log = logging.getLogger(__name__)


class Daemon:
    """Everything that one process serves.

    Start: claim the addresses, load the models, answer calls, and only then tell systemd. End: tell systemd, refuse new
    calls, let those in flight finish.

    Args:
        find_sources: the models that could be served, looked up again at each reload.
        required: names of models without which the daemon does not start.
        state: folder for operating points and history.
    """

    def __init__(
        self,
        config: Config,
        find_sources: Callable[[], Mapping[str, ModelSource]],
        required: Sequence[str],
        state: Path,
    ) -> None:
        self._config = config
        self._required = required
        self._state = state
        self._notifier = Notifier()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        threads = config.compute.threads or len(os.sched_getaffinity(0))
        slots = min(config.compute.parallel_runs, threads)
        self._repository = ModelRepository(find_sources, threads // slots)
        self._executor = Executor(slots, compute)
        self._ready = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code.

        Raises:
            AddressError: an address cannot be listened on.
            RefusedError: a required model, or every model, cannot be loaded.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _: self._signals.put(received))
        for address in self._config.server.listen:
            check_free(address)
        control = ControlPlane(self._repository, self._config, self._state, self._executor.hold)
        metrics = self._start_metrics(control)
        self._load_models()
        server = self._build_server(control)
        server.start()
        control.start(server.addresses)
        self._ready = True
        server.set_ready(True)
        for address in server.addresses:
            _log.info("listening", extra={"address": address})
        self._notifier.ready(self._status())
        self._wait(server)
        self._ready = False
        self._notifier.stopping()
        _log.info("draining")
        control.close()
        server.drain()
        if metrics is not None:
            metrics.close()
        _log.info("stopped")
        return 0

    def _load_models(self) -> None:
        failures = self._repository.reload()
        for name, reason in failures.items():
            _log.error("model not loaded", extra={"model": name, "reason": reason})
            if name in self._required:
                raise RefusedError(reason)
        if failures and not self._repository.models():
            raise RefusedError(next(iter(failures.values())))

    def _build_server(self, control: ControlPlane) -> Server:
        limits = self._config.server
        memory = SharedMemory(enabled=limits.shared_memory)
        inference = InferenceServicer(
            self._repository,
            self._executor,
            memory,
            control.authorizer,
            is_ready=lambda: self._ready,
            longest_deadline_s=limits.max_deadline_s or None,
        )
        handlers = {SERVICE: handler(SERVICE, inference), **control.handlers()}
        size = limits.max_message_bytes or message_bytes_for(self._repository.models())
        return Server(limits, handlers, size)

    def _start_metrics(self, control: ControlPlane) -> MetricsServer | None:
        address = self._config.server.metrics_listen
        if not address:
            return None
        host, _, port = address.rpartition(":")
        collectors = (lambda: collect_serving(self._repository, self._executor), collect_process, control.collect)
        try:
            metrics = MetricsServer(host, int(port), collectors)
        except OSError as error:
            raise AddressError(f"{address}: cannot listen there: {error.strerror}") from error
        metrics.start()
        _log.info("metrics", extra={"address": metrics.address})
        return metrics

    def _wait(self, server: Server) -> None:
        """Keep the watchdog fed and reload on SIGHUP until told to end."""
        interval = self._notifier.watchdog_interval_s
        while True:
            try:
                received = self._signals.get(timeout=interval)
            except queue.Empty:
                if answers(server.probe_address, interval or 1.0):
                    self._notifier.watchdog()
                else:
                    _log.error("no answer from the own server")
                continue
            if received != signal.SIGHUP:
                return
            self._reload()

    def _reload(self) -> None:
        self._notifier.reloading()
        for name, reason in self._repository.reload().items():
            _log.error("model not reloaded", extra={"model": name, "reason": reason})
        _log.info("reloaded", extra={"models": [model.name for model in self._repository.models()]})
        self._notifier.ready(self._status())

    def _status(self) -> str:
        names = [model.name for model in self._repository.models()]
        return f"serving {', '.join(names) or 'no model'}"
