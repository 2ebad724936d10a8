"""Convolutions with few outputs: one pointwise map for each kernel tap, then the sum of the shifted maps.

``y[o] = sum_t shift_t(z[o, t])`` with ``z = V x``, ``V [k*n, c]`` the kernel with its taps as outputs: the same products,
but as many outputs at once as there are taps. ONNX Runtime computes outputs in blocks of 8 (or 16), so that a layer
with one output wastes 7 of 8 products; 9 taps fill the block. The bias rides on the maps of the first tap, which reach each
output exactly once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, FactorShape, FloatArray, Reason, Refusal
from edge_dac.lowerings.factorwise import FactorwiseLowering, Place
from edge_dac.lowerings.tiling import explicit_pads
from edge_dac.lowerings.writer import Writer

MIN_OPSET = 10
"""``Slice`` takes its bounds as inputs from here on."""
MOST_OUTPUTS = 8
"""One block of outputs: beyond it nothing is wasted."""
MOST_MAPS = 128
"""Maps are written and read again. Layers of a music network (basic-pitch) with 9, 21 and 25 of them took .39, .14 and .88 of
their time, with 256 and 936 of them 22 and 7.5 times as long, and 1.7 GB."""
_TO_THE_END = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Taps(FactorwiseLowering):
    """Writes factors with few outputs as maps per tap and their shifted sum.

    Attributes:
        name: of the lowering.
        columns: only the taps along the last axis become maps; the kernel keeps its extent along the first. Fewer maps
            to add, for layers with more than two or three outputs.
    """

    name: str
    columns: bool = False

    def refuse_layer(self, layer: ConvLayer) -> Refusal | None:
        """Applies to convolutions over 1 or 2 axes in operator sets that can slice."""
        if layer.operator != "Conv" or layer.axes not in (1, 2):
            message = f"needs a convolution over 1 or 2 axes, got {layer.operator} over {layer.axes}"
            return Refusal(layer.name, Reason.UNSUPPORTED_OPERATOR, message)
        if layer.opset < MIN_OPSET:
            message = f"needs operator set {MIN_OPSET} or newer, got {layer.opset}"
            return Refusal(layer.name, Reason.UNSUPPORTED_OPERATOR, message)
        return None

    def refuse_factor(self, layer: ConvLayer, shape: FactorShape) -> Refusal | None:
        """Applies to ungrouped factors with at most 8 outputs and a kernel to take apart into not too many maps."""
        attributes = shape.attributes
        if attributes.groups != 1:
            return Refusal(layer.name, Reason.GROUPS, f"needs 1 group, got {attributes.groups}")
        if shape.out_channels > MOST_OUTPUTS:
            message = f"needs at most {MOST_OUTPUTS} outputs, got {shape.out_channels}"
            return Refusal(layer.name, Reason.NO_GAIN, message)
        if min(shape.kernel) == 1 if self.columns else max(shape.kernel) == 1:
            wanted = "all kernel extents above 1" if self.columns else "a kernel extent above 1"
            return Refusal(layer.name, Reason.KERNEL_SHAPE, f"needs {wanted}, got {shape.kernel}")
        maps = shape.out_channels * (shape.kernel[-1] if self.columns else math.prod(shape.kernel))
        if maps > MOST_MAPS:
            return Refusal(layer.name, Reason.NO_GAIN, f"needs at most {MOST_MAPS} maps for all taps, got {maps}")
        if self.columns and len(shape.kernel) == 1:
            return Refusal(layer.name, Reason.UNSUPPORTED_DIMENSIONS, "needs two axes, got one: `taps` is the same")
        if attributes.auto_pad != "NOTSET" and max(attributes.strides) > 1:
            message = f"needs explicit pads at stride {attributes.strides}, got {attributes.auto_pad}"
            return Refusal(layer.name, Reason.STRIDE, message)
        return None

    def write_factor(self, writer: Writer, factor: Factor, place: Place) -> str:
        """``Conv`` to the maps, a ``Slice`` for each tap, ``Sum``."""
        outputs = len(factor.weight)
        attributes = explicit_pads(factor)
        axes = len(attributes.strides)
        shifted = [axes - 1] if self.columns else list(range(axes))
        weight = _taps_as_outputs(factor.weight, shifted)
        bias = None
        if place.bias is not None:
            bias = np.concatenate([place.bias, np.zeros(len(weight) - outputs, place.bias.dtype)])
        maps = writer.convolution(f"{place.suffix}/maps", place.source, weight, _unshifted(attributes, shifted), bias)
        slices = []
        for tap, (starts, ends) in enumerate(_bounds(factor.shape.kernel, attributes, shifted)):
            suffix = f"{place.suffix}/tap{tap}"
            steps = [attributes.strides[axis] for axis in shifted]
            bounds = (
                [tap * outputs, *starts],
                [(tap + 1) * outputs, *ends],
                [1, *(axis + 2 for axis in shifted)],
                [1, *steps],
            )
            names = ("starts", "ends", "axes", "steps")
            inputs = [
                writer.integers(f"{suffix}/{name}", list(values)) for name, values in zip(names, bounds, strict=True)
            ]
            slices.append(writer.node("Slice", suffix, [maps, *inputs]))
        return writer.node("Sum", f"{place.suffix}/sum", slices, place.output)


def _unshifted(attributes: ConvAttributes, shifted: list[int]) -> ConvAttributes:
    """What remains for the convolution: pads on all axes; strides and dilations where no tap is shifted."""

    def keep(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(1 if axis in shifted else value for axis, value in enumerate(values))

    return replace(attributes, strides=keep(attributes.strides), dilations=keep(attributes.dilations))


def _taps_as_outputs(weight: FloatArray, shifted: list[int]) -> FloatArray:
    """``[out, in, *kernel]`` to ``[taps * out, in, *rest of the kernel]``, tap-major."""
    moved = np.moveaxis(weight, [axis + 2 for axis in shifted], range(len(shifted)))
    taps = math.prod(moved.shape[: len(shifted)])
    kernel = [1 if axis in shifted else extent for axis, extent in enumerate(weight.shape[2:])]
    return moved.reshape(taps * weight.shape[0], weight.shape[1], *kernel)


def _bounds(
    kernel: tuple[int, ...], attributes: ConvAttributes, shifted: list[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Starts and ends of each tap's part of the maps, counted from the end so that the size need not be known."""
    for tap in itertools.product(*(range(kernel[axis]) for axis in shifted)):
        places = list(zip(shifted, tap, strict=True))
        starts = [attributes.dilations[axis] * place for axis, place in places]
        left_over = [attributes.dilations[axis] * (kernel[axis] - 1 - place) for axis, place in places]
        yield starts, [-rest if rest else _TO_THE_END for rest in left_over]
