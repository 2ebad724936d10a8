"""Models whose constants lie beside them compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge_dac.device.probes import open_session, session_options
from edge_dac.graph.detached import DETACHED_BYTES, detach


def _model(dtype: type) -> onnx.ModelProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = np.random.default_rng(0).normal(size=(256, 256)).astype(dtype)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "large"], ["h"]), helper.make_node("Add", ["h", "small"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", element, [2, 256])],
        [helper.make_tensor_value_info("y", element, [2, 256])],
        [numpy_helper.from_array(weight, "large"), numpy_helper.from_array(weight[0], "small")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_session_answers_as_from_the_whole_model() -> None:
    for dtype in (np.float32, np.float16):
        model = _model(dtype)
        x = np.random.default_rng(1).normal(size=(2, 256)).astype(dtype)
        whole = model.SerializeToString()
        expected = onnxruntime.InferenceSession(whole, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        detached = detach(model)
        assert list(detached.constants) == ["large"]
        assert len(detached.content) < DETACHED_BYTES
        assert abs(detached.size_bytes - len(whole)) < 200
        session = open_session(detached, session_options(1))
        del detached, model
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


def test_constants_that_are_not_stored_raw_stay_inside() -> None:
    model = _model(np.float32)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    typed = helper.make_tensor("large", TensorProto.FLOAT, weight.shape, weight.ravel())
    model.graph.initializer[0].CopyFrom(typed)
    detached = detach(model)
    assert not detached.constants
    assert open_session(detached, session_options(1)).run(None, {"x": np.ones((2, 256), np.float32)})[0].shape == (
        2,
        256,
    )
