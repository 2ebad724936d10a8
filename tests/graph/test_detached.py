"""Models whose constants lie beside them compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge_dac.device.probes import open_session, session_options
from edge_dac.graph.detached import DETACHED_BYTES, detach
from edge_dac.shared_constants import SHARED_BYTES


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


def test_rewrites_of_the_runtime_see_what_is_given() -> None:
    """It folds neighbours into weights that it reads in place: each must get the new ones where there are any."""
    rng = np.random.default_rng(0)
    constants = {
        "filters": rng.normal(size=(512, 64, 3, 3)),
        "scales": rng.normal(size=(512, 1, 1)),
        "gamma": rng.uniform(1, 2, 512),
        "beta": rng.normal(size=512),
        "matrix": rng.normal(size=(512, 600)),
        "turned": rng.normal(size=(600, 512)),
        "doubled": rng.normal(size=(512, 600)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["a", "scales"], ["b"]),
        helper.make_node("BatchNormalization", ["b", "gamma", "beta", "beta", "gamma"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "matrix"], ["f"]),
        helper.make_node("Transpose", ["turned"], ["upright"]),
        helper.make_node("Gemm", ["e", "upright"], ["g"], alpha=0.5),
        helper.make_node("Add", ["doubled", "doubled"], ["fourfold"]),
        helper.make_node("MatMul", ["e", "fourfold"], ["h"]),
        helper.make_node("Sum", ["f", "g", "h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 600])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"x": rng.normal(size=(1, 64, 8, 8)).astype(np.float32)}
    expected = onnxruntime.InferenceSession(model.SerializeToString(), session_options(1)).run(None, feeds)[0]
    detached = detach(model)
    assert max(array.nbytes for array in detached.constants.values()) >= SHARED_BYTES
    np.testing.assert_array_equal(open_session(detached, session_options(1)).run(None, feeds)[0], expected)
