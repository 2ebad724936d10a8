from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_dacd.framing import ModelInferRequest, ModelInferResponse, parse_request, serialize_answer
from edge_dacd.models import ModelSource, ServedModel
from edge_dacd.requests import NO_WISHES, Plan
from edge_dacd.runtime import Runtime
from edge_dacd.shared_memory import SharedMemory
from edge_dacd.status import RequestError


def served(folder: Path) -> ServedModel:
    """Doubles a row of floats of any length."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "test",
        [value("x", TensorProto.FLOAT, ["n"])],
        [value("y", TensorProto.FLOAT, ["n"])],
    )
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return ServedModel(ModelSource("m", path), Runtime.load(path, threads=1), 0.0)


def request(values: list[float], request_id: str = "") -> bytes:
    array = np.array(values, np.float32)
    message = ModelInferRequest(model_name="m", id=request_id, raw_input_contents=[array.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=array.shape)
    data: bytes = message.SerializeToString()
    return data


def answer(plan: Plan, data: bytes, model: ServedModel) -> ModelInferResponse:
    parsed, memory = parse_request(data), SharedMemory()
    arrays = model.active.run(plan.decode(parsed.raw, memory), plan.names)
    parts = plan.encode(parsed.id, plan.regions(memory), arrays)
    return ModelInferResponse.FromString(serialize_answer(parts))


def test_one_plan_answers_all_requests_with_its_head(tmp_path: Path) -> None:
    model = served(tmp_path)
    plan = Plan(model, parse_request(request([0, 0])).head.message, NO_WISHES, 1)
    for index in range(3):
        got = answer(plan, request([index, 2.5], f"id {index}"), model)
        expected = ModelInferResponse(model_name="m", model_version="1", id=f"id {index}")
        expected.outputs.add(name="y", datatype="FP32", shape=[2])
        expected.raw_output_contents.append(np.array([2 * index, 5], np.float32).tobytes())
        assert got == expected
    with pytest.raises(RequestError, match=r"input 'x': expected 8 bytes for FP32 \[2\], got 4"):
        plan.decode([bytes(4)], SharedMemory())
    with pytest.raises(RequestError, match=r"expected 1 entries, .* got 2"):
        plan.decode([bytes(8), bytes(8)], SharedMemory())


def test_answers_of_other_shapes_get_a_frame_of_their_own(tmp_path: Path) -> None:
    model = served(tmp_path)
    plan = Plan(model, parse_request(request([0, 0])).head.message, NO_WISHES, 1)
    for values in (np.zeros(2, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float64), np.zeros(2, np.float32)):
        got = ModelInferResponse.FromString(serialize_answer(plan.encode("", [None], [values])))
        assert list(got.outputs[0].shape) == list(values.shape)
        assert got.outputs[0].datatype == {4: "FP32", 8: "FP64"}[values.itemsize]
        assert got.raw_output_contents[0] == values.tobytes()


def test_a_plan_keeps_no_model_alive(tmp_path: Path) -> None:
    model = served(tmp_path)
    plan = Plan(model, parse_request(request([0, 0])).head.message, NO_WISHES, 1)
    assert plan.is_for(model)
    assert not plan.is_for(served(tmp_path))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
