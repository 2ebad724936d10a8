"""System shared memory: regions that a client on the same device made and registered, for tensors without a copy.

A region is a POSIX shared memory object. Its key is a plain name: nothing with a path in it is opened, and no link is
followed. The size is checked again at every use, because its owner may have cut it since.
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

_DIRECTORY = Path("/dev/shm")
_KEY = re.compile(r"/?([A-Za-z0-9_][A-Za-z0-9_.\-]{0,254})")
LARGEST_REGION_COUNT = 256


@dataclass(frozen=True, slots=True)
class Region:
    """A registered region. ``offset`` and ``byte_size`` are within the object ``key``."""

    name: str
    key: str
    offset: int
    byte_size: int
    mapping: mmap.mmap
    """From the start of the object to the end of the region. Freed with the last array that uses it."""

    def view(self, offset: int, byte_size: int, what: str) -> memoryview:
        """``byte_size`` bytes from ``offset`` of the region; ``what`` names the tensor in messages.

        Raises:
            RequestError: INVALID_ARGUMENT where this is not inside of the region, or the object has been cut.
        """
        if offset < 0 or byte_size < 0 or offset + byte_size > self.byte_size:
            raise invalid(
                f"{what}: expected at most {self.byte_size} bytes in shared memory region {self.name!r}, "
                f"got {byte_size} from offset {offset}"
            )
        start = self.offset + offset
        # Touching a page behind the end of the object would kill the process.
        if self.mapping.size() < start + byte_size:
            raise invalid(f"{what}: shared memory region {self.name!r} is shorter than when it was registered")
        return memoryview(self.mapping)[start : start + byte_size]


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
        descriptor = os.open(_DIRECTORY / match.group(1), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise not_found(f"{what}: the shared memory object {key!r} cannot be opened") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or offset + byte_size > status.st_size:
            raise invalid(
                f"{what}: expected an object of at least {offset + byte_size} bytes, got {status.st_size} in {key!r}"
            )
        mapping = mmap.mmap(descriptor, offset + byte_size)
    finally:
        os.close(descriptor)
    return Region(name, key, offset, byte_size, mapping)
