"""A model with operating points that can be told apart, made without the planner: point ``k`` multiplies by ``k``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_dac.artifacts.generations import Generation, GenerationJournal, State
from edge_dac.artifacts.store import ArtifactStore
from edge_dac.device.profile import profile_device
from edge_dac.planning.plan import Plan
from edge_dacd.runtime import file_digest


def write_scale_model(path: Path, factor: float) -> Path:
    """``y = factor * x`` on FLOAT [1, 8], with a name that makes each file differ."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        f"scale{factor:g}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def plan_for(model: Path, latency_ms: float, error: float, **changes) -> Plan:
    """A plan as the compiler would have made it on this device."""
    plan = Plan(
        model_digest=file_digest(model),
        choices=(),
        refused=(),
        input_shapes={"x": (1, 8)},
        threads=1,
        original_latency_ms=10.0,
        predicted_latency_ms=latency_ms,
        measured_latency_ms=latency_ms,
        measured_ratio=latency_ms / 10.0,
        latency_p95_ms=latency_ms * 1.1,
        predicted_error=error,
        macs=100,
        original_macs=200,
        device_fingerprint=profile_device().fingerprint,
    )
    return replace(plan, **changes)


class Prepared:
    """A model file and a state directory with points 2 and 3 stored, and generation 1 applied at point 2.

    ``plan_changes`` are fields of the plans that shall be other than usual.
    """

    def __init__(self, folder: Path, **plan_changes: Any) -> None:
        self.model = write_scale_model(folder / "scale.onnx", 1.0)
        self.state = folder / "state"
        self.store = ArtifactStore(self.state / "artifacts")
        self.ids = {"original": 1.0}
        for factor, latency_ms, error in ((2.0, 6.0, 0.01), (3.0, 3.0, 0.05)):
            data = write_scale_model(folder / "point.tmp", factor).read_bytes()
            point = self.store.put(data, plan_for(self.model, latency_ms, error, **plan_changes), {})
            self.ids[point.digest] = factor
        self.slow_point, self.fast_point = list(self.ids)[1:]
        journal = self.journal()
        start = journal.accept(Generation(0, State.PENDING, "set_budget", budget={"speedup": 1.5}))
        applied = replace(
            start, state=State.APPLIED, points=(self.slow_point, self.fast_point), active_point=self.slow_point
        )
        journal.decide(applied, model_digest=file_digest(self.model))

    def rewrite_model(self, factor: float) -> None:
        write_scale_model(self.model, factor)

    def journal(self) -> GenerationJournal:
        return GenerationJournal(self.state / "generations", "scale")


def write_small_network(path: Path) -> Path:
    """Two 3x3 convolutions with a ReLU between them on FLOAT [1, 16, 20, 20], seeded."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((32, inputs, 3, 3)).astype(np.float32) / 12 for inputs in (16, 32)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0"], ["h"], name="conv0", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w1"], ["y"], name="conv1", pads=[1, 1, 1, 1]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 20, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 20, 20])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
