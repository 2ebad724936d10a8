"""Prepared models and running daemons for the tests of this room."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control.device import Device
from control.prepared import Prepared, write_small_network
from control.serving import ServingProcess


@pytest.fixture
def prepared(tmp_path):
    return Prepared(tmp_path)


@pytest.fixture
def prepared_elsewhere(tmp_path):
    """Points that another device has measured."""
    return Prepared(tmp_path, device_fingerprint="another")


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[..., ServingProcess]]:
    """``serve(model, state, *arguments)``: a daemon that ends with the test."""
    started: list[ServingProcess] = []

    def start(model: Path, state: Path | None = None, *arguments: str) -> ServingProcess:
        started.append(ServingProcess(model, state or tmp_path / "state", *arguments))
        return started[-1]

    yield start
    for one in started:
        one.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def small_network(tmp_path_factory) -> Path:
    """A network that the planner is done with in seconds."""
    return write_small_network(tmp_path_factory.mktemp("small") / "small.onnx")


@pytest.fixture(scope="module")
def small_daemon(small_network, tmp_path_factory) -> Iterator[ServingProcess]:
    """A daemon with :func:`small_network`, shared by the tests of a module, and with it what has been measured."""
    daemon = ServingProcess(small_network, tmp_path_factory.mktemp("daemon") / "state")
    yield daemon
    daemon.stop(signal.SIGKILL)


@pytest.fixture
def start(request):
    """``start(state="prepared", **options)``: a :class:`Device`; closed with the test."""
    devices = []

    def make(state="prepared", **options):
        devices.append(Device(request.getfixturevalue(state), **options))
        return devices[-1]

    yield make
    for device in devices:
        device.reconfigurator.close()
