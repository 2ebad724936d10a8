"""Everything of the daemon that is not answering inference: put together in one place, started and ended in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import grpc

from edge_dac.device.sensors import Sensors
from edge_dac.errors import EdgeDacError
from edge_dacd.announcement import Announcement
from edge_dacd.authorization import Authorizer, read_token
from edge_dacd.config import Config, ControlConfig
from edge_dacd.control import SERVICE, ControlServicer
from edge_dacd.events import EventHub
from edge_dacd.governing import Governing
from edge_dacd.metrics import Family
from edge_dacd.models import ModelRepository, ServedModel
from edge_dacd.reconfiguration import Reconfigurator
from edge_dacd.rpc import Answer, handler, unary_answers

_log = logging.getLogger(__name__)


class ControlPlane:
    """Reconfiguration, governor and control service of one daemon. Make it before the models are loaded.

    Args:
        state: folder for operating points and history.
        hold: keeps the model of this name from running inside the block; its requests wait.

    Raises:
        UsageError: the state folder is in use or cannot be written, or the token cannot be read.
    """

    def __init__(
        self,
        repository: ModelRepository,
        config: Config,
        state: Path,
        hold: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        settings = config.control
        token = _token(settings)
        sensors = Sensors()
        self._events = EventHub()
        self._reconfigurator = Reconfigurator(
            state,
            config.compression,
            repository.threads,
            self._events,
            lambda: sensors.read().available_memory_bytes,
            hold,
            allow_gap=settings.allow_gap,
        )
        self._governing = Governing(self._reconfigurator, self._events, sensors)
        self._governing.governs = settings.governor
        self.authorizer = Authorizer(token)
        self._servicer = ControlServicer(
            self._reconfigurator, self._events, self.authorizer, self._governing.service_p95_ms
        )
        self._announces = settings.announce
        self._addresses: Sequence[str] = ()
        self._announcement: Announcement | None = None
        self._models: dict[str, ServedModel] = {}
        repository.on_loaded(self._attach)
        repository.on_unloaded(self._detach)

    def handlers(self) -> dict[str, grpc.GenericRpcHandler]:
        """Of the control service, by its name."""
        return {SERVICE: handler(SERVICE, self._servicer)}

    def unary_answers(self) -> dict[str, Answer]:
        """Of its methods that are no streams, by path."""
        return unary_answers(SERVICE, self._servicer)

    def collect(self) -> list[Family]:
        """Metrics."""
        return self._governing.collect()

    def take_over(self, settings: ControlConfig) -> None:
        """Put ``settings`` in force while the daemon runs; the token is read again.

        Raises:
            UsageError: the token cannot be read, or announcing needs a package that is not installed; then nothing has
                changed.
            AddressError: there is no address over TCP to announce; then nothing has changed either.
        """
        token = _token(settings)
        self._announce(settings.announce)
        self.authorizer.token = token
        self._reconfigurator.allow_gap = settings.allow_gap
        self._governing.governs = settings.governor

    def start(self, addresses: Sequence[str]) -> None:
        """Begin to govern, and announce the ``addresses`` that the server listens on where that is wanted.

        Raises:
            UsageError: announcing needs a package that is not installed.
            AddressError: there is no address over TCP to announce.
        """
        self._addresses = addresses
        self._governing.start()
        self._announce(self._announces)

    def close(self) -> None:
        """End the compiler, and let go of all who wait or watch, so that the server can drain."""
        self._announce(False)
        self._governing.close()
        self._reconfigurator.close()
        self._events.close()

    def _announce(self, wanted: bool) -> None:
        if wanted and self._announcement is None:
            self._announcement = Announcement(self._addresses, sorted(self._models))
        elif not wanted and self._announcement is not None:
            self._announcement.close()
            self._announcement = None

    def _announce_models(self) -> None:
        if self._announcement is not None:
            self._announcement.update(sorted(self._models))

    def _attach(self, model: ServedModel) -> None:
        self._models[model.name] = model
        self._announce_models()
        self._governing.attach(model)
        try:
            self._reconfigurator.attach(model)
        except (EdgeDacError, OSError) as error:
            # Serving matters most: without its history the model is served as it is.
            _log.error("not under control", extra={"model": model.name, "reason": str(error)})

    def _detach(self, model: ServedModel) -> None:
        self._governing.detach(model)
        self._reconfigurator.detach(model)
        if self._models.get(model.name) is model:
            del self._models[model.name]
            self._announce_models()


def _token(settings: ControlConfig) -> str | None:
    return read_token(Path(settings.token_file)) if settings.token_file else None
