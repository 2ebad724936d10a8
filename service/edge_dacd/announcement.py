"""Announces the daemon on the local network with mDNS and DNS-SD, so that ``edge-dac discover`` finds it."""

from __future__ import annotations

import ipaddress
import platform
import socket
from collections.abc import Sequence
from typing import Any

import psutil

from edge_dac.discovery import SERVICE_TYPE, load_zeroconf
from edge_dac.errors import EdgeDacError
from edge_dacd.server import AddressError

_LONGEST_VALUE = 200
"""A DNS text record holds at most 255 bytes, its name included."""
_LONGEST_NAME = 40
"""Of the 63 bytes that a label may have."""


class NoNetworkError(EdgeDacError):
    """There is no network to announce on."""


class Announcement:
    """One entry in DNS-SD, from now until :meth:`close`.

    Args:
        addresses: that the server listens on; the first over TCP is announced.
        models: names of the models.

    Raises:
        UsageError: the package zeroconf is not installed.
        AddressError: the daemon listens on no TCP address.
        NoNetworkError: there is no network, or none that takes multicasts.
    """

    def __init__(self, addresses: Sequence[str], models: Sequence[str]) -> None:
        module = load_zeroconf()
        tcp = next((address for address in addresses if not address.startswith("unix:")), None)
        if tcp is None:
            raise AddressError("control.announce: expected an address over TCP to announce, found none")
        host, _, port = tcp.rpartition(":")
        name = platform.node().partition(".")[0] or "edge-dac"
        self._module = module
        self._port, self._reachable_at = int(port), _reachable(host.strip("[]"))
        self._models = _shown(models)
        # Devices made from one image are often called the same. Asking the network for the name is not enough: the answer
        # may reach another program on the port of mDNS, and with one host name they would get each other's addresses.
        self._device = f"{name[:_LONGEST_NAME]}-{ipaddress.ip_address(self._reachable_at[0]).packed.hex()[-8:]}"
        self._info = self._describe(f"{self._device}-{port}.{SERVICE_TYPE}")
        try:
            self._network = module.Zeroconf()
        except (OSError, RuntimeError) as error:
            raise NoNetworkError(f"control.announce: {error}") from error
        self._network.register_service(self._info, allow_name_change=True)

    def update(self, models: Sequence[str]) -> None:
        """Tell the network which models there are now; it takes half a second where they are others than before.

        Raises:
            NoNetworkError: the network cannot be told.
        """
        if _shown(models) == self._models:
            return
        self._models = _shown(models)
        self._info = self._describe(self._info.name)
        try:
            self._network.update_service(self._info)
        except (OSError, RuntimeError, self._module.Error) as error:
            raise NoNetworkError(f"control.announce: {error}") from error

    def _describe(self, name: str) -> Any:
        return self._module.ServiceInfo(
            SERVICE_TYPE,
            name,
            port=self._port,
            parsed_addresses=self._reachable_at,
            properties={"models": self._models},
            server=f"{self._device}.local.",
        )

    def close(self) -> None:
        """Take the entry back."""
        self._network.unregister_service(self._info)
        self._network.close()


def _shown(models: Sequence[str]) -> str:
    return ",".join(models)[:_LONGEST_VALUE]


def _reachable(host: str) -> list[str]:
    """The addresses that a listener on ``host`` can be reached at; all of the device for a wildcard."""
    resolved = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    if not any(ipaddress.ip_address(address).is_unspecified for address in resolved):
        return resolved
    addresses = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    outside = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    return outside or addresses
