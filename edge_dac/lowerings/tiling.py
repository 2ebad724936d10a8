"""Which pixels a tile reads, and where each output pixel is found among the tiles.

Maps are padded already: every window lies inside. Dilations and sizes that the tile does not divide are index arithmetic
here, and cost nothing at run time. A dilation d splits an axis into d interleaved phases, each tiled by itself.
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
        window: ``[size, tiles]`` coordinate that a tile reads at each place.
        place: ``[output length]`` place of each output within its tile.
        tile: ``[output length]`` number of the tile of each output.
    """

    window: IndexArray
    place: IndexArray
    tile: IndexArray

    @property
    def count(self) -> int:
        return int(self.window.shape[1])

    @property
    def length(self) -> int:
        """How long the padded axis must be for all windows to lie inside."""
        return int(self.window.max()) + 1


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles of a whole map.

    Attributes:
        window: ``[sizes..., tiles]``, flattened to ``[prod(sizes), tiles]``: flat pixel of the padded map.
        place: ``[*output size]`` flat index into ``[prod(tile sizes), tiles]``.
        lengths: size of the padded map.
    """

    window: IndexArray
    place: IndexArray
    lengths: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return int(self.window.shape[1])


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


def tile_axis(transform: Transform, output_length: int, dilation: int) -> AxisTiling:
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
    window = np.array(starts)[None, :] + dilation * np.arange(transform.size)[:, None]
    return AxisTiling(window, place, tile)


def tile_map(axes: Sequence[AxisTiling], tile_sizes: Sequence[int]) -> Tiling:
    """The product of the tilings of all axes.

    Args:
        axes: one or two.
        tile_sizes: outputs of a tile along each axis.
    """
    window: IndexArray = np.zeros((1, 1), np.int64)
    place: IndexArray = np.zeros((), np.int64)
    tile: IndexArray = np.zeros((), np.int64)
    for axis, tile_size in zip(axes, tile_sizes, strict=True):
        sizes, tiles = (left * right for left, right in zip(window.shape, axis.window.shape, strict=True))
        here = axis.window[None, :, None, :]
        window = (window[:, None, :, None] * axis.length + here).reshape(sizes, tiles)
        place = place[..., None] * tile_size + axis.place
        tile = tile[..., None] * axis.count + axis.tile
    count = window.shape[1]
    return Tiling(window, place * count + tile, tuple(axis.length for axis in axes))
