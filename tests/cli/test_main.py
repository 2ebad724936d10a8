"""The command as its user types it: a process, its output, its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx import TensorProto, numpy_helper

from edge_dac.cli.main import main


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_dac", *words], capture_output=True, text=True, check=False, cwd=cwd, timeout=120
    )


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """As :func:`run`, without a process of its own: an exception that nobody caught fails the test."""

    def call_main(*words: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        try:
            code = main(words)
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return call_main


def test_device_prints_the_profile() -> None:
    answer = run("device", "--json")
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["logical_cores"] >= 1


def test_inspect_lists_layers_with_latency(tiny_path: Path, call: Call) -> None:
    answer = call("inspect", str(tiny_path), "--json")
    assert answer.returncode == 0, answer.stderr
    found = {entry["layer"]: entry for entry in json.loads(answer.stdout)["layers"]}
    assert list(found) == ["first", "second", "third"]
    assert all(entry["latency_ms"] > 0 for entry in found.values())
    assert "dac" in found["second"]["schemes"]
    assert found["third"]["refused"]["dac"]["reason"] == "kernel_shape"


def test_compress_writes_model_and_plan_that_bench_and_inspect_read(tiny_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "fast.onnx"
    answer = run("compress", str(tiny_path), "-o", str(output), "--speedup", "1.3", "--json")
    assert answer.returncode == 0, answer.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fast.onnx", "fast.plan.json"]
    assert json.loads((tmp_path / "fast.plan.json").read_text())["measured_ratio"] < 1
    table = run("bench", str(tiny_path), str(output), "--rounds", "10", "--json")
    assert table.returncode == 0, table.stderr
    assert len(json.loads(table.stdout)["models"]) == 2


def test_rank_is_the_paper(tiny_path: Path, tmp_path: Path, call: Call) -> None:
    output = tmp_path / "paper.onnx"
    answer = call("compress", str(tiny_path), "-o", str(output), "--rank", "2", "--json")
    assert answer.returncode == 0, answer.stderr
    ranks = {c["layer"]: (c["scheme"], c["rank"]) for c in json.loads(answer.stdout)["choices"]}
    assert ranks == {"first": ("dac", 2), "second": ("dac", 2), "third": ("dense", None)}


def test_spatial_stands_for_both_orders(tiny_path: Path, call: Call) -> None:
    answer = call("compress", str(tiny_path), "--dry-run", "--mac-fraction", "0.7", "--schemes", "spatial", "--json")
    assert answer.returncode == 0, answer.stderr
    assert {c["scheme"] for c in json.loads(answer.stdout)["choices"]} <= {"dense", "spatial_vh", "spatial_hv"}


@pytest.fixture
def resized_path(tmp_path: Path) -> Path:
    """A convolution over as many pixels as a second input says, with its weight in a file of its own."""
    nodes = [
        oh.make_node("Concat", ["ones", "side", "side"], ["shape"], axis=0),
        oh.make_node("Reshape", ["x", "shape"], ["a"]),
        oh.make_node("Conv", ["a", "w"], ["y"], name="only"),
    ]
    weight = np.random.default_rng(0).normal(size=(64, 1, 3, 3)).astype(np.float32)
    graph = oh.make_graph(
        nodes,
        "g",
        [
            oh.make_tensor_value_info("x", TensorProto.FLOAT, [64]),
            oh.make_tensor_value_info("side", TensorProto.INT64, [1]),
        ],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, "height", "width"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1, 1]), "ones")],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "resized.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights", size_threshold=1024)
    return path


def test_inspect_runs_at_the_numbers_that_are_given(resized_path: Path, call: Call) -> None:
    refused = call("inspect", str(resized_path), "--value", "side=8")
    assert refused.returncode == 3
    assert "--allow-external" in refused.stderr
    answer = call("inspect", str(resized_path), "--allow-external", "--value", "side=8", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["layers"][0]["input_size"] == [8, 8]


def test_numbers_that_cannot_be_used_are_named(resized_path: Path, call: Call) -> None:
    for text, message in (("side", "expected NAME=N"), ("side=x", "expected NAME=N"), ("side=0.5", "int64 can hold")):
        answer = call("inspect", str(resized_path), "--allow-external", "--value", text)
        assert answer.returncode == 2
        assert message in answer.stderr


def test_check_config_names_the_unknown_key(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("")
    bad.write_text("[server]\nlissten = 3\n")
    assert run("check-config", str(good)).returncode == 0
    answer = run("check-config", str(bad))
    assert answer.returncode != 0
    assert "lissten" in answer.stderr


def test_dry_run_writes_nothing(tiny_path: Path, tmp_path: Path) -> None:
    answer = run("compress", str(tiny_path), "--dry-run", "--rank", "3", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_best_effort_writes_the_best_found(tiny_path: Path, tmp_path: Path, call: Call) -> None:
    output = tmp_path / "best.onnx"
    words = ("compress", str(tiny_path), "-o", str(output), "--speedup", "500", "--max-error", "0")
    answer = call(*words)
    assert answer.returncode == 4
    assert list(tmp_path.iterdir()) == []
    assert "best found" in answer.stderr
    assert call(*words, "--best-effort").returncode == 4
    assert output.is_file()


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["compress", "{missing}", "-o", "{out}", "--speedup", "2"], 3, "missing.onnx"),
        (["compress", "{text}", "-o", "{out}", "--speedup", "2"], 3, "text.onnx"),
        (["compress", "{truncated}", "-o", "{out}", "--speedup", "2"], 3, "truncated.onnx"),
        (["compress", "{model}", "-o", "{out}", "--shape", "nobody=1,2"], 3, "nobody"),
        (["compress", "{model}", "-o", "{out}", "--shape", "x=1,-8"], 2, "--shape"),
        (["compress", "{model}", "-o", "{out}", "--budget-ms", "0"], 2, "latency_ms"),
        (["compress", "{model}", "-o", "{out}", "--budget-ms", "nan"], 2, "latency_ms"),
        (["compress", "{model}", "-o", "{out}", "--rank", "0"], 2, "uniform_rank"),
        (["compress", "{model}", "-o", "{out}", "--schemes", "magic"], 2, "magic"),
        (["compress", "{model}", "-o", "{out}", "--layer", "first"], 2, "NAME=SCHEME:RANK"),
        (["compress", "{model}", "-o", "{out}", "--layer", "last=dac:2"], 2, "'last'"),
        (["compress", "{model}", "-o", "{out}", "--total-rank", "1"], 2, "total_rank"),
        (["compress", "{model}", "-o", "{out}", "--rank", "2", "--total-rank", "9"], 2, "uniform_rank and total_rank"),
        (["compress", "{model}", "-o", "{out}", "--input-range", "0;1"], 2, "--input-range"),
        (["compress", "{model}"], 2, "-o"),
        (["compress", "{model}", "-o", "{folder}/no/such/out.onnx", "--rank", "1"], 2, "existing folder"),
        (["inspect", "{text}"], 3, "text.onnx"),
        (["bench", "{model}", "{missing}"], 3, "missing.onnx"),
        (["nonsense"], 2, "nonsense"),
        (["report", "{text}", "-o", "{out}"], 3, "text.onnx"),
    ],
)
def test_bad_input_is_one_line_a_code_and_no_file(
    tiny_path: Path, tmp_path: Path, call: Call, words: list[str], code: int, named: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    content = tiny_path.read_bytes()
    (tmp_path / "text.onnx").write_text("this is no network\n")
    (tmp_path / "truncated.onnx").write_bytes(content[: len(content) // 2])
    places = {name: str(tmp_path / f"{name}.onnx") for name in ("missing", "text", "truncated")}
    places |= {"model": str(tiny_path), "out": str(folder / "out.onnx"), "folder": str(folder)}
    answer = call(*(word.format(**places) for word in words))
    assert answer.returncode == code, answer.stderr
    last = answer.stderr.strip().splitlines()[-1]
    assert named in last
    assert list(folder.iterdir()) == []


def test_layers_chosen_by_hand_are_obeyed(tiny_path: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out.onnx"
    answer = call(
        "compress", str(tiny_path), "-o", str(out), "--layer", "first=dac:2", "--layer", "second=dense", "--json"
    )
    assert answer.returncode == 0, answer.stderr
    chosen = {choice["layer"]: (choice["scheme"], choice["rank"]) for choice in json.loads(answer.stdout)["choices"]}
    assert chosen == {"first": ("dac", 2), "second": ("dense", None), "third": ("dense", None)}
