"""Real photographs out of the packages, as arrays."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.models import photo_paths
from benchmarks.tasks.task import Images

NATURAL = ("astronaut", "camera", "chelsea", "coffee", "hubble_deep_field", "motorcycle_left", "retina", "rocket")
"""scikit-image's photographs; its other pictures are scans, textures and drawings."""


def imagenet_photos() -> list[Images]:
    """foolbox's 20 ImageNet photographs, RGB ``[224, 224, 3]``."""
    return [_read(path) for path in photo_paths("foolbox")]


def skimage_photos() -> list[Images]:
    """scikit-image's eight natural photographs, RGB, each of its own size."""
    return [_read(path) for path in photo_paths("scikit-image") if path.stem in NATURAL]


def photo_crops(photos: list[Images], count: int, seed: int) -> list[Images]:
    """Seeded square crops, half to whole of the shorter side, some mirrored."""
    random = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(min(photo.shape[:2]) * random.uniform(0.5, 1.0))
        top, left = (int(random.integers(0, extent - side + 1)) for extent in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        crops.append(crop[:, ::-1] if random.random() < 0.5 else crop)
    return crops


def resize(image: Images, width: int, height: int) -> Images:
    """Bilinear resize of an RGB image."""
    picture = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _read(path: object) -> Images:
    with Image.open(str(path)) as picture:
        return np.asarray(picture.convert("RGB"))
