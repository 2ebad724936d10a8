"""Winograd's minimal filtering in standard ONNX operators: exact algebra, fewer products.

A stride-1 convolution over a map of known size becomes, with channels last (``N`` images, ``T`` tiles, ``s`` products
and ``m`` outputs of a tile along an axis; ``F(m x m, k x k)``)::

    x [N, c, H, W]
      Transpose                          [N, H, W, c]
      Pad, or crop, to a strip of rows   [N, h, w, c]
      Gather overlapping windows         [N, s*s, T, c]     all dilation and overlap is in the indices
      MatMul B^T, once for each axis     [N, s*s, T, c]
      MatMul kernels [s*s, c, n]         [N, s*s, T, n]     where the time goes
      MatMul A^T, once for each axis     [N, m*m, T, n]
      Gather pixels, Add bias            [N, h', W', n]
      Concat of all strips               [N, H', W', n]
      Transpose                          [N, n, H', W']

Each ``Gather`` moves rows of whole channels, so it runs at the speed of a copy. A strip is as high as fits the cache:
the transforms move several times the bytes of the map, which would come from memory otherwise. The two ``Transpose``
are those that ONNX Runtime merges with its own layout changes, or cancels between neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_dac.convolution import ConvLayer, Factor, FactorShape, FloatArray, Reason, Refusal
from edge_dac.lowerings.cook_toom import Transform, cook_toom
from edge_dac.lowerings.factorwise import FactorwiseLowering, Place
from edge_dac.lowerings.tiling import AxisTiling, Tiling, explicit_pads, tile_axis, tile_map
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
            it loads the model, instead of one batched ``MatMul``, whose matrices it packs in every run. Never in strips:
            each would need ``s * s`` nodes.
        strip_bytes: size of the gathered windows of a strip; about the second-level cache of a core.
    """

    name: str
    size: int
    packed: bool = False
    strip_bytes: int = 1_500_000

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


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What strips of the same height share: their tiles, and the names of constants."""

    tiling: Tiling
    windows: str
    places: str
    bias: str | None


class _WinogradFactor:
    """One factor on its way into nodes."""

    def __init__(self, lowering: Winograd, writer: Writer, factor: Factor, place: Place) -> None:
        self._lowering = lowering
        self._writer = writer
        self._place = place
        self._out, self._in, *kernel = factor.weight.shape
        self._attributes = explicit_pads(factor)
        self._transforms = [cook_toom(lowering.size, extent) for extent in kernel]
        self._sizes = [transform.size for transform in self._transforms]
        self._places = math.prod(self._sizes)
        self._size = [length or 0 for length in place.size]
        self._output_size = [length or 0 for length in self._attributes.output_size(tuple(kernel), tuple(self._size))]
        self._constants: dict[str, str] = {}
        self._kernels = _transform_kernel(factor.weight, self._transforms)

    def write(self) -> str:
        """All nodes, channels first to channels first."""
        axes = len(self._transforms)
        source = self._node("Transpose", "channels_last", [self._place.source], perm=[0, *range(2, axes + 2), 1])
        height = self._strip_height()
        cuts: dict[int, _Cut] = {}
        strips: list[str] = []
        for start in range(0, self._output_size[0], height):
            rows = min(height, self._output_size[0] - start)
            if rows not in cuts:
                cuts[rows] = self._cut(rows)
            strips.append(self._write_strip(f"strip{len(strips)}", source, start, cuts[rows]))
        last = strips[0] if len(strips) == 1 else self._node("Concat", "strips", strips, axis=1)
        perm = [0, axes + 1, *range(1, axes + 1)]
        return self._node("Transpose", "channels_first", [last], self._place.output, perm=perm)

    def _strip_height(self) -> int:
        """Output rows of a strip: as many as fit the cache, but with no fewer tiles than the kernels have columns.

        With few tiles to each kernel, more time would go into reading the kernels than into using them.
        """
        length, transform, dilation = self._output_size[0], self._transforms[0], self._attributes.dilations[0]
        reach = dilation * (transform.kernel.shape[1] - 1)
        pads = self._attributes.pads[:: len(self._transforms)]
        if self._lowering.packed or max(pads) > reach:  # a strip could lie in the padding altogether
            return length
        tiles = dilation * math.prod(axis.count for axis in self._tile_axes(transform.tile)[1:])
        wanted = max(self._out, self._lowering.strip_bytes / (4 * self._places * self._in))
        all_steps = -(-length // (dilation * transform.tile))
        steps = min(max(round(wanted / tiles), 1), all_steps)
        even_steps: int = -(-all_steps // -(-all_steps // steps))
        return even_steps * dilation * transform.tile

    def _tile_axes(self, rows: int) -> list[AxisTiling]:
        lengths = [rows, *self._output_size[1:]]
        return [tile_axis(*each) for each in zip(self._transforms, lengths, self._attributes.dilations, strict=True)]

    def _cut(self, rows: int) -> _Cut:
        tiling = tile_map(self._tile_axes(rows), [transform.tile for transform in self._transforms])
        suffix = f"{self._place.suffix}/rows{rows}"
        bias = None
        if self._place.bias is not None:
            # Repeated along a row of pixels: the addition is several times faster in long runs than in runs of n.
            run = tiling.place.shape[-1]
            bias = self._writer.constant(f"{suffix}/bias", np.broadcast_to(self._place.bias, (run, self._out)))
        windows = self._writer.indices(f"{suffix}/windows", tiling.window)
        return _Cut(tiling, windows, self._writer.indices(f"{suffix}/places", tiling.place), bias)

    def _write_strip(self, name: str, source: str, start: int, cut: _Cut) -> str:
        """``[N, rows, *rest of the output size, n]`` from ``[N, *size, c]``."""
        count = cut.tiling.count
        pixels = self._pad(name, source, start, cut.tiling.lengths)
        pixels = self._reshape(f"{name}/pixels", pixels, math.prod(cut.tiling.lengths), self._in)
        data = self._node("Gather", f"{name}/windows", [pixels, cut.windows], axis=1)
        data = self._transform(name, "input", data, count * self._in)
        products = (
            self._multiply_packed(name, data, count) if self._lowering.packed else self._multiply(name, data, count)
        )
        tiles = self._transform(name, "output", products, count * self._out)
        tile_places = math.prod(transform.tile for transform in self._transforms)
        tiles = self._reshape(f"{name}/tiles", tiles, tile_places * count, self._out)
        rows = self._node("Gather", f"{name}/assemble", [tiles, cut.places], axis=1)
        return rows if cut.bias is None else self._node("Add", f"{name}/add", [rows, cut.bias])

    def _pad(self, name: str, source: str, start: int, lengths: tuple[int, ...]) -> str:
        """The part of the padded input that a strip from output row ``start`` reads: negative pads crop."""
        begins = [pad - skipped for pad, skipped in zip(self._attributes.pads, (start, 0), strict=False)]
        begins = begins[: len(lengths)]
        ends = [want - have - begin for want, have, begin in zip(lengths, self._size, begins, strict=True)]
        if not any(begins) and not any(ends):
            return source
        pads = self._writer.integers(f"{self._place.suffix}/{name}/pads", [0, *begins, 0, 0, *ends, 0])
        return self._node("Pad", f"{name}/pad", [source, pads])

    def _transform(self, strip: str, side: str, data: str, row: int) -> str:
        """Apply a side's matrix along each axis; rows of ``row`` contiguous values follow the axes."""
        for axis, transform in enumerate(self._transforms):
            if transform.size == 1:
                continue
            name = f"{strip}/{side}{axis}"
            inner = math.prod(self._sizes[axis + 1 :]) * row
            data = self._reshape(f"{name}/rows", data, transform.size, inner)
            matrix = transform.input if side == "input" else transform.output
            data = self._node("MatMul", name, [self._constant(f"{side}{axis}", matrix), data])
        return data

    def _multiply(self, strip: str, data: str, count: int) -> str:
        data = self._reshape(f"{strip}/data", data, self._places, count, self._in)
        return self._node("MatMul", f"{strip}/product", [data, self._constant("kernels", self._kernels)])

    def _multiply_packed(self, strip: str, data: str, count: int) -> str:
        data = self._reshape(f"{strip}/data", data, self._places * count, self._in)
        parts = self._writer.split(f"{self._place.suffix}/{strip}/split", data, self._places, axis=1)
        products = []
        for index, part in enumerate(parts):
            kernel = self._constant(f"kernel{index}", self._kernels[index])
            products.append(self._node("MatMul", f"{strip}/product{index}", [part, kernel]))
        return self._node("Concat", f"{strip}/product", products, axis=1)

    def _node(
        self, operator: str, name: str, inputs: list[str], output: str | None = None, **attributes: object
    ) -> str:
        return self._writer.node(operator, f"{self._place.suffix}/{name}", inputs, output, **attributes)

    def _reshape(self, name: str, source: str, *shape: int) -> str:
        """To ``[-1, *shape]``."""
        return self._writer.reshape(f"{self._place.suffix}/{name}", source, (-1, *shape))

    def _constant(self, name: str, values: FloatArray) -> str:
        """A constant that all strips share, written once."""
        if name not in self._constants:
            self._constants[name] = self._writer.constant(f"{self._place.suffix}/{name}/matrix", values)
        return self._constants[name]


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
