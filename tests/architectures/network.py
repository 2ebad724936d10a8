"""A small writer of ONNX graphs, one method an operator. Values are names of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.generic]


class Network:
    """A graph under construction, with one image input ``[1, channels, height, width]``.

    Args:
        constant_nodes: write weights as ``Constant`` nodes, not as initializers.
    """

    def __init__(
        self,
        name: str,
        channels: int,
        height: int,
        width: int | str,
        *,
        seed: int = 0,
        opset: int = 13,
        constant_nodes: bool = False,
    ) -> None:
        self.name = name
        self.opset = opset
        self.image = "image"
        self._input = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, height, width])
        self._channels = {"image": channels}
        self._generator = np.random.default_rng(seed)
        self._constant_nodes = constant_nodes
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def conv(
        self,
        x: str,
        out: int,
        kernel: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        pad: int | tuple[int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """A convolution, by default with the padding that keeps the size at stride 1."""
        kh, kw = _pair(kernel)
        ph, pw = (dilation * (kh // 2), dilation * (kw // 2)) if pad is None else _pair(pad)
        per_group = self._channels[x] // groups
        inputs = [x, self._weight((out, per_group, kh, kw), fan_in=per_group * kh * kw)]
        if bias:
            inputs.append(self.vector(out))
        return self.add_node(
            "Conv",
            inputs,
            channels=out,
            kernel_shape=[kh, kw],
            strides=_pair(stride),
            pads=[ph, pw, ph, pw],
            dilations=[dilation, dilation],
            group=groups,
        )

    def conv_relu(self, x: str, out: int, kernel: int | tuple[int, int] = 3, **options: Any) -> str:
        return self.relu(self.conv(x, out, kernel, **options))

    def conv_norm(self, x: str, out: int, kernel: int | tuple[int, int] = 3, **options: Any) -> str:
        """A convolution without bias, then batch normalization."""
        return self.batch_norm(self.conv(x, out, kernel, bias=False, **options))

    def conv_transpose(self, x: str, out: int) -> str:
        """Twice the size: kernel 2, stride 2."""
        weight = self._weight((self._channels[x], out, 2, 2), fan_in=self._channels[x])
        return self.add_node("ConvTranspose", [x, weight], channels=out, kernel_shape=[2, 2], strides=[2, 2])

    def batch_norm(self, x: str) -> str:
        channels = self._channels[x]
        generator = self._generator
        scale, variance = generator.uniform(0.5, 1.5, (2, channels)).astype(np.float32)
        shift, mean = generator.normal(0, 0.1, (2, channels)).astype(np.float32)
        constants = [self.constant(values) for values in (scale, shift, mean, variance)]
        return self.add_node("BatchNormalization", [x, *constants], channels=channels, epsilon=1e-5)

    def relu(self, x: str) -> str:
        return self.add_node("Relu", [x])

    def relu6(self, x: str) -> str:
        bounds = [self.constant(np.asarray(bound, np.float32)) for bound in (0.0, 6.0)]
        return self.add_node("Clip", [x, *bounds])

    def max_pool(self, x: str, kernel: int = 2, *, stride: int | None = None, pad: int = 0, ceil: bool = False) -> str:
        return self.add_node(
            "MaxPool",
            [x],
            kernel_shape=[kernel, kernel],
            strides=[stride or kernel] * 2,
            pads=[pad] * 4,
            ceil_mode=int(ceil),
        )

    def add(self, left: str, right: str) -> str:
        return self.add_node("Add", [left, right], channels=self._channels[left])

    def concat(self, values: Sequence[str], axis: int = 1) -> str:
        return self.add_node("Concat", list(values), channels=sum(self._channels[v] for v in values), axis=axis)

    def global_average(self, x: str) -> str:
        """``[1, channels]``."""
        return self.add_node("Flatten", [self.add_node("GlobalAveragePool", [x])], axis=1)

    def flatten(self, x: str, features: int) -> str:
        return self.add_node("Flatten", [x], channels=features, axis=1)

    def gemm(self, x: str, out: int) -> str:
        features = self._channels[x]
        weight = self._weight((out, features), fan_in=features)
        bias = self.vector(out)
        return self.add_node("Gemm", [x, weight, bias], channels=out, transB=1)

    def matmul(self, x: str, out: int) -> str:
        """On the last axis."""
        features = self._channels[x]
        return self.add_node("MatMul", [x, self._weight((features, out), fan_in=features)], channels=out)

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        return self.add_node("Reshape", [x, self.constant(np.asarray(shape, np.int64))])

    def vector(self, length: int) -> str:
        """A constant with random values."""
        return self.constant(self._generator.normal(0, 0.1, length).astype(np.float32))

    def channels(self, x: str) -> int:
        """Channels of a value (features, for a matrix)."""
        return self._channels[x]

    def constant(self, values: Array) -> str:
        name = f"constant_{len(self._initializers) + len(self._nodes)}"
        tensor = numpy_helper.from_array(np.asarray(values), name)
        if self._constant_nodes:
            self._nodes.append(helper.make_node("Constant", [], [name], name, value=tensor))
        else:
            self._initializers.append(tensor)
        return name

    def add_node(self, operator: str, inputs: list[str], *, channels: int | None = None, **attributes: object) -> str:
        """Any operator with one output; by default it keeps the channels of its first input."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [f"{name}_out"], name, **attributes))
        self._channels[f"{name}_out"] = self._channels[inputs[0]] if channels is None else channels
        return f"{name}_out"

    def build(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The finished and checked model."""
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self._nodes, self.name, [self._input], values, self._initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=7)
        # The checker wants output shapes; inference finds them.
        inferred = list(onnx.shape_inference.infer_shapes(model).graph.output)
        del model.graph.output[:]
        model.graph.output.extend(inferred)
        onnx.checker.check_model(model)
        return model

    def _weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        spread = math.sqrt(2 / fan_in)
        return self.constant(self._generator.standard_normal(shape, np.float32) * np.float32(spread))


def scaled(channels: int, width: float) -> int:
    """``channels`` of a network that is ``width`` times as wide, a multiple of 4."""
    return max(4, round(channels * width / 4) * 4)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
