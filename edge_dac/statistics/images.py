"""Seeded synthetic inputs: images whose local statistics resemble those of photographs and drawings.

Overlapping shapes with power-law sizes ("dead leaves"; Lee, Mumford and Huang, IJCV 2001) give the edges and the scale
invariance of natural images, strokes and glyphs those of text and line drawings; smooth shading, changing light and
sensor noise do the rest. Inputs that are no images get a fitting generator: voices and coloured noise for signals
(``signals.py``), normal numbers for features, uniform numbers for indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from edge_dac.statistics.input_values import InputSpec, Layout
from edge_dac.statistics.signals import signal

Canvas = npt.NDArray[np.float32]
"""``[height, width, channels]``, values about 0 to 1."""
Painter = Callable[[np.random.Generator, int, int, int], Canvas]

_SMALLEST_GLYPH = 6.0
_MOST_LEAVES = 600


def synthetic_inputs(specs: Iterable[InputSpec], count: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Samples for every input of a model: name -> ``[count, *shape without batch]``."""
    return {spec.name: synthetic_images(spec, count, seed + index) for index, spec in enumerate(specs)}


def synthetic_images(spec: InputSpec, count: int, seed: int) -> npt.NDArray[np.generic]:
    """``[count, *spec.shape[1:]]`` in the layout, range and element type of ``spec``.

    The kinds of images take turns, so that any run of at least :data:`KINDS` samples holds all of them.
    """
    rng = np.random.default_rng(seed)
    samples = np.empty((count, *spec.shape[1:]), dtype=np.dtype(spec.dtype))
    for index in range(count):
        samples[index] = np.reshape(_sample(spec, index, rng), spec.shape[1:])
    return samples


