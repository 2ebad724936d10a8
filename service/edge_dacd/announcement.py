"""Announces the daemon on the local network with mDNS and DNS-SD, so that ``edge-dac discover`` finds it."""

from __future__ import annotations

import ipaddress
import logging
import platform
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psutil

from edge_dac.discovery import SERVICE_TYPE, load_zeroconf
from edge_dacd.server import AddressError

_log = logging.getLogger(__name__)
_LONGEST_VALUE = 200
"""A DNS text record holds at most 255 bytes, its name included."""
_LONGEST_NAME = 40
"""Of the 63 bytes that a label may have."""
_LOOK_S = 30.0
"""How often the addresses of the device are looked at: a network may come after the daemon, and change under it."""


class _Entry(NamedTuple):
    """What the network shall know."""

    addresses: tuple[str, ...]
    models: str


class Announcement:
    """One entry in DNS-SD, from soon until :meth:`close`.

    A thread keeps it: asking the network whether a name is free and telling it takes one to two seconds, for which
    neither the start of the daemon nor the loading of a model shall wait. Without a network it tries again, and when the
    device gets other addresses it tells them.

    Args:
        addresses: that the server listens on; the first over TCP is announced.
        models: names of the models.

    Raises:
        UsageError: the package zeroconf is not installed.
        AddressError: the daemon listens on no TCP address.
    """

    def __init__(self, addresses: Sequence[str], models: Sequence[str]) -> None:
        self._module = load_zeroconf()
        tcp = next((address for address in addresses if not address.startswith("unix:")), None)
        if tcp is None:
            raise AddressError("control.announce: expected an address over TCP to announce, found none")
        host, _, port = tcp.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._models = _shown(models)
        self._told: _Entry | None = None
        self._network: Any = None
        self._info: Any = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._keep, name="announcement", daemon=True)
        self._thread.start()

    def update(self, models: Sequence[str]) -> None:
        """Tell the network which models there are now."""
        with self._changed:
            self._models = _shown(models)
            self._changed.notify()

    def close(self) -> None:
        """Take the entry back."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _keep(self) -> None:
        failed = False
        while not self._closed:
            models = self._models
            try:
                self._tell(_Entry(_reachable(self._host), models))
                failed = False
            except (OSError, RuntimeError, self._module.Error) as error:
                if not failed:
                    _log.error("not announced", extra={"reason": f"control.announce: {error}"})
                failed = True
                self._withdraw()
            with self._changed:
                if not self._closed and self._models == models:
                    self._changed.wait(_LOOK_S)
        self._withdraw()

    def _tell(self, entry: _Entry) -> None:
        told = self._told
        if entry == told:
            return
        if told is None or entry.addresses != told.addresses:
            self._withdraw()
            self._network = self._module.Zeroconf()
            self._info = self._describe(f"{_device_name(entry)}-{self._port}.{SERVICE_TYPE}", entry)
            self._network.register_service(self._info, allow_name_change=True)
        else:
            self._info = self._describe(self._info.name, entry)
            self._network.update_service(self._info)
        self._told = entry

    def _withdraw(self) -> None:
        network, self._network, self._told = self._network, None, None
        if network is not None:
            # It takes back what was registered; what cannot be told now is forgotten by the others in two minutes.
            with suppress(OSError, RuntimeError, self._module.Error):
                network.close()

    def _describe(self, name: str, entry: _Entry) -> Any:
        return self._module.ServiceInfo(
            SERVICE_TYPE,
            name,
            port=self._port,
            parsed_addresses=list(entry.addresses),
            properties={"models": entry.models},
            server=f"{_device_name(entry)}.local.",
        )


def _device_name(entry: _Entry) -> str:
    """Devices made from one image are often called the same.

    Asking the network for the name is not enough: the answer may reach another program on the port of mDNS, and with one
    host name they would get each other's addresses.
    """
    name = platform.node().partition(".")[0] or "edge-dac"
    return f"{name[:_LONGEST_NAME]}-{ipaddress.ip_address(entry.addresses[0]).packed.hex()[-8:]}"


def _shown(models: Sequence[str]) -> str:
    return ",".join(models)[:_LONGEST_VALUE]


def _reachable(host: str) -> tuple[str, ...]:
    """The addresses that a listener on ``host`` can be reached at; all of the device for a wildcard."""
    resolved = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    if not any(ipaddress.ip_address(address).is_unspecified for address in resolved):
        return tuple(resolved)
    addresses = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    outside = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    return tuple(outside or addresses)
