"""A network for tests of planning: small, but convolutions dominate its latency and low rank fits it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

TINY_SHAPE = (1, 8, 20, 20)


def make_tiny_network(*, seed: int = 0, width: int = 32) -> onnx.ModelProto:
    """Two 3x3 convolutions with Relu, low-rank by construction, a 1x1 one and a pool: small, but convolutions dominate."""
    random = np.random.default_rng(seed)

    def low_rank_kernel(outputs: int, inputs: int, rank: int) -> np.ndarray:
        left = random.normal(size=(outputs, rank))
        right = random.normal(size=(rank, inputs * 9))
        return (left @ right / np.sqrt(rank * inputs * 9)).reshape(outputs, inputs, 3, 3).astype(np.float32)

    weights = {
        "w1": low_rank_kernel(width, 8, 12),
        "w2": low_rank_kernel(width, width, 12),
        "w3": (random.normal(size=(6, width, 1, 1)) / np.sqrt(width)).astype(np.float32),
        "b1": random.normal(size=width).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["y1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y1"], ["z1"], name="relu1"),
        helper.make_node("Conv", ["z1", "w2"], ["y2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y2"], ["z2"], name="relu2"),
        helper.make_node("Conv", ["z2", "w3"], ["y3"], name="third"),
        helper.make_node("GlobalAveragePool", ["y3"], ["out"], name="pool"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *TINY_SHAPE[1:]])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["N", 6, 1, 1])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
