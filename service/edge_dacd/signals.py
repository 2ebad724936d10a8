"""Signals, one after the other, for a main thread that waits for them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable


class Signals:
    """Collects ``numbers`` from now on. Make it on the main thread.

    A handler in Python runs only when the main thread is back in the interpreter: a signal just before that thread
    begins to wait would stay unseen until the next one. So the interpreter's own handler writes each into a socket.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno())
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def next(self, limit_s: float | None) -> int | None:
        """The number of the next signal, or None if none came within ``limit_s``; None waits for ever."""
        self._receiver.settimeout(limit_s)
        try:
            return self._receiver.recv(1)[0]
        except TimeoutError:
            return None

    def close(self) -> None:
        """Collect no more; they are ignored from now on."""
        signal.set_wakeup_fd(-1)
        self._receiver.close()
        self._sender.close()
