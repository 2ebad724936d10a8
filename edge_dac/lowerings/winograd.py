"""Winograd's minimal filtering in standard ONNX operators: exact algebra, fewer products.

A stride-1 convolution over a map of known size becomes, with channels last (``N`` images, ``T`` tiles, ``s`` products
and ``m`` outputs of a tile along an axis; ``F(m x m, k x k)``)::

    x [N, c, H, W]
      Transpose, Pad by one zero pixel   [N, H*W + 1, c]
      Gather overlapping windows         [N, s*s, T, c]     all padding, dilation and overlap is in the indices
      MatMul B^T, once for each axis     [N, s*s, T, c]
      MatMul kernels [s*s, c, n]         [N, s*s, T, n]     where the time goes
      MatMul A^T, once for each axis     [N, m*m, T, n]
      Gather pixels                      [N, H', W', n]
      Transpose                          [N, n, H', W']

Each ``Gather`` moves rows of whole channels, so it runs at the speed of a copy. The two ``Transpose`` are those that
ONNX Runtime merges with its own layout changes, or cancels between neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_dac.convolution import ConvLayer, Factor, FactorShape, FloatArray, Reason, Refusal
from edge_dac.lowerings.cook_toom import Transform, cook_toom
from edge_dac.lowerings.factorwise import FactorwiseLowering, Place
from edge_dac.lowerings.tiling import Tiling, explicit_pads, tile_axis, tile_map
from edge_dac.lowerings.writer import Writer

MIN_OPSET = 11
"""``Pad`` takes its pads as an input from here on."""
_OUTPUTS_AT_ONCE = 64
"""Kernels are transformed in parts: in float64, all at once, they would take twice the memory of the result."""


@dataclass(frozen=True, slots=True)
class Winograd(FactorwiseLowering):
    """Writes every stride-1 factor with a wide enough kernel axis by minimal filtering, the others directly.

    Attributes:
        name: of the lowering; says ``m`` for a kernel extent of 3.
        size: products of a tile along an axis, ``s = m + k - 1``; the tile ``m`` shrinks as the kernel extent k grows.
        packed: one ``MatMul`` with a constant matrix for each of the ``s * s`` products, which ONNX Runtime packs when
            it loads the model, instead of one batched ``MatMul``, whose matrices it packs in every run.
    """

    name: str
    size: int
    packed: bool = False

    def refuse_layer(self, layer: ConvLayer) -> Refusal | None:
        """Applies to float32 convolutions over 1 or 2 axes whose input size the model fixes."""
        if layer.operator != "Conv" or layer.axes not in (1, 2):
            message = f"needs a convolution over 1 or 2 axes, got {layer.operator} over {layer.axes}"
            return Refusal(layer.name, Reason.UNSUPPORTED_OPERATOR, message)
        if np.dtype(layer.dtype) != np.float32:
            message = f"needs float32, got {np.dtype(layer.dtype).name}: the transforms lose too many digits"
            return Refusal(layer.name, Reason.UNSUPPORTED_TYPE, message)
        if layer.opset < MIN_OPSET:
            message = f"needs operator set {MIN_OPSET} or newer, got {layer.opset}"
            return Refusal(layer.name, Reason.UNSUPPORTED_OPERATOR, message)
        if None in layer.input_size or not layer.static_size:
            return Refusal(layer.name, Reason.UNKNOWN_SPATIAL_SIZE, "needs an input whose height and width are fixed")
        return None

    def refuse_factor(self, layer: ConvLayer, shape: FactorShape) -> Refusal | None:
        """Applies to ungrouped factors of stride 1 with a kernel that leaves a tile of at least 2 outputs."""
        attributes = shape.attributes
        if max(shape.kernel) == 1 or max(shape.kernel) >= self.size:
            message = f"needs kernel extents of 1 to {self.size - 1}, one above 1, got {shape.kernel}"
            return Refusal(layer.name, Reason.KERNEL_SHAPE, message)
        if attributes.groups != 1:
            return Refusal(layer.name, Reason.GROUPS, f"needs 1 group, got {attributes.groups}")
        if max(attributes.strides) > 1:
            return Refusal(layer.name, Reason.STRIDE, f"needs stride 1, got {attributes.strides}")
        return None

    def write_factor(self, writer: Writer, factor: Factor, place: Place) -> str:
        """Transforms, products and the way back."""
        return _WinogradFactor(self, writer, factor, place).write()


class _WinogradFactor:
    """One factor on its way into nodes."""

    def __init__(self, lowering: Winograd, writer: Writer, factor: Factor, place: Place) -> None:
        self._lowering = lowering
        self._writer = writer
        self._place = place
        self._out, self._in, *kernel = factor.weight.shape
        self._transforms = [cook_toom(lowering.size, extent) for extent in kernel]
        self._sizes = [transform.size for transform in self._transforms]
        self._places = math.prod(self._sizes)
        self._tiling = _tile(factor, place, self._transforms)
        self._kernels = _transform_kernel(factor.weight, self._transforms)

    def write(self) -> str:
        """All nodes, channels first to channels first."""
        count = self._tiling.count
        data = self._transform("input", self._write_windows(), count * self._in)
        products = self._multiply_packed(data) if self._lowering.packed else self._multiply_batched(data)
        return self._write_pixels(self._transform("output", products, count * self._out))

    def _write_windows(self) -> str:
        """``[N, prod(s), T, c]`` from ``[N, c, *size]``; a zero pixel follows the map if any window reaches outside."""
        axes = len(self._transforms)
        last = self._node("Transpose", "channels_last", [self._place.source], perm=[0, *range(2, axes + 2), 1])
        pixels = self._reshape("pixels", last, self._tiling.pixels, self._in)
        if self._tiling.is_padded:
            pads = self._writer.integers(f"{self._place.suffix}/zero_pixel/pads", [0, 0, 0, 0, 1, 0])
            pixels = self._node("Pad", "zero_pixel", [pixels, pads])
        window = self._writer.indices(f"{self._place.suffix}/windows/pixels", self._tiling.window)
        return self._node("Gather", "windows", [pixels, window], axis=1)

    def _transform(self, side: str, data: str, row: int) -> str:
        """Apply a side's matrix along each axis; rows of ``row`` contiguous values follow the axes."""
        for axis, transform in enumerate(self._transforms):
            if transform.size == 1:
                continue
            inner = math.prod(self._sizes[axis + 1 :]) * row
            data = self._reshape(f"{side}{axis}/rows", data, transform.size, inner)
            matrix = transform.input if side == "input" else transform.output
            data = self._node("MatMul", f"{side}{axis}", [self._constant(f"{side}{axis}/matrix", matrix), data])
        return data

    def _multiply_batched(self, data: str) -> str:
        data = self._reshape("places", data, self._places, self._tiling.count, self._in)
        return self._node("MatMul", "product", [data, self._constant("kernels", self._kernels)])

    def _multiply_packed(self, data: str) -> str:
        data = self._reshape("places", data, self._places * self._tiling.count, self._in)
        parts = self._writer.split(f"{self._place.suffix}/split", data, self._places, axis=1)
        products = []
        for index, part in enumerate(parts):
            kernel = self._constant(f"kernel{index}", self._kernels[index])
            products.append(self._node("MatMul", f"product{index}", [part, kernel]))
        return self._node("Concat", "product", products, axis=1)

    def _write_pixels(self, tiles: str) -> str:
        """``[N, n, *output size]`` from ``[N, prod(m), T, n]``, with the bias."""
        axes = len(self._transforms)
        places = math.prod(transform.tile for transform in self._transforms)
        rows = self._reshape("rows", tiles, places * self._tiling.count, self._out)
        place = self._writer.indices(f"{self._place.suffix}/assemble/rows", self._tiling.place)
        last = self._node("Gather", "assemble", [rows, place], axis=1)
        if self._place.bias is not None:
            # Repeated along a row of pixels: the addition is several times faster in long runs than in runs of n.
            bias = np.broadcast_to(self._place.bias, (self._tiling.place.shape[-1], self._out))
            last = self._node("Add", "add", [last, self._constant("bias", bias)])
        perm = [0, axes + 1, *range(1, axes + 1)]
        return self._node("Transpose", "channels_first", [last], self._place.output, perm=perm)

    def _node(
        self, operator: str, name: str, inputs: list[str], output: str | None = None, **attributes: object
    ) -> str:
        return self._writer.node(operator, f"{self._place.suffix}/{name}", inputs, output, **attributes)

    def _reshape(self, name: str, source: str, *shape: int) -> str:
        """To ``[-1, *shape]``."""
        return self._writer.reshape(f"{self._place.suffix}/{name}", source, (-1, *shape))

    def _constant(self, name: str, values: FloatArray) -> str:
        return self._writer.constant(f"{self._place.suffix}/{name}", values)


