from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.errors import VerificationError
from edge_dacd.models import ModelRepository, ModelSource, ServedModel
from edge_dacd.runtime import PointFigures, Runtime
from edge_dacd.status import RequestError


def write(path: Path, factor: float = 1.0, width: int = 2, output: str = "y") -> Path:
    """``y = factor * x`` on FLOAT [n, width]."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], [output])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", width])],
        [value(output, TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def load(path: Path, point_id: str = "original", figures: PointFigures | None = None) -> Runtime:
    return Runtime.load(path, threads=1, point_id=point_id, figures=figures)


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    path = write(tmp_path / "m.onnx")
    return ServedModel(ModelSource("m", path), load(path, figures=PointFigures(10.0, None, 0.0)), 0.0)


def answer(runtime: Runtime) -> float:
    return float(runtime.run({"x": np.ones((1, 2), np.float32)})[0][0, 0])


def test_swap_releases_the_old_runtime_with_its_last_request(model: ServedModel, tmp_path: Path) -> None:
    in_flight = model.active
    released = weakref.ref(in_flight)
    before = model.swap(load(write(tmp_path / "n.onnx", 2.0), "fast"))
    assert before is in_flight
    del before
    assert answer(in_flight) == 1.0
    assert answer(model.active) == 2.0
    assert model.active.point_id == "fast"
    del in_flight
    gc.collect()
    assert released() is None


@pytest.mark.parametrize("change", [{"output": "z"}, {"width": 3, "output": "z"}])
def test_another_interface_is_not_swapped_in(model: ServedModel, tmp_path: Path, change: dict[str, object]) -> None:
    other = load(write(tmp_path / "n.onnx", **change))  # type: ignore[arg-type]
    for take in (model.swap, model.register):
        with pytest.raises(VerificationError, match=r"model 'm': expected the outputs \[\('y', 'FP32'\)\], got"):
            take(other)
    assert model.active.point_id == "original"


def test_swaps_under_load_give_answers_of_one_of_the_two(model: ServedModel, tmp_path: Path) -> None:
    runtimes = [model.active, load(write(tmp_path / "n.onnx", 2.0), "fast")]
    wrong: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            value = answer(model.active)
            if value not in (1.0, 2.0):
                wrong.append(value)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for index in range(300):
        model.swap(runtimes[index % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_wishes(model: ServedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "n.onnx")
    model.register(load(path, "middle", PointFigures(6.0, None, 0.02)))
    model.register(load(path, "fast", PointFigures(3.0, None, 0.2)))
    model.register(load(path, "unknown"))

    def chosen(**wish: float) -> str:
        return model.runtime_for(**wish).point_id

    assert chosen() == "original"
    assert chosen(max_latency_ms=20) == "original"
    assert chosen(max_latency_ms=7) == "middle"
    assert chosen(max_latency_ms=3) == "fast"
    assert chosen(max_latency_ms=1) == "original"
    assert chosen(max_error=0.5) == "fast"
    assert chosen(max_error=0.1) == "middle"
    assert chosen(max_error=0) == "original"
    assert chosen(max_latency_ms=7, max_error=0.01) == "original"
    model.unregister("middle")
    assert chosen(max_latency_ms=7) == "fast"
    assert set(model.registered) == {"fast", "unknown"}


def test_deadlines(model: ServedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "n.onnx")
    model.register(load(path, "middle", PointFigures(6.0, 9.0, 0.02)))
    model.register(load(path, "fast", PointFigures(3.0, None, 0.2)))
    model.register(load(path, "unknown"))

    def chosen(remaining_ms: float, max_error: float | None = None) -> str:
        return model.in_time(model.active, remaining_ms, max_error).point_id

    assert chosen(1e9) == "original"
    assert chosen(10) == "original"
    assert chosen(9.9) == "middle"
    assert chosen(4) == "fast"
    assert chosen(1) == "fast"
    assert chosen(4, max_error=0.1) == "middle"
    assert chosen(4, max_error=0) == "original"
    model.is_fixed = True
    assert chosen(4) == "original"
    model.is_fixed = False
    model.active.figures = PointFigures()
    assert chosen(4) == "original"


class TestRepository:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> ModelRepository:
        return ModelRepository(
            lambda: {path.stem: ModelSource(path.stem, path) for path in tmp_path.glob("*.onnx")}, threads=1
        )

    def test_listeners_see_a_model_before_its_first_request(self, repository: ModelRepository, tmp_path: Path) -> None:
        seen: list[tuple[str, bool]] = []

        def reachable(model: ServedModel) -> bool:
            return any(ready is model for ready in repository.models())

        repository.on_loaded(lambda model: seen.append(("loaded", reachable(model))))
        repository.on_unloaded(lambda model: seen.append(("unloaded", reachable(model))))
        write(tmp_path / "a.onnx")
        repository.load("a")
        write(tmp_path / "a.onnx", 2.0)
        repository.load("a")
        repository.load("a")
        repository.unload("a")
        assert seen == [("loaded", False), ("loaded", False), ("unloaded", False), ("unloaded", False)]

    def test_states_and_codes(self, repository: ModelRepository, tmp_path: Path) -> None:
        def code(name: str, version: str = "") -> grpc.StatusCode:
            with pytest.raises(RequestError) as caught:
                repository.get(name, version)
            return caught.value.code

        write(tmp_path / "a.onnx")
        (tmp_path / "broken.onnx").write_text("no")
        assert set(repository.reload()) == {"broken"}
        assert repository.get("a", "1") is repository.get("a")
        assert code("a", "2") is grpc.StatusCode.NOT_FOUND
        assert code("b") is grpc.StatusCode.NOT_FOUND
        assert code("broken") is grpc.StatusCode.UNAVAILABLE
        repository.unload("a")
        assert code("a") is grpc.StatusCode.UNAVAILABLE
        assert [(line.name, line.state) for line in repository.index()] == [
            ("a", "UNAVAILABLE"),
            ("broken", "UNAVAILABLE"),
        ]

    def test_reload_drops_what_has_vanished_and_keeps_what_broke(
        self, repository: ModelRepository, tmp_path: Path
    ) -> None:
        for name in "ab":
            write(tmp_path / f"{name}.onnx")
        repository.reload()
        kept = repository.get("b")
        (tmp_path / "a.onnx").unlink()
        (tmp_path / "b.onnx").write_text("no")
        assert set(repository.reload()) == {"b"}
        assert [model.name for model in repository.models()] == ["b"]
        assert repository.get("b") is kept
        assert answer(kept.active) == 1.0
