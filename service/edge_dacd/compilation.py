"""The daemon's side of the compiler child: start it, read its events, end it, explain its death."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_dac.errors import EdgeDacError
from edge_dacd.compiler import Job

SILENCE_LIMIT_S = 900.0
"""A child that says nothing for so long is taken for hung."""
_READ_BYTES = 1 << 16
_ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
"""Its threads wait for each other without sleeping: where a run of the daemon holds a core, each step takes a time slice."""
_LONGEST_LINE = 64 << 20


class CompilerError(EdgeDacError):
    """The compiler child failed or died; ``code`` is the name of its error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CompilerProcess:
    """One job in a child process with an empty working directory of its own.

    Start it from a thread that lives as long as the daemon: the kernel ends the child with the thread that started it.
    """

    def __init__(self, job: Job) -> None:
        """
        Raises:
            CompilerError: the child cannot be started.
        """
        try:
            self._directory = tempfile.TemporaryDirectory(prefix=_prefix(job.store))
            # -P: neither the working directory nor the script's shadows a module.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edge_dacd.compiler", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._directory.name,
                env={**os.environ, **_ONE_BLAS_THREAD, "TMPDIR": self._directory.name},
            )
        except OSError as error:
            raise CompilerError("CompilerDied", f"the compiler cannot be started: {error.strerror}") from error
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `events` says how
            self._process.stdin.write(job.to_json().encode() + b"\n")
            self._process.stdin.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """The child's events up to ``done``.

        Raises:
            CompilerError: it reported a failure, died, fell silent or did not speak the protocol.
        """
        try:
            for line in self._lines():
                event = _parse(line)
                if event["event"] == "failed":
                    raise CompilerError(str(event.get("code")), str(event.get("message")))
                if event["event"] == "done":
                    return
                yield event
            raise CompilerError("CompilerDied", self._epitaph())
        finally:
            self.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._directory.cleanup()

    def kill(self) -> None:
        """End the child now; ``events`` then raises in the thread that reads them. Any thread may call it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def _lines(self) -> Iterator[bytes]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        readable = select.poll()  # unlike `select` it takes descriptors above 1023
        readable.register(descriptor, select.POLLIN)
        pending = b""
        while True:
            if not readable.poll(1000 * SILENCE_LIMIT_S):
                raise CompilerError("CompilerHung", f"the compiler said nothing for {SILENCE_LIMIT_S:.0f} s")
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            if len(pending) > _LONGEST_LINE:
                raise CompilerError("CompilerProtocol", "the compiler wrote a line without an end")
            yield from lines

    def _epitaph(self) -> str:
        status = self._process.wait()
        if status < 0:
            name = signal.Signals(-status).name
            return f"the compiler was killed by {name}" + ("; out of memory?" if name == "SIGKILL" else "")
        return f"the compiler ended with status {status} before it was done"


def remove_left_behind(store: Path) -> None:
    """Remove the working directories of children whose daemon was killed. Only while no other daemon has this store."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_prefix(str(store))}*"):
        shutil.rmtree(directory, ignore_errors=True)


def _prefix(store: str) -> str:
    """Of the names of working directories; tells the daemons of one device apart."""
    return f"edge-dac-compiler-{hashlib.sha256(store.encode()).hexdigest()[:12]}-"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise CompilerError("CompilerProtocol", "the compiler wrote something that is not JSON") from error
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise CompilerError("CompilerProtocol", "the compiler wrote something that is not an event")
    return event
