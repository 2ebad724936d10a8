"""Minimal filtering along one axis."""

from __future__ import annotations

import numpy as np
import pytest

from edge_dac.lowerings.cook_toom import LARGEST_SIZE, cook_toom


@pytest.mark.parametrize("size", range(3, LARGEST_SIZE + 1))
@pytest.mark.parametrize("extent", range(2, 8))
def test_it_is_the_filter(size: int, extent: int) -> None:
    if extent >= size:
        return
    rng = np.random.default_rng(size * 10 + extent)
    data, taps = rng.standard_normal(size), rng.standard_normal(extent)
    transform = cook_toom(size, extent)
    result = transform.output @ ((transform.kernel @ taps) * (transform.input @ data))
    assert (transform.tile, transform.size) == (size - extent + 1, size)
    np.testing.assert_allclose(result, np.correlate(data, taps, "valid"), atol=1e-12)


def test_f2_of_3_is_the_textbook_transform_up_to_scale() -> None:
    """Lavin and Gray 2016, section 4.1: two outputs of three taps with four products."""
    transform = cook_toom(4, 3)
    scale = np.abs(transform.input).max(axis=1, keepdims=True)
    textbook = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    np.testing.assert_array_equal(np.abs(transform.input / scale), np.abs(textbook))


def test_an_axis_without_a_kernel_is_left_alone() -> None:
    transform = cook_toom(6, 1)
    assert (transform.tile, transform.size) == (1, 1)
    assert transform.output == transform.kernel == transform.input == 1
