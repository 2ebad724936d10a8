"""Telling systemd how the daemon is: ``sd_notify`` over its datagram socket. Without systemd nothing happens."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Sends state to the service manager named in the environment (``NOTIFY_SOCKET``, ``WATCHDOG_USEC``)."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of Linux' abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call :meth:`watchdog`: half of the time systemd waits. None if it does not watch us."""
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        watched = os.environ.get("WATCHDOG_PID", str(os.getpid()))
        if not (self._address and microseconds.isdecimal() and int(microseconds) and watched == str(os.getpid())):
            return None
        return int(microseconds) / 2e6

    def ready(self, status: str) -> None:
        """The service does its work now."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """The configuration is being read again; :meth:`ready` ends it."""
        # systemd compares this clock with its own.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={_monotonic_us()}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={status}")

    def watchdog(self) -> None:
        """The service is alive."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service goes down on purpose."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.connect(self._address)
                channel.sendall(message.encode())
            except OSError:
                # A service manager that is gone must not take the service with it.
                return


def _monotonic_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
