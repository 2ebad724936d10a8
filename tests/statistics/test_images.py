"""Synthetic inputs: seeded, in the shape, range and element type asked for, with the statistics of pictures."""

from __future__ import annotations

import numpy as np
import pytest

from edge_dac.statistics.images import KINDS, PAINTERS, synthetic_images, synthetic_inputs
from edge_dac.statistics.input_values import InputSpec, Layout


@pytest.mark.parametrize(
    ("layout", "shape", "channels"),
    [
        (Layout.NCHW, (1, 3, 40, 56), 3),
        (Layout.NHWC, (2, 40, 56, 3), 3),
        (Layout.NCHW, (1, 1, 8, 8), 1),
        (Layout.NCHW, (1, 7, 24, 24), 7),
        (Layout.NHW, (1, 33, 21), 1),
        (Layout.NCHW, (1, 3, 1, 1), 3),
    ],
)
def test_images_have_the_shape_and_range_of_the_spec(layout: Layout, shape: tuple[int, ...], channels: int) -> None:
    spec = InputSpec("x", shape, layout=layout, channels=channels, low=-1.0, high=3.0)
    images = synthetic_images(spec, 2 * KINDS, seed=1)
    assert images.shape == (2 * KINDS, *shape[1:])
    assert images.dtype == np.float32
    assert images.min() >= -1.0
    assert images.max() <= 3.0
    assert np.isfinite(images).all()


def test_the_seed_decides() -> None:
    spec = InputSpec("x", (1, 3, 32, 32), channels=3)
    first, again, other = (synthetic_images(spec, KINDS, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_images_begin_with_the_same_ones() -> None:
    spec = InputSpec("x", (1, 1, 32, 32))
    np.testing.assert_array_equal(synthetic_images(spec, 3, 0), synthetic_images(spec, 6, 0)[:3])


@pytest.mark.parametrize("painter", PAINTERS)
def test_neighbouring_pixels_are_alike(painter: object) -> None:
    """What sets pictures apart from white noise: differences of neighbours are far below those of white noise."""
    rng = np.random.default_rng(0)
    pictures = np.stack([painter(rng, 64, 96, 1) for _ in range(8)])  # type: ignore[operator]
    assert np.diff(pictures, axis=2).std() < 1.0 * pictures.std()
    assert pictures.std() > 0.05


def test_samples_differ_from_one_another() -> None:
    images = synthetic_images(InputSpec("x", (1, 1, 24, 24)), 8, 0).reshape(8, -1)
    assert len(np.unique(images, axis=0)) == 8


def test_mean_and_deviation_are_applied_by_channel() -> None:
    plain = InputSpec("x", (1, 3, 16, 16), channels=3, high=255.0)
    normal = InputSpec("x", (1, 3, 16, 16), channels=3, high=255.0, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
    expected = synthetic_images(plain, 2, 0) - np.array([10, 20, 30], np.float32).reshape(3, 1, 1)
    expected /= np.array([2, 4, 8], np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(synthetic_images(normal, 2, 0), expected, rtol=1e-5, atol=1e-4)


def test_bytes_stay_bytes() -> None:
    images = synthetic_images(InputSpec("x", (1, 3, 16, 16), "uint8", channels=3, high=255.0), KINDS, 0)
    assert images.dtype == np.uint8
    assert np.ptp(images.astype(int)) > 100


def test_signals_are_bounded_and_smooth_along_the_longest_axis() -> None:
    signal = synthetic_images(InputSpec("x", (1, 4, 600), layout=Layout.SIGNAL, low=-1.0, high=1.0), 4, 0)
    assert signal.shape == (4, 4, 600)
    assert np.abs(signal).max() <= 1.0
    assert np.diff(signal, axis=2).std() < signal.std()


def test_features_follow_mean_and_deviation() -> None:
    spec = InputSpec("x", (1, 2000), layout=Layout.FEATURES, mean=(0.5,), std=(0.25,))
    values = synthetic_images(spec, 4, 0)
    assert abs(float(values.mean())) < 0.1
    assert abs(float(values.std()) - 1.0) < 0.1


@pytest.mark.parametrize(("dtype", "high"), [("int64", 9.0), ("bool", 1.0)])
def test_indices_stay_in_the_table(dtype: str, high: float) -> None:
    values = synthetic_images(InputSpec("x", (1, 50), dtype, Layout.INDICES, high=high), 4, 0)
    assert values.dtype == np.dtype(dtype)
    assert set(np.unique(values.astype(int))) <= set(range(int(high) + 1))


def test_scalars_have_no_batch() -> None:
    assert synthetic_images(InputSpec("x", (), layout=Layout.FEATURES), 3, 0).shape == (3,)


def test_several_inputs_do_not_repeat_one_another() -> None:
    samples = synthetic_inputs([InputSpec("a", (1, 1, 16, 16)), InputSpec("b", (1, 1, 16, 16))], 2, 0)
    assert not np.array_equal(samples["a"], samples["b"])
