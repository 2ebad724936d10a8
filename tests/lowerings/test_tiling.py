"""Index arithmetic of tiles."""

from __future__ import annotations

import numpy as np
import pytest

from edge_dac.convolution import ConvAttributes, Factor
from edge_dac.lowerings.cook_toom import cook_toom
from edge_dac.lowerings.tiling import explicit_pads, tile_axis, tile_map


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 13])
def test_every_output_reads_its_own_inputs(dilation: int, length: int) -> None:
    tiling = tile_axis(cook_toom(6, 3), length, dilation)
    for output in range(length):
        window = tiling.window[:, tiling.tile[output]]
        for tap in range(3):
            assert window[tiling.place[output] + tap] == output + dilation * tap


def test_a_map_is_the_product_of_its_axes() -> None:
    transform = cook_toom(4, 3)
    axis = tile_axis(transform, 5, 1)
    assert axis.length == 8  # the third tile has one output too many
    tiling = tile_map([axis, tile_axis(transform, 4, 1)], [2, 2])
    assert tiling.lengths == (8, 6)
    assert tiling.window.shape == (16, 6)
    assert tiling.window[0].tolist() == [0, 2, 12, 14, 24, 26]
    assert tiling.window[5].tolist() == [7, 9, 19, 21, 31, 33]
    assert tiling.place.shape == (5, 4)
    assert len(set(tiling.place.ravel())) == 20


@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", (1, 3, 2, 3)), ("SAME_LOWER", (2, 3, 1, 3))])
def test_same_padding_at_stride_one(auto_pad: str, pads: tuple[int, ...]) -> None:
    attributes = ConvAttributes((1, 1), (0,) * 4, (1, 3), auto_pad=auto_pad)
    factor = Factor(np.zeros((1, 1, 4, 3), np.float32), attributes)
    assert explicit_pads(factor).pads == pads
