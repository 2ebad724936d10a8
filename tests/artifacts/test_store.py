import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from edge_dac.artifacts.store import ArtifactStore
from edge_dac.errors import ArtifactError

VERSIONS = {"edge-dac": "0.1.0", "onnxruntime": "1.32.0"}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "state")


def age(point, seconds):
    past = time.time() - seconds
    os.utime(point.model_path.parent, (past, past))


def test_round_trip_in_another_instance(store, plan, tmp_path):
    point = store.put(b"model bytes", plan, VERSIONS)
    again = ArtifactStore(tmp_path / "state").get(point.digest)
    assert again.model_path.read_bytes() == b"model bytes"
    assert again.plan == plan
    assert again.versions == VERSIONS
    assert again == point


def test_digest_follows_model_plan_and_versions(store, plan):
    points = [
        store.put(b"a", plan, VERSIONS),
        store.put(b"b", plan, VERSIONS),
        store.put(b"a", replace(plan, macs=1), VERSIONS),
        store.put(b"a", plan, {**VERSIONS, "onnxruntime": "1.33.0"}),
    ]
    assert len({point.digest for point in points}) == 4
    assert store.put(b"a", plan, VERSIONS).digest == points[0].digest
    assert len(store.points()) == 4
    assert store.points("cd" * 32) == []


def test_files_are_private(store, plan, tmp_path):
    store.put(b"model", plan, VERSIONS)
    for path in (tmp_path / "state").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("name", ["model.onnx", "point.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_entry_is_reported_and_set_aside(store, plan, tmp_path, name, damage):
    sound = store.put(b"sound", plan, VERSIONS)
    point = store.put(b"model bytes", plan, VERSIONS)
    path = point.model_path.with_name(name)
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    reports = store.verify()
    assert len(reports) == 1
    assert point.digest[:12] in reports[0]
    assert "set aside" in reports[0]
    assert [one.digest for one in store.points()] == [sound.digest]
    assert (tmp_path / "state/damaged" / point.digest).is_dir()
    with pytest.raises(ArtifactError, match="not in the store"):
        store.get(point.digest)
    assert store.put(b"model bytes", plan, VERSIONS).digest == point.digest
    assert store.verify() == []


def test_damaged_entries_do_not_pile_up(store, plan, tmp_path):
    for index in range(7):
        point = store.put(str(index).encode(), plan, VERSIONS)
        point.model_path.write_bytes(b"x")
        assert len(store.verify()) == 1
    assert len(list((tmp_path / "state/damaged").iterdir())) == 4


@pytest.mark.parametrize("digest", ["", "..", "../points", "0" * 64, "/etc"])
def test_unknown_digest(store, digest):
    with pytest.raises(ArtifactError, match="not in the store"):
        store.get(digest)


def test_prune_removes_least_recently_used_but_never_kept_ones(store, plan):
    points = [store.put(bytes(1000) + bytes([index]), plan, VERSIONS) for index in range(4)]
    for index, point in enumerate(points):
        age(point, 1000 - index)
    store.get(points[1].digest)
    removed = store.prune(max_bytes=2500, keep={points[0].digest})
    assert removed == [points[2].digest, points[3].digest]
    assert {point.digest for point in store.points()} == {points[0].digest, points[1].digest}
    assert store.prune(max_bytes=0, keep={points[0].digest}) == [points[1].digest]


WRITER = """
import sys
from pathlib import Path
from edge_dac.artifacts.store import ArtifactStore
from edge_dac.planning.plan import Plan
plan = Plan("ab" * 32, (), (), {}, 1, 1.0, 1.0, None, None, None, 0.0, 1, 1, "f")
store = ArtifactStore(Path(sys.argv[1]))
print("ready", flush=True)
for index in range(10**6):
    store.put(bytes([index % 256]) * 300_000 + str(index).encode(), plan, {})
"""


def test_killed_writer_leaves_whole_entries(tmp_path):
    for delay_s in (0.02, 0.05, 0.09):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(delay_s)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        store = ArtifactStore(tmp_path)
        assert store.verify() == []
        store.recover()
        assert list((tmp_path / "incoming").iterdir()) == []
    assert store.points()


def test_full_disk_is_an_error_and_leaves_nothing(store, plan, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        store.put(b"model", plan, VERSIONS)
    assert list((tmp_path / "state/incoming").iterdir()) == []
    assert store.points() == []
