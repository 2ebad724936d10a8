"""What one input of a model expects: layout, channels, range; and how samples are brought there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt


class Layout(StrEnum):
    """How the axes of an input are to be read."""

    NCHW = "NCHW"
    NHWC = "NHWC"
    NHW = "NHW"
    """Images without a channel axis."""
    SIGNAL = "signal"
    """Something along time: sound, a sensor, one-dimensional convolutions."""
    FEATURES = "features"
    """Numbers without neighbourhood."""
    INDICES = "indices"
    """Integers that name something: tokens, classes."""
    STATE = "state"
    """What a model remembers of the runs before; one of its outputs is the next."""
    CONSTANT = "constant"
    """One number in every element: a sampling rate, a threshold."""


IMAGE_LAYOUTS = frozenset({Layout.NCHW, Layout.NHWC, Layout.NHW})


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    Samples are made between 0 and 1; the model gets ``(low + sample * (high - low) - mean) / std``.

    Attributes:
        name: of the graph input.
        shape: complete, batch included.
        dtype: numpy name of the element type.
        layout: how to read the axes.
        channels: of an image; 1 for anything else.
        low, high: values of black and white before ``mean`` and ``std``; smallest and largest of ``INDICES``; both the
            number of a ``CONSTANT``.
        mean, std: per channel (or one for all), in the units of ``low`` and ``high``.
        next_state: of a ``STATE``, the output that is fed to it in the next run.
        assumptions: one line each on what was assumed and from what.
        warnings: one line each on what the user had better say.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Layout = Layout.NCHW
    channels: int = 1
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    next_state: str = ""
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        return self.layout in IMAGE_LAYOUTS

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        first = 2 if self.layout is Layout.NCHW else 1
        return self.shape[first], self.shape[first + 1]

    def arrange(self, canvas: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Bring ``[height, width, channels]`` into this layout, without batch."""
        if self.layout is Layout.NCHW:
            return canvas.transpose(2, 0, 1)
        return canvas[:, :, 0] if self.layout is Layout.NHW else canvas

    def from_unit(self, samples: npt.NDArray[np.floating]) -> npt.NDArray[np.generic]:
        """Bring samples between 0 and 1, in this layout and without batch, to the values the model wants."""
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        if self.layout is Layout.NCHW:
            mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
        values = (np.float32(self.low) + samples * np.float32(self.high - self.low) - mean) / std
        dtype = np.dtype(self.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return values.astype(dtype)
