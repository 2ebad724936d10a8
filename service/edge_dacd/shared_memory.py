"""System shared memory: regions that a client on the same device made and registered, for tensors without a message.

A region is a POSIX shared memory object. Its key is a plain name: nothing with a path in it is opened, and no link is
followed. The size is checked again at every use, because it may have been cut since.

Touching a mapped page behind the end of the object kills a process (SIGBUS), and no check before a run helps against one
that is cut during it. So a region is used in place only where nobody but the daemon's own user can cut it, who could kill
the daemon anyway; from all others bytes are copied by the kernel, which reports instead (602 kB in 27 us on an AMD EPYC).
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from edge_dacd.status import RequestError, invalid, not_found
from edge_dacd.tensors import Buffer

_DIRECTORY = Path("/dev/shm")
_KEY = re.compile(r"/?([A-Za-z0-9_][A-Za-z0-9_.\-]{0,254})")
LARGEST_REGION_COUNT = 256


class Descriptor:
    """An open file; closed with the last region and run that use it."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(frozen=True, slots=True)
class Region:
    """A registered region. ``offset`` and ``byte_size`` are within the object ``key``."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: Descriptor
    mapping: mmap.mmap | None
    """From the start of the object to the end of the region, where that is safe. Freed with the last array that uses it."""

    def read(self, offset: int, byte_size: int, what: str) -> Buffer:
        """``byte_size`` bytes from ``offset`` of the region; ``what`` names the tensor in messages.

        Raises:
            RequestError: INVALID_ARGUMENT where this is not inside of the region, or the object has been cut.
        """
        start = self.check(offset, byte_size, what)
        if self.mapping is not None:
            return memoryview(self.mapping)[start : start + byte_size]
        data = os.pread(self.descriptor.number, byte_size, start)
        if len(data) < byte_size:
            raise self._was_cut(what)
        return data

    def write(self, offset: int, data: Buffer, what: str) -> None:
        """Put ``data`` at ``offset`` of the region, as :meth:`read` takes it from there."""
        start = self.check(offset, len(data), what)
        if self.mapping is not None:
            self.mapping[start : start + len(data)] = data
        elif os.pwrite(self.descriptor.number, data, start) < len(data):
            raise self._was_cut(what)

    def check(self, offset: int, byte_size: int, what: str) -> int:
        """Where ``offset`` is in the object, if there are ``byte_size`` bytes; raises what :meth:`read` raises."""
        if offset < 0 or byte_size < 0 or offset + byte_size > self.byte_size:
            raise invalid(
                f"{what}: expected at most {self.byte_size} bytes in shared memory region {self.name!r}, "
                f"got {byte_size} from offset {offset}"
            )
        start = self.offset + offset
        if os.fstat(self.descriptor.number).st_size < start + byte_size:
            raise self._was_cut(what)
        return start

    def _was_cut(self, what: str) -> RequestError:
        return invalid(f"{what}: shared memory region {self.name!r} is shorter than when it was registered")


class SharedMemory:
    """The registered regions, by name. Thread-safe.

    Attributes:
        enabled: whether new ones may be registered.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map ``byte_size`` bytes from ``offset`` of the shared memory object ``key`` as region ``name``.

        Raises:
            RequestError: ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, or UNIMPLEMENTED when shared
                memory is switched off.
        """
        if not self.enabled:
            raise RequestError(grpc.StatusCode.UNIMPLEMENTED, "shared memory is switched off in the configuration")
        if not name:
            raise invalid("shared memory region: expected a name, got none")
        with self._lock:
            if name in self._regions:
                raise RequestError(
                    grpc.StatusCode.ALREADY_EXISTS, f"shared memory region {name!r}: is registered already"
                )
            if len(self._regions) >= LARGEST_REGION_COUNT:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"shared memory: expected at most {LARGEST_REGION_COUNT} regions",
                )
            self._regions[name] = _map(name, key, offset, byte_size)

    def unregister(self, name: str) -> None:
        """Forget region ``name``, or all of them if it is empty. An unknown name is ignored, as Triton does."""
        with self._lock:
            names = [name] if name else list(self._regions)
            for forgotten in names:
                self._regions.pop(forgotten, None)

    def regions(self, name: str = "") -> tuple[Region, ...]:
        """The region ``name``, or all of them if it is empty.

        Raises:
            RequestError: NOT_FOUND.
        """
        with self._lock:
            if not name:
                return tuple(self._regions.values())
        return (self.get(name),)

    def get(self, name: str) -> Region:
        """The region ``name``.

        Raises:
            RequestError: NOT_FOUND.
        """
        with self._lock:
            region = self._regions.get(name)
        if region is None:
            raise not_found(f"shared memory region {name!r}: expected a registered region")
        return region


def _map(name: str, key: str, offset: int, byte_size: int) -> Region:
    what = f"shared memory region {name!r}"
    match = _KEY.fullmatch(key)
    if match is None:
        raise invalid(f"{what}: expected a key of letters, digits, '_', '.' and '-', got {key!r}")
    if byte_size == 0:
        raise invalid(f"{what}: expected a byte size above 0, got 0")
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = Descriptor(os.open(_DIRECTORY / match.group(1), flags))
    except OSError:
        raise not_found(f"{what}: the shared memory object {key!r} cannot be opened") from None
    status = os.fstat(descriptor.number)
    if not stat.S_ISREG(status.st_mode) or offset + byte_size > status.st_size:
        raise invalid(
            f"{what}: expected an object of at least {offset + byte_size} bytes, got {status.st_size} in {key!r}"
        )
    is_ours_alone = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    mapping = mmap.mmap(descriptor.number, offset + byte_size) if is_ours_alone else None
    return Region(name, key, offset, byte_size, descriptor, mapping)
