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
    tiling = tile_axis(cook_toom(6, 3), length, dilation, pad=2)
    for output in range(length):
        window = tiling.window[:, tiling.tile[output]]
        for tap in range(3):
            assert window[tiling.place[output] + tap] == output + dilation * tap - 2


def test_a_map_is_the_product_of_its_axes_and_marks_what_is_outside() -> None:
    transform = cook_toom(4, 3)
    axis = tile_axis(transform, 4, 1, pad=1)
    tiling = tile_map([axis, axis], [2, 2], [4, 4])
    assert tiling.window.shape == (16, 4)
    assert tiling.place.shape == (4, 4)
    assert tiling.is_padded
    assert tiling.window[0, 0] == tiling.pixels == 16
    assert tiling.window[5, 0] == 0
    assert sorted(tiling.place.ravel()) == list(range(16))
    assert not tile_map([tile_axis(transform, 2, 1, pad=0)], [2], [4]).is_padded


@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", (1, 3, 2, 3)), ("SAME_LOWER", (2, 3, 1, 3))])
def test_same_padding_at_stride_one(auto_pad: str, pads: tuple[int, ...]) -> None:
    attributes = ConvAttributes((1, 1), (0,) * 4, (1, 3), auto_pad=auto_pad)
    factor = Factor(np.zeros((1, 1, 4, 3), np.float32), attributes)
    assert explicit_pads(factor).pads == pads
