"""Voices that were never recorded: augmentation of mel power spectra, cheap enough to run for every window."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from ..audio.features import normalise

FLOOR = 1e-7


def _curve(rng: np.random.Generator, bins: int, decades: float) -> np.ndarray:
    """A smooth random curve over the bands, about -decades..decades."""
    at = np.linspace(0, np.pi, bins)
    return sum(rng.uniform(-1, 1) / (k + 1) * np.cos(k * at) for k in range(4)) * decades


def _warp(logs: np.ndarray, factor: float) -> np.ndarray:
    """Stretch the band axis: pitch and formants move together, as with a longer or shorter vocal tract."""
    bins = logs.shape[1]
    at = (np.arange(bins) * factor).clip(0, bins - 1.001)
    low = at.astype(int)
    part = (at - low).astype(np.float32)
    return logs[:, low] * (1 - part) + logs[:, low + 1] * part


def augment(power: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random vocal tract, pitch clarity, equaliser, reverberation, noise, band limit and loudness.

    power: mel power relative to the speech level (T, 4, 80). Returns features, float32 (T, 4, 80).
    """
    frames, per_frame, bins = power.shape
    power = power.reshape(frames * per_frame, bins)
    logs = np.log10(power + FLOOR)
    if rng.random() < 0.7:
        logs = _warp(logs, float(np.exp(rng.uniform(-0.18, 0.18))))
    if rng.random() < 0.3:
        # Blurring the bands removes the harmonics of the voice and keeps the formants.
        logs = gaussian_filter1d(logs, rng.uniform(0.5, 2.5), axis=1)
    if rng.random() < 0.6:
        logs = logs + _curve(rng, bins, rng.uniform(0, 0.7)).astype(np.float32)
    logs = logs + np.float32(rng.normal(0, 0.25))
    if rng.random() < 0.25:
        power = 10.0**logs
        decay = 10 ** (-6 / (100 * rng.uniform(0.1, 0.5)))  # power falls by 60 dB in this many seconds
        wet = lfilter([1 - decay], [1, -decay], power, axis=0)
        logs = np.log10(power + rng.uniform(0.1, 1.0) * wet + FLOOR)
    if rng.random() < 0.5:
        # Speech lies at about 2 decades; the noise 5 to 45 dB below it.
        level = 2 - rng.uniform(0.5, 4.5) + _curve(rng, bins, 0.7)
        noise = 10**level * rng.gamma(2.0, 0.5, logs.shape)
        logs = np.log10(10.0**logs + noise)
    if rng.random() < 0.12:
        logs = np.array(logs)
        logs[:, int(rng.integers(bins // 2, bins)) :] = -7
    return normalise((10.0**logs).astype(np.float32), 1.0).reshape(frames, per_frame, bins)
