"""Which input pixels a tile reads, and where each output pixel is found among the tiles.

Pads, dilations, sizes that the tile does not divide: all of it is index arithmetic here, and costs nothing at run
time. A dilation d splits an axis into d interleaved phases, each tiled by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_dac.convolution import ConvAttributes, Factor
from edge_dac.lowerings.cook_toom import Transform

IndexArray: TypeAlias = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class AxisTiling:
    """Tiles along one axis.

    Attributes:
        window: ``[size, tiles]`` input coordinate that a tile reads at each place; outside the input where padded.
        place: ``[output length]`` place of each output within its tile.
        tile: ``[output length]`` number of the tile of each output.
    """

    window: IndexArray
    place: IndexArray
    tile: IndexArray

    @property
    def count(self) -> int:
        return int(self.window.shape[1])


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles of a whole map.

    Attributes:
        window: ``[sizes..., tiles]``, flattened to ``[prod(sizes), tiles]``: flat input pixel; ``pixels`` where padded.
        place: ``[*output size]`` flat index into ``[prod(tile sizes), tiles]``.
        pixels: number of input pixels.
    """

    window: IndexArray
    place: IndexArray
    pixels: int

    @property
    def count(self) -> int:
        """Number of tiles."""
        return int(self.window.shape[1])

    @property
    def is_padded(self) -> bool:
        """Whether any tile reads outside the input."""
        return bool(self.window.max() == self.pixels)


def explicit_pads(factor: Factor) -> ConvAttributes:
    """The factor's attributes with ``auto_pad`` resolved, which at stride 1 needs no input size."""
    attributes = factor.attributes
    if attributes.auto_pad == "NOTSET":
        return attributes
    kernel = factor.shape.kernel
    totals = [dilation * (extent - 1) for dilation, extent in zip(attributes.dilations, kernel, strict=True)]
    halves = tuple(total // 2 for total in totals)
    others = tuple(total - total // 2 for total in totals)
    pads = halves + others if attributes.auto_pad == "SAME_UPPER" else others + halves
    return replace(attributes, pads=pads, auto_pad="NOTSET")


def tile_axis(transform: Transform, output_length: int, dilation: int, pad: int) -> AxisTiling:
    """Cut one axis into tiles, phase after phase."""
    starts: list[int] = []
    place = np.empty(output_length, np.int64)
    tile = np.empty(output_length, np.int64)
    for phase in range(min(dilation, output_length)):
        outputs = np.arange(phase, output_length, dilation)
        order = np.arange(len(outputs))
        place[outputs] = order % transform.tile
        tile[outputs] = len(starts) + order // transform.tile
        starts.extend(outputs[:: transform.tile].tolist())
    window = np.array(starts)[None, :] + dilation * np.arange(transform.size)[:, None] - pad
    return AxisTiling(window, place, tile)


def tile_map(axes: Sequence[AxisTiling], tile_sizes: Sequence[int], size: Sequence[int]) -> Tiling:
    """The product of the tilings of all axes.

    Args:
        axes: one or two.
        tile_sizes: outputs of a tile along each axis.
        size: input size.
    """
    window: IndexArray = np.zeros((1, 1), np.int64)
    inside: npt.NDArray[np.bool_] = np.ones((1, 1), np.bool_)
    place: IndexArray = np.zeros((), np.int64)
    tile: IndexArray = np.zeros((), np.int64)
    for axis, tile_size, length in zip(axes, tile_sizes, size, strict=True):
        sizes, tiles = (left * right for left, right in zip(window.shape, axis.window.shape, strict=True))
        here = axis.window[None, :, None, :]
        within = (here >= 0) & (here < length)
        window = (window[:, None, :, None] * length + here).reshape(sizes, tiles)
        inside = (inside[:, None, :, None] & within).reshape(sizes, tiles)
        place = place[..., None] * tile_size + axis.place
        tile = tile[..., None] * axis.count + axis.tile
    pixels = int(np.prod(size))
    count = window.shape[1]
    return Tiling(np.where(inside, window, pixels), place * count + tile, pixels)