def _tile(factor: Factor, place: Place, transforms: list[Transform]) -> Tiling:
    attributes = explicit_pads(factor)
    size = [length for length in place.size if length is not None]
    lengths = [length or 0 for length in attributes.output_size(factor.shape.kernel, tuple(size))]
    axes = [
        tile_axis(transform, length, attributes.dilations[axis], attributes.pads[axis])
        for axis, (transform, length) in enumerate(zip(transforms, lengths, strict=True))
    ]
    return tile_map(axes, [transform.tile for transform in transforms], size)


def _transform_kernel(weight: FloatArray, transforms: list[Transform]) -> FloatArray:
    """``G`` along each kernel axis, computed in float64: ``[out, in, *kernel]`` to float32 ``[prod(sizes), in, out]``."""
    outputs, inputs = weight.shape[:2]
    kernels = np.empty((math.prod(transform.size for transform in transforms), inputs, outputs), np.float32)
    for start in range(0, outputs, _OUTPUTS_AT_ONCE):
        part = weight[start : start + _OUTPUTS_AT_ONCE].astype(np.float64)
        for axis, transform in enumerate(transforms):
            part = np.moveaxis(np.tensordot(part, transform.kernel, axes=(axis + 2, 1)), -1, axis + 2)
        kernels[:, :, start : start + _OUTPUTS_AT_ONCE] = part.reshape(*part.shape[:2], -1).transpose(2, 1, 0)
    return kernels
