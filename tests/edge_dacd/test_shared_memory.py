from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from edge_dacd.shared_memory import LARGEST_REGION_COUNT, SharedMemory
from edge_dacd.status import RequestError


@pytest.fixture
def key() -> Iterator[str]:
    path = Path(f"/dev/shm/edge_dac_unit_{os.getpid()}")
    path.write_bytes(bytes(range(256)) * 64)
    yield path.name
    path.unlink(missing_ok=True)


@pytest.fixture(params=[0o600, 0o666], ids=["in place", "copied"])
def mode(request: pytest.FixtureRequest, key: str) -> int:
    mode: int = request.param
    os.chmod(f"/dev/shm/{key}", mode)
    return mode


def test_reads_and_writes(key: str, mode: int) -> None:
    memory = SharedMemory()
    memory.register("r", f"/{key}", 16, 64)
    region = memory.get("r")
    assert (region.mapping is None) == (mode == 0o666)
    assert bytes(region.read(8, 4, "x")) == bytes([24, 25, 26, 27])
    region.write(8, b"abcd", "x")
    assert Path(f"/dev/shm/{key}").read_bytes()[20:32] == bytes([20, 21, 22, 23]) + b"abcd" + bytes([28, 29, 30, 31])


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (64, 1), (-1, 4), (1 << 62, 1 << 62)])
def test_nothing_outside_of_the_region(key: str, offset: int, size: int) -> None:
    memory = SharedMemory()
    memory.register("r", key, 16, 64)
    with pytest.raises(RequestError, match="expected at most 64 bytes"):
        memory.get("r").read(offset, size, "x")


def test_an_object_that_was_cut_is_not_touched(key: str, mode: int) -> None:
    memory = SharedMemory()
    memory.register("r", key, 0, 8192)
    os.truncate(f"/dev/shm/{key}", 100)
    with pytest.raises(RequestError, match="shorter than when it was registered"):
        memory.get("r").read(4096, 4, "x")
    with pytest.raises(RequestError, match="shorter than when it was registered"):
        memory.get("r").write(4096, b"abcd", "x")


def test_what_others_can_cut_is_out_of_their_reach_once_read(key: str) -> None:
    os.chmod(f"/dev/shm/{key}", 0o666)
    memory = SharedMemory()
    memory.register("r", key, 0, 8192)
    data = memory.get("r").read(4096, 4, "x")
    os.truncate(f"/dev/shm/{key}", 100)
    assert bytes(data) == bytes([0, 1, 2, 3])


@pytest.mark.parametrize("wrong", ["", "/", ".", "..", "../x", "a/b", "/a/b", "a\0b", "-" * 300, "a b"])
def test_keys_are_plain_names(wrong: str) -> None:
    with pytest.raises(RequestError, match="expected a key"):
        SharedMemory().register("r", wrong, 0, 8)


def test_links_and_other_files_are_refused(key: str) -> None:
    link = Path(f"/dev/shm/{key}_link")
    fifo = Path(f"/dev/shm/{key}_fifo")
    link.symlink_to("/etc/hostname")
    os.mkfifo(fifo)
    try:
        with pytest.raises(RequestError, match="cannot be opened"):
            SharedMemory().register("r", link.name, 0, 1)
        with pytest.raises(RequestError, match="expected an object of at least"):
            SharedMemory().register("r", fifo.name, 0, 1)
    finally:
        link.unlink()
        fifo.unlink()


def test_names_and_limits(key: str) -> None:
    memory = SharedMemory()
    memory.register("r", key, 0, 8)
    with pytest.raises(RequestError) as caught:
        memory.register("r", key, 0, 8)
    assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS
    with pytest.raises(RequestError, match="expected an object of at least 20000 bytes, got 16384"):
        memory.register("s", key, 0, 20000)
    for index in range(LARGEST_REGION_COUNT - 1):
        memory.register(str(index), key, 0, 8)
    with pytest.raises(RequestError, match="at most 256 regions"):
        memory.register("one more", key, 0, 8)
    memory.unregister("")
    assert memory.regions() == ()
    memory.unregister("unknown")


def test_descriptors_do_not_leak(key: str) -> None:
    memory = SharedMemory()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        memory.register("r", key, 0, 8)
        memory.unregister("r")
        with pytest.raises(RequestError):
            memory.register("r", key, 0, 1 << 40)
    assert len(os.listdir("/proc/self/fd")) == before


def test_switched_off() -> None:
    with pytest.raises(RequestError) as caught:
        SharedMemory(enabled=False).register("r", "x", 0, 8)
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED
