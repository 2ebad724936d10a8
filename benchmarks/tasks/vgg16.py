"""The architecture of VGG16 with seeded weights: thirteen 3x3 convolutions at 224x224. Speed and MACs only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import cache_folder
from benchmarks.tasks.task import Array, Run

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg16Speed:
    """The convolutions decide the time; the three dense layers are left out, for they hold 90 % of the weights."""

    name = "VGG16"
    metric = ""
    higher_is_better = True
    speedups: tuple[float, ...] = (3.0, 4.5)
    input_name = "image"
    input_shapes: Mapping[str, tuple[int, ...]] = {"image": (1, 3, 224, 224)}
    input_options: Mapping[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

    def model_path(self) -> Path:
        path = cache_folder() / "vgg16_features.onnx"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            onnx.save(_build(seed=0), partial)
            partial.replace(path)
        return path

    def calibration(self) -> Array:
        return np.random.default_rng(0).normal(size=(32, 3, 224, 224)).astype(np.float32)

    def evaluate(self, run: Run) -> dict[str, float]:
        return {}


def _build(seed: int) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    tensor, channels = "image", 3
    for block, widths in enumerate(BLOCKS, 1):
        for index, width in enumerate(widths, 1):
            name = f"conv{block}_{index}"
            kernel = random.normal(0, math.sqrt(2 / (9 * channels)), (width, channels, 3, 3)).astype(np.float32)
            weights.append(numpy_helper.from_array(kernel, f"{name}.weight"))
            weights.append(numpy_helper.from_array(np.zeros(width, np.float32), f"{name}.bias"))
            inputs = [tensor, f"{name}.weight", f"{name}.bias"]
            nodes.append(helper.make_node("Conv", inputs, [f"{name}.out"], name, pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"{name}.out"], [f"{name}.relu"], f"relu{block}_{index}"))
            tensor, channels = f"{name}.relu", width
        pooled = f"pool{block}.out" if block < len(BLOCKS) else "features"
        nodes.append(
            helper.make_node("MaxPool", [tensor], [pooled], f"pool{block}", kernel_shape=[2, 2], strides=[2, 2])
        )
        tensor = pooled
    graph = helper.make_graph(
        nodes,
        "vgg16_features",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 512, 7, 7])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model
