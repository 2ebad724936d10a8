"""Announces the daemon on the local network with mDNS and DNS-SD, so that ``edge-dac discover`` finds it."""

from __future__ import annotations

import ipaddress
import platform
import socket
from collections.abc import Sequence

import psutil

from edge_dac.discovery import SERVICE_TYPE, load_zeroconf
from edge_dac.errors import EdgeDacError
from edge_dacd.server import AddressError

_LONGEST_VALUE = 200
"""A DNS text record holds at most 255 bytes, its name included."""


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
        self._info = module.ServiceInfo(
            SERVICE_TYPE,
            f"{name}-{port}.{SERVICE_TYPE}",
            port=int(port),
            parsed_addresses=_reachable(host.strip("[]")),
            properties={"models": ",".join(models)[:_LONGEST_VALUE]},
        )
        try:
            self._network = module.Zeroconf()
        except (OSError, RuntimeError) as error:
            raise NoNetworkError(f"control.announce: {error}") from error
        # Devices made from one image are often called the same; the second then gets a name of its own.
        self._network.register_service(self._info, allow_name_change=True)

    def close(self) -> None:
        """Take the entry back."""
        self._network.unregister_service(self._info)
        self._network.close()


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
