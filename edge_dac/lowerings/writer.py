"""Writes ONNX nodes under a layer's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FloatArray
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.shared_constants import make_tensor


def node_attributes(kernel: tuple[int, ...], attributes: ConvAttributes) -> dict[str, Any]:
    """As a ``Conv`` node has them."""
    padding: dict[str, Any] = {"pads": attributes.pads}
    if attributes.auto_pad != "NOTSET":
        padding = {"auto_pad": attributes.auto_pad}
    return {
        "kernel_shape": kernel,
        "strides": attributes.strides,
        "dilations": attributes.dilations,
        "group": attributes.groups,
        **padding,
    }


class Writer:
    """Collects the nodes and constants that stand in the place of ``layer``.

    Every method that writes a node returns the name of its output tensor. ``suffix`` makes names unique within the
    layer; ``output`` overrides the name of the tensor, for the node that writes the layer's own output.
    """

    def __init__(self, layer: ConvLayer) -> None:
        self._layer = layer
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def finish(self) -> LoweredLayer:
        """All that was written."""
        return LoweredLayer(self._nodes, self._initializers)

    def constant(self, suffix: str, values: FloatArray) -> str:
        """A constant in the layer's dtype."""
        return self._initializer(suffix, np.ascontiguousarray(values, dtype=self._layer.dtype))

    def integers(self, suffix: str, values: tuple[int, ...] | list[int]) -> str:
        """An int64 constant: a shape, axes or bounds."""
        return self._initializer(suffix, np.asarray(values, dtype=np.int64))

    def indices(self, suffix: str, values: npt.NDArray[np.integer[Any]]) -> str:
        """An int32 constant: many indices for ``Gather``."""
        return self._initializer(suffix, np.ascontiguousarray(values, dtype=np.int32))

    def values(self, suffix: str, values: npt.NDArray[Any]) -> str:
        """A constant in a type of its own: 8-bit weights, scales."""
        return self._initializer(suffix, values)

    def node(self, operator: str, suffix: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """A node with one output."""
        name = f"{self._layer.name}/{suffix}"
        result = output or f"{name}/output"
        self._nodes.append(helper.make_node(operator, inputs, [result], name=name, **attributes))
        return result

    def convolution(
        self,
        suffix: str,
        source: str,
        weight: FloatArray,
        attributes: ConvAttributes,
        bias: FloatArray | None = None,
        output: str | None = None,
    ) -> str:
        """A factor: a ``Conv``, or where there are no spatial axes a product along the last axis.

        Args:
            suffix: name of the node within the layer.
            source: tensor ``[batch, in, *spatial]``; ``[..., in]`` where there are no spatial axes.
            weight: ``[out, in/groups, *kernel]``.
            attributes: of the convolution; ignored where there are no spatial axes.
            bias: ``[out]`` or None.
            output: name of the tensor that is written.
        """
        if weight.ndim == 2:
            return self._product(suffix, source, weight, bias, output)
        inputs = [source, self.constant(f"{suffix}/weight", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{suffix}/bias", bias))
        return self.node("Conv", suffix, inputs, output, **node_attributes(weight.shape[2:], attributes))

    def chain(
        self,
        source: str,
        factors: tuple[Factor, ...],
        start: int = 0,
        bias: FloatArray | None = None,
        output: str | None = None,
    ) -> str:
        """Factors one after the other, numbered from ``start``; ``bias`` and ``output`` belong to the last.

        Returns:
            the name of the last tensor; ``source`` where there are no factors.
        """
        for index, factor in enumerate(factors, start):
            is_last = index == start + len(factors) - 1
            source = self.convolution(
                f"factor{index}",
                source,
                factor.weight,
                factor.attributes,
                bias if is_last else None,
                output if is_last else None,
            )
        return source

    def add(self, suffix: str, left: str, right: str, output: str | None = None) -> str:
        """The sum of two tensors."""
        return self.node("Add", suffix, [left, right], output)

    def reshape(self, suffix: str, source: str, shape: tuple[int, ...]) -> str:
        """A new shape; one dimension may be -1."""
        return self.node("Reshape", suffix, [source, self.integers(f"{suffix}/shape", shape)])

    def split(self, suffix: str, source: str, count: int, axis: int) -> list[str]:
        """``count`` equal parts along ``axis``."""
        name = f"{self._layer.name}/{suffix}"
        parts = [f"{name}/output{part}" for part in range(count)]
        attributes: dict[str, Any] = {"num_outputs": count} if self._layer.opset >= 18 else {}
        self._nodes.append(helper.make_node("Split", [source], parts, name=name, axis=axis, **attributes))
        return parts

    def quantize_dynamically(self, suffix: str, source: str) -> tuple[str, str, str]:
        """``source`` in 8 bits, with the scale and the zero point that its values of this run ask for."""
        name = f"{self._layer.name}/{suffix}"
        outputs = (f"{name}/output", f"{name}/scale", f"{name}/zero")
        self._nodes.append(helper.make_node("DynamicQuantizeLinear", [source], outputs, name=name))
        return outputs

    def _product(
        self, suffix: str, source: str, weight: FloatArray, bias: FloatArray | None, output: str | None
    ) -> str:
        if self._layer.operator == "Gemm":
            inputs = [source, self.constant(f"{suffix}/weight", weight)]
            addend = np.zeros(len(weight)) if bias is None else bias  # C is not optional before opset 11
            inputs.append(self.constant(f"{suffix}/bias", addend))
            return self.node("Gemm", suffix, inputs, output, transB=1)
        matrix = self.constant(f"{suffix}/weight", weight.T)
        if bias is None:
            return self.node("MatMul", suffix, [source, matrix], output)
        product = self.node("MatMul", suffix, [source, matrix])
        return self.add(f"{suffix}/add", product, self.constant(f"{suffix}/bias", bias), output)

    def _initializer(self, suffix: str, values: npt.NDArray[Any]) -> str:
        name = f"{self._layer.name}/{suffix}"
        self._initializers.append(make_tensor(values, name))
        return name
