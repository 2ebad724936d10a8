"""The demo network and its held-out images, inside the package (provenance: ``README.md`` next to this file)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt


def demo_model_path() -> Path:
    """Path of the demo network: ``image`` float32 ``[N, 1, 28, 28]`` in 0..1 to ``logits`` float32 ``[N, 10]``."""
    return Path(str(resources.files(__name__) / "demo.onnx"))


def demo_images() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The 500 held-out MNIST digits, 50 of each class.

    Returns:
        Images ``[500, 1, 28, 28]`` in 0..1, as the network takes them, and labels ``[500]`` in 0..9.
    """
    with np.load(Path(str(resources.files(__name__) / "demo_images.npz"))) as stored:
        images = stored["images"].astype(np.float32)[:, np.newaxis] / np.float32(255)
        return images, stored["labels"].astype(np.int64)