def _sample(spec: InputSpec, index: int, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    shape = spec.shape[1:]
    if spec.layout is Layout.CONSTANT:
        return np.full(shape, spec.low)
    if spec.layout is Layout.INDICES:
        return rng.integers(int(spec.low), int(spec.high) + 1, size=shape)
    if spec.layout is Layout.SIGNAL:
        return spec.from_unit(signal(rng, shape, index))
    if spec.layout in (Layout.FEATURES, Layout.STATE):
        return spec.from_unit(rng.normal(0.5, 0.25, size=shape).astype(np.float32))
    height, width = spec.image_size
    canvas = PAINTERS[index % KINDS](rng, height, width, spec.channels)
    return spec.from_unit(spec.arrange(np.clip(canvas, 0.0, 1.0)))


def _noise_field(rng: np.random.Generator, height: int, width: int, channels: int, slope: float) -> Canvas:
    """Noise with amplitude spectrum ``1/f^slope``, mean 0 and standard deviation 1 in each channel."""
    vertical = np.fft.fftfreq(height)[:, None]
    horizontal = np.fft.rfftfreq(width)[None, :]
    frequency = np.sqrt(vertical**2 + horizontal**2)
    frequency[0, 0] = np.inf
    phases = rng.uniform(0.0, 2.0 * np.pi, size=(channels, *frequency.shape))
    field = np.fft.irfft2(np.exp(1j * phases) * frequency**-slope, s=(height, width))
    field /= np.maximum(field.std(axis=(1, 2), keepdims=True), 1e-12)
    return field.transpose(1, 2, 0).astype(np.float32)


def _colour(rng: np.random.Generator, channels: int, chroma: float = 0.15) -> Canvas:
    """``[channels]``: one grey level with a smaller deviation in each channel, as in photographs."""
    return (rng.uniform(0.0, 1.0) + rng.normal(0.0, chroma, size=channels) * (channels > 1)).astype(np.float32)


def scene(rng: np.random.Generator, height: int, width: int, channels: int) -> Canvas:
    """Few large and some small objects on a shaded ground, with curves and at times a row of glyphs: mostly calm."""
    texture = np.float32(rng.uniform(0.0, 0.7)) * _noise_field(rng, height, width, 1, rng.uniform(1.0, 1.6))
    shading = np.float32(rng.uniform(0.0, 0.25)) * _noise_field(rng, height, width, 1, 2.0)
    canvas = np.asarray(_colour(rng, channels) + shading, dtype=np.float32)
    smallest, largest = max(1.0, 0.02 * min(height, width)), max(1.5, 0.6 * min(height, width))
    sizes = rng.uniform(1.0 / largest, 1.0 / smallest, size=rng.integers(3, 60))
    for inverse in np.sort(sizes):
        _paint_leaf(rng, canvas, texture, 1.0 / inverse)
    _paint_curves(rng, canvas, int(rng.integers(0, 12)), 0.02)
    if rng.uniform() < 0.4:
        size = max(_SMALLEST_GLYPH, rng.uniform(0.08, 0.5) * min(height, width))
        _paint_line_of_glyphs(rng, canvas, rng.uniform(0.0, max(1.0, height - size)), size, _colour(rng, channels))
    canvas = _soften(canvas)
    contrast = rng.uniform(0.5, 1.1)
    canvas = np.float32(rng.uniform(0.3, 0.7)) + (canvas - np.float32(0.5)) * np.float32(contrast)
    return canvas + rng.normal(0.0, rng.uniform(0.0, 0.02), size=canvas.shape).astype(np.float32)


def dead_leaves(rng: np.random.Generator, height: int, width: int, channels: int) -> Canvas:
    """A dense pile of discs, rectangles and bars, sizes by the power law ``r^-3``, each with its own texture."""
    texture = _noise_field(rng, height, width, 1, rng.uniform(0.8, 1.4))
    canvas = _colour(rng, channels) + np.float32(rng.uniform(0.0, 0.2)) * texture
    smallest = max(1.0, 0.008 * min(height, width))
    largest = max(2.0, 0.45 * min(height, width))
    covered, target = 0.0, 3.0 * height * width
    for _ in range(_MOST_LEAVES):
        radius = (smallest**-2 + rng.uniform() * (largest**-2 - smallest**-2)) ** -0.5
        covered += 3.0 * radius * radius
        _paint_leaf(rng, canvas, texture, radius)
        if covered > target:
            break
    return canvas


def _paint_leaf(rng: np.random.Generator, canvas: Canvas, texture: Canvas, radius: float) -> None:
    height, width, channels = canvas.shape
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    stretch = float(np.exp(rng.normal(0.0, 0.4)))
    reach_y, reach_x = radius * stretch, radius / stretch
    rows = slice(max(0, int(y - reach_y)), min(height, int(y + reach_y) + 1))
    columns = slice(max(0, int(x - reach_x)), min(width, int(x + reach_x) + 1))
    filling = _colour(rng, channels) + rng.uniform(0.0, 0.2) * texture[rows, columns]
    if rng.uniform() < 0.4:
        canvas[rows, columns] = filling
        return
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - y) / reach_y
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - x) / reach_x
    inside = (dy * dy + dx * dx <= 1.0)[:, :, None]
    np.copyto(canvas[rows, columns], filling, where=inside)


def strokes(rng: np.random.Generator, height: int, width: int, channels: int) -> Canvas:
    """Curves and rows of glyph-like marks on a plain or softly textured ground."""
    ground, ink = _colour(rng, channels), _colour(rng, channels)
    if abs(float(ground.mean() - ink.mean())) < 0.3:
        ink = ink + np.float32(0.5 if ground.mean() < 0.5 else -0.5)
    texture = _noise_field(rng, height, width, 1, 1.2)
    canvas = ground + rng.uniform(0.0, 0.08) * texture
    size = max(_SMALLEST_GLYPH, rng.uniform(0.08, 0.7) * min(height, width))
    for top in np.arange(rng.uniform(0.0, 0.5) * size, height, 1.5 * size):
        _paint_line_of_glyphs(rng, canvas, top, size, ink)
    _paint_curves(rng, canvas, int(rng.integers(2, 10)), 0.012)
    return _soften(canvas) if rng.uniform() < 0.7 else canvas


