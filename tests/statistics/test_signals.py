"""Synthetic signals: bounded, seeded, and of many loudnesses where they stand for sound."""

from __future__ import annotations

import numpy as np
import pytest

from edge_dac.statistics.signals import signal


@pytest.mark.parametrize("shape", [(), (1,), (3,), (16000,), (1, 576), (4, 600), (600, 4), (80, 200), (2, 4000)])
def test_signals_have_their_shape_and_stay_between_0_and_1(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for index in range(4):
        values = signal(rng, shape, index)
        assert values.shape == shape
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert values.min(initial=0.5) >= 0.0
        assert values.max(initial=0.5) <= 1.0


def test_sound_is_loud_and_quiet_in_turn() -> None:
    rng = np.random.default_rng(0)
    loudness = [float(signal(rng, (4000,), index).std()) for index in range(40)]
    assert max(loudness) > 20 * min(loudness)


def test_many_channels_are_no_sound() -> None:
    rng = np.random.default_rng(0)
    loudness = [float(signal(rng, (12, 4000), index).std()) for index in range(20)]
    assert max(loudness) < 4 * min(loudness)


def test_a_voice_repeats_itself_and_noise_does_not() -> None:
    """The autocorrelation of a voice has a peak at its period."""
    peaks = []
    for index in (0, 1):
        rng = np.random.default_rng(5)
        waves = [signal(rng, (1024,), index) - 0.5 for _ in range(12)]
        spectra = [np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) for wave in waves]
        correlations = [np.fft.irfft(np.log(np.maximum(spectrum, 1e-9)))[25:250] for spectrum in spectra]
        peaks.append(np.median([correlation.max() for correlation in correlations]))
    assert peaks[0] > 1.5 * peaks[1]
