"""Real samples for the statistics, from a directory that the user names: ``.npy`` arrays or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_dac.errors import InputShapeError, UsageError
from edge_dac.statistics.input_values import InputSpec

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm"})
_ARRAYS = frozenset({".npy"})


def load_calibration(
    directory: Path | str, specs: Sequence[InputSpec], *, limit: int = 64
) -> dict[str, npt.NDArray[np.generic]]:
    """Samples for the only input of a model: name -> ``[count, *shape without batch]``.

    A ``.npy`` file holds one sample or several, in the values the model wants. A picture is resized to the input and
    brought to the range of its :class:`InputSpec`. Files are taken in the order of their names.

    Raises:
        UsageError: no such directory, nothing usable in it, the model has several inputs, or pictures are to be read
            without Pillow.
        InputShapeError: an array does not have the input's shape.
    """
    folder = Path(directory)
    if len(specs) != 1:
        raise UsageError(f"calibration {folder.name!r}: expected a model with one input, got {len(specs)} inputs")
    if not folder.is_dir():
        raise UsageError(f"calibration {folder.name!r}: expected a directory, found none")
    spec = specs[0]
    readable = _ARRAYS | _PICTURES if spec.is_image else _ARRAYS
    samples: list[npt.NDArray[np.generic]] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in readable and len(samples) < limit:
            samples.extend(_read_array(path, spec) if path.suffix.lower() in _ARRAYS else [_read_picture(path, spec)])
    if not samples:
        raise UsageError(f"calibration {folder.name!r}: expected files {', '.join(sorted(readable))}, found none")
    return {spec.name: np.stack(samples[:limit])}


def _read_array(path: Path, spec: InputSpec) -> list[npt.NDArray[np.generic]]:
    wanted = tuple(spec.shape[1:])
    try:
        array: npt.NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UsageError(f"calibration {path.name!r}: expected a numpy array without objects, got {error}") from error
    if array.shape == wanted:
        array = array[None]
    if array.shape[1:] != wanted:
        raise InputShapeError(f"calibration {path.name!r}: expected shape {list(wanted)}, got {list(array.shape)}")
    return list(array.astype(np.dtype(spec.dtype)))


def _read_picture(path: Path, spec: InputSpec) -> npt.NDArray[np.generic]:
    try:
        from PIL import Image, UnidentifiedImageError  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise UsageError("calibration: pictures need Pillow (pip install 'edge-dac[images]'); .npy does not") from error
    if spec.channels not in (1, 3):
        raise UsageError(f"calibration {path.name!r}: expected an input of 1 or 3 channels, it has {spec.channels}")
    height, width = spec.image_size
    try:
        with Image.open(path) as picture:
            resized = picture.convert("L" if spec.channels == 1 else "RGB").resize((width, height))
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"calibration {path.name!r}: expected a picture, got {error}") from error
    canvas = np.asarray(resized, dtype=np.float32).reshape(height, width, spec.channels) / np.float32(255.0)
    return spec.from_unit(spec.arrange(canvas))
