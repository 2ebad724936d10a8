"""Finding daemons on the local network with mDNS and DNS-SD. Needs the optional package ``zeroconf``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edge_dac.errors import UsageError

SERVICE_TYPE = "_edge-dac._tcp.local."
_POLL_S = 0.1
_ASK_MS = 1000


@dataclass(frozen=True, slots=True)
class FoundDaemon:
    """A daemon that announced itself. ``address`` is for ``--target``."""

    name: str
    address: str
    models: tuple[str, ...]


def load_zeroconf() -> Any:
    """The module.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import zeroconf
    except ImportError as error:
        raise UsageError("discovery: expected the package zeroconf; pip install 'edge-dac[discovery]'") from error
    return zeroconf


def find_daemons(until: float) -> list[FoundDaemon]:
    """The daemons that answer before ``until`` on the clock of ``time.monotonic``, by name.

    Raises:
        UsageError: the package is not installed.
    """
    module = load_zeroconf()
    names: set[str] = set()

    def note(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if state_change is not module.ServiceStateChange.Removed:
            names.add(name)

    with module.Zeroconf() as network:
        browser = module.ServiceBrowser(network, SERVICE_TYPE, handlers=[note])
        while time.monotonic() < until:
            time.sleep(min(_POLL_S, max(0.0, until - time.monotonic())))
        browser.cancel()
        found = [_resolve(network.get_service_info(SERVICE_TYPE, name, _ASK_MS)) for name in sorted(names)]
    return [one for one in found if one is not None]


def _resolve(info: Any) -> FoundDaemon | None:
    if info is None or not info.parsed_addresses():
        return None
    host = info.parsed_addresses()[0]
    properties = info.decoded_properties
    models = tuple(filter(None, (properties.get("models") or "").split(",")))
    address = f"[{host}]:{info.port}" if ":" in host else f"{host}:{info.port}"
    return FoundDaemon(info.name.removesuffix(f".{SERVICE_TYPE}"), address, models)
