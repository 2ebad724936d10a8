"""The real compiler child, as the daemon starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_dac.artifacts.store import ArtifactStore
from edge_dacd.compilation import CompilerError, CompilerProcess, remove_left_behind
from edge_dacd.compiler import Job


def job_for(model: Path, tmp_path: Path, **values) -> Job:
    return Job(
        str(model),
        str(tmp_path / "store"),
        str(tmp_path / "table.json"),
        str(tmp_path / "fidelity.json"),
        threads=1,
        **values,
    )


def failure_of(job: Job) -> CompilerError:
    with pytest.raises(CompilerError) as error:
        list(CompilerProcess(job).events())
    return error.value


def test_job_round_trip(tmp_path):
    told = {"input_shapes": {"x": (1, 3)}, "input_values": {"sr": 16000.0}}
    job = job_for(tmp_path / "m.onnx", tmp_path, **told, budget={"speedup": 2.0}, dry_run=True)
    assert Job.from_json(job.to_json()) == job
    assert "\n" not in job.to_json()


@pytest.mark.slow
def test_point_for_fixed_ranks_is_stored_and_events_come_in_order(small_network, tmp_path):
    budget = {"layer_ranks": {"conv1": {"scheme": "dac", "rank": 2}}}
    events = list(CompilerProcess(job_for(small_network, tmp_path, budget=budget)).events())
    phases = [event["phase"] for event in events if event["event"] == "progress"]
    assert phases[0] == "load"
    (point,) = [event for event in events if event["event"] == "point"]
    assert point["role"] == "budget"
    stored = ArtifactStore(tmp_path / "store").get(point["digest"])
    assert [choice.rank for choice in stored.plan.choices if choice.layer == "conv1"] == [2]
    assert stored.versions["onnxruntime"]


def test_not_a_model(tmp_path):
    text = tmp_path / "text.onnx"
    text.write_text("this is not a model")
    failure = failure_of(job_for(text, tmp_path, budget={}))
    assert failure.code == "ModelFormatError"
    assert "\n" not in str(failure)


def test_unknown_input_name(small_network, tmp_path):
    failure = failure_of(job_for(small_network, tmp_path, budget={}, input_shapes={"nothing": (1,)}))
    assert failure.code == "InputShapeError"


def test_memory_limit_ends_the_child_alone(small_network, tmp_path):
    failure = failure_of(job_for(small_network, tmp_path, budget={"speedup": 1.1}, memory_bytes=200 << 20))
    assert failure.code in ("MemoryError", "InternalError", "CompilerDied")


def test_killed_child(small_network, tmp_path):
    process = CompilerProcess(job_for(small_network, tmp_path, budget={"speedup": 1.1}))
    process.kill()
    with pytest.raises(CompilerError, match="killed by SIGKILL") as error:
        list(process.events())
    assert error.value.code == "CompilerDied"


def test_child_of_another_parent_ends_at_once(small_network, tmp_path):
    """As one whose daemon was killed before the child could ask the kernel to end with it."""
    job = job_for(small_network, tmp_path, budget={"speedup": 1.1})
    command = [sys.executable, "-m", "edge_dacd.compiler", str(os.getppid())]
    done = subprocess.run(command, input=job.to_json(), text=True, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


def test_directories_left_behind_are_removed(small_network, tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    process = CompilerProcess(job_for(small_network, tmp_path, budget={}))
    remove_left_behind(tmp_path / "another" / "store")
    assert len(os.listdir(temporary)) == 1
    remove_left_behind(tmp_path / "store")
    assert os.listdir(temporary) == []
    process.kill()
    with pytest.raises(CompilerError):
        list(process.events())


def test_child_leaves_nothing_in_the_temporary_folder(small_network, tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    process = CompilerProcess(job_for(small_network, tmp_path, budget={}))
    assert os.listdir(temporary) != []
    process.kill()
    with pytest.raises(CompilerError):
        list(process.events())
    assert os.listdir(temporary) == []
