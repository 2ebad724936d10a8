"""Seeded synthetic signals: coloured noise for anything along time, and for sound voices from loud to hardly audible.

A voice is a stack of harmonics with a gliding pitch, cut into syllables and coloured by a few resonances. Loudness
differs by 40 dB from sample to sample, as between a shout and a room: what only serves loud sound shows in the quiet.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Wave = npt.NDArray[np.float64]

_MOST_MICROPHONES = 2
_SOUND_LENGTH = 256
"""From this many numbers on, one or two rows are taken for sound."""
_QUIETEST = 0.01
_LOWEST_PITCH, _HIGHEST_PITCH = 0.004, 0.04
"""In cycles a sample: 64 to 640 Hz at 16 kHz."""
_MOST_HARMONICS = 24


def signal(rng: np.random.Generator, shape: tuple[int, ...], index: int) -> npt.NDArray[np.float32]:
    """One sample of ``shape``, between 0 and 1 about 0.5, along its longest axis; ``index`` decides on its kind."""
    axis = int(np.argmax(shape)) if shape else 0
    length = shape[axis] if shape else 1
    rest = tuple(extent for place, extent in enumerate(shape) if place != axis)
    is_sound = length >= _SOUND_LENGTH and np.prod(rest, dtype=int) <= _MOST_MICROPHONES
    wave = _noise(rng, rest, length)
    if is_sound:
        if index % 2 == 0:
            faintness = 10.0 ** rng.uniform(-3.0, -1.0)
            wave = _voice(rng, length) * rng.uniform(0.7, 1.0, size=(*rest, 1)) + faintness * wave
        wave *= _QUIETEST ** rng.uniform()
    return np.moveaxis(np.clip(0.5 + 0.15 * wave, 0.0, 1.0), -1, axis).reshape(shape).astype(np.float32)


def _noise(rng: np.random.Generator, rest: tuple[int, ...], length: int) -> Wave:
    """``[*rest, length]``: coloured noise with slow changes of loudness, deviation 1 at its loudest."""
    frequency = np.maximum(np.fft.rfftfreq(length), 1.0 / max(length, 2))
    spectrum = rng.normal(size=(*rest, frequency.size)) + 1j * rng.normal(size=(*rest, frequency.size))
    noise: Wave = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.3, 1.2), n=length)
    loudness = _slow(rng.uniform(0.1, 1.0, max(2, length // 400)), length)
    noise *= loudness / max(float(noise.std()), 1e-12)
    return noise


def _voice(rng: np.random.Generator, length: int) -> Wave:
    """``[length]``: syllables and pauses, deviation 1 where it sounds."""
    knots = max(2, length // 800)
    pitch = _LOWEST_PITCH * (_HIGHEST_PITCH / _LOWEST_PITCH) ** rng.uniform()
    glide = _slow(pitch * rng.uniform(0.8, 1.25, knots), length)
    phase = 2.0 * np.pi * np.cumsum(glide)
    resonances = rng.uniform(0.01, 0.25, size=3)
    wave: Wave = np.zeros(length)
    for harmonic in range(1, min(_MOST_HARMONICS, int(0.5 / (1.25 * pitch))) + 1):
        distances = (harmonic * pitch - resonances) / 0.02
        strength = (0.1 + np.exp(-np.square(distances)).sum()) / harmonic**0.5
        wave += strength * np.cos(harmonic * phase + rng.uniform(0.0, 2.0 * np.pi))
    loudness = _slow(np.maximum(rng.uniform(-0.5, 1.0, max(2, length // 1200)), 0.0), length)
    return wave * loudness / max(float(wave.std()), 1e-12)


def _slow(knots: npt.NDArray[np.floating], length: int) -> Wave:
    """``[length]``: what passes through evenly spread ``knots``."""
    course: Wave = np.interp(np.arange(length), np.linspace(0, length - 1, len(knots)), knots)
    return course