def _paint_line_of_glyphs(rng: np.random.Generator, canvas: Canvas, top: float, size: float, ink: Canvas) -> None:
    width = canvas.shape[1]
    for left in np.arange(0.1 * size, width - 0.3 * size, 0.9 * size):
        if rng.uniform() < 0.85:
            _paint_glyph(rng, canvas, top, left + rng.normal(0.0, 0.05 * size), size, ink)


def _paint_curves(rng: np.random.Generator, canvas: Canvas, count: int, thickest: float) -> None:
    """``count`` curves across the canvas; ``thickest`` is a share of the longer side."""
    height, width, channels = canvas.shape
    for _ in range(count):
        points = rng.uniform(-0.1, 1.1, size=(4, 2)) * (height, width)
        _paint_curve(canvas, points, rng.uniform(0.5, thickest * max(height, width) + 1.0), _colour(rng, channels))


def _paint_glyph(rng: np.random.Generator, canvas: Canvas, top: float, left: float, size: float, ink: Canvas) -> None:
    thickness = max(0.5, size * rng.uniform(0.04, 0.1))
    for _ in range(int(rng.integers(2, 5))):
        grid = rng.integers(0, 3, size=(2, 2)) * (0.5 * size, 0.35 * size)
        bend = grid.mean(axis=0) + rng.normal(0.0, 0.25 * size, size=2) * (rng.uniform() < 0.5)
        points = np.stack([grid[0], bend, bend, grid[1]]) + np.array([top, left])
        _paint_curve(canvas, points, thickness, ink)


def _paint_curve(canvas: Canvas, points: npt.NDArray[np.floating], thickness: float, ink: Canvas) -> None:
    """A cubic Bezier curve through its four control ``points`` (y, x), drawn with a round pen."""
    height, width, _ = canvas.shape
    length = float(np.abs(np.diff(points, axis=0)).sum())
    t = np.linspace(0.0, 1.0, max(4, int(3.0 * length / max(thickness, 1.0))))[:, None]
    basis = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3], axis=1)
    path = basis @ points
    reach = int(np.ceil(thickness))
    pen = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    pen = pen[(pen * pen).sum(axis=1) <= thickness * thickness]
    dots = (np.rint(path).astype(np.int64)[:, None, :] + pen).reshape(-1, 2)
    seen = (dots[:, 0] >= 0) & (dots[:, 0] < height) & (dots[:, 1] >= 0) & (dots[:, 1] < width)
    canvas[dots[seen, 0], dots[seen, 1]] = ink


def in_changing_light(painter: Painter) -> Painter:
    """The same pictures with other gamma, contrast, brightness and colour cast, shading and sensor noise."""

    def paint(rng: np.random.Generator, height: int, width: int, channels: int) -> Canvas:
        canvas = np.clip(painter(rng, height, width, channels), 0.0, 1.0) ** np.float32(np.exp(rng.normal(0.0, 0.4)))
        gain = (rng.uniform(0.3, 1.1) * (1.0 + 0.1 * rng.normal(size=channels))).astype(np.float32)
        canvas = np.float32(rng.uniform(0.15, 0.85)) + (canvas - np.float32(0.5)) * gain
        canvas += np.float32(rng.uniform(0.0, 0.2)) * _noise_field(rng, height, width, 1, 2.0)
        return canvas + rng.normal(0.0, rng.uniform(0.0, 0.03), size=canvas.shape).astype(np.float32)

    return paint


def _soften(canvas: Canvas) -> Canvas:
    """A [1 2 1]/4 blur along both axes."""
    for axis in (0, 1):
        padded = np.pad(canvas, [(1, 1) if axis == index else (0, 0) for index in range(3)], mode="edge")
        before, after = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
        canvas = np.float32(0.5) * canvas + np.float32(0.25) * (before + after)
    return canvas


PAINTERS: tuple[Painter, ...] = (
    scene,
    strokes,
    in_changing_light(scene),
    in_changing_light(strokes),
    in_changing_light(dead_leaves),
)
"""What was found closest to real images; see docs/fidelity.md."""
KINDS = len(PAINTERS)
