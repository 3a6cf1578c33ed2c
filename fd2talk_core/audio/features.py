"""Log-mel features: 100 Hz, four vectors per 25-fps frame, independent of loudness and of how the file is cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import librosa
import numpy as np

from .loading import SAMPLE_RATE

FPS = 25
BINS = 80
HOP = 160
PER_FRAME = 4
FRAME_SAMPLES = HOP * PER_FRAME

_N_FFT, _WINDOW = 512, 400
# Columns are centred in their own 10 ms, so that a frame's four columns lie symmetrically in its 40 ms.
_LEAD = _N_FFT // 2 - HOP // 2
# Below this much under the speech level there is only noise.
_FLOOR = 1e-4
# Pre-emphasis: y[n] = x[n] - 0.97 x[n-1]. Removes offset and rumble, and gives high bands back their weight.
_EMPHASIS = 0.97
# Bring speech to about zero mean and unit variance.
_CENTRE, _SPREAD = -0.5, 1.7
_QUIETEST_LEVEL = 3e-3
_BLOCK_FRAMES = 1500


def feature_frames(n_samples: int) -> int:
    """Number of 25-fps frames that cover `n_samples` at 16 kHz."""
    return max(1, -(-n_samples // FRAME_SAMPLES))


def _piece(samples: np.ndarray, first: int, length: int) -> np.ndarray:
    """Pre-emphasised samples first .. first + length; what lies outside the recording is silence."""
    first, length = first - 1, length + 1
    left, right = max(0, -first), max(0, first + length - len(samples))
    piece = np.pad(samples[max(0, first) : max(0, first + length)], (min(left, length), min(right, length)))[:length]
    return piece[1:] - _EMPHASIS * piece[:-1]


@dataclass(frozen=True)
class Loudness:
    """What a whole recording says about its loudness; RMS amplitudes after pre-emphasis.

    speech: level of the speech. gate: below it there is no speech, only the room.
    """

    speech: float
    gate: float


def _rms(samples: np.ndarray, start: float, frames: int) -> np.ndarray:
    piece = _piece(samples, round(start * FRAME_SAMPLES), frames * FRAME_SAMPLES)
    return np.sqrt((piece.reshape(frames, FRAME_SAMPLES) ** 2).mean(1))


def _all_rms(samples: np.ndarray) -> np.ndarray:
    frames = feature_frames(len(samples))
    blocks = range(0, frames, _BLOCK_FRAMES)  # a long recording need not be copied whole
    return np.concatenate([_rms(samples, start, min(_BLOCK_FRAMES, frames - start)) for start in blocks])


def measure_loudness(samples: np.ndarray) -> Loudness:
    """Speech level and noise gate of a recording, float32 (N,), 16 kHz.

    The speech level is the RMS that 5 % of the 40-ms frames exceed. It is at least 12 dB under the loudest frames,
    for recordings that are nearly all silence, and at least -50 dB full scale, so that the noise of an empty
    recording is not blown up into speech. The gate lies 10 dB above the quietest frames, within 26 to 32 dB under
    the speech level: faint consonants pass. A recording with less than 6 dB between its quiet and loud frames is steady
    noise, and all of it stays under the gate.
    """
    rms = _all_rms(samples)
    quietest, usual, loudest = np.percentile(rms, [5, 95, 99.9])
    speech = max(usual, loudest / 4, _QUIETEST_LEVEL)
    steady = 1 - np.clip(usual / max(quietest, 1e-9) - 2, 0, 1)
    return Loudness(float(speech), float(np.clip(3.2 * quietest, speech / 40, speech / 20 * 100**steady)))


def silent_frames(samples: np.ndarray, loudness: Loudness) -> np.ndarray:
    """Which 40-ms frames of a recording stay under its gate, bool (feature_frames(N),)."""
    return _all_rms(samples) <= loudness.gate


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=_N_FFT, n_mels=BINS, fmin=60.0, norm=None)


def mel_power(samples: np.ndarray, start: float, frames: int) -> np.ndarray:
    """Mel power spectrum of the video frames `start` .. `start + frames`; sound outside `samples` is silence.

    Args:
        samples: float32 (N,), 16 kHz.
        start: first 25-fps frame, may be negative, and a fraction.
        frames: number of frames.

    Returns float32 (frames * 4, 80), power of the pre-emphasised sound.
    """
    length = (frames * PER_FRAME - 1) * HOP + _N_FFT
    piece = _piece(samples, round(start * FRAME_SAMPLES) - _LEAD, length)
    spectrum = librosa.stft(piece, n_fft=_N_FFT, hop_length=HOP, win_length=_WINDOW, center=False)
    return np.ascontiguousarray((_mel_filters() @ np.abs(spectrum) ** 2).T, dtype=np.float32)


def normalise(power: np.ndarray, level: float) -> np.ndarray:
    """Mel power of a recording with speech level `level` (see Loudness) -> features of about unit variance."""
    return ((np.log10(power / level**2 + _FLOOR) - _CENTRE) / _SPREAD).astype(np.float32)


def _gate(samples: np.ndarray, start: float, frames: int, gate: float) -> np.ndarray:
    """Gain of each frame's power, (frames,): 1 where it or a neighbour exceeds the gate, -80 dB at half the gate."""
    rms = _rms(samples, start - 1, frames + 2)
    # A closed stop or a faint consonant between louder sounds is speech, too.
    rms = np.maximum(np.maximum(rms[:-2], rms[1:-1]), rms[2:])
    return 10 ** (-8 * np.clip(np.log2(max(gate, 1e-9) / np.maximum(rms, 1e-9)), 0, 1))


def log_mel(
    samples: np.ndarray, start: float = 0, frames: int | None = None, loudness: Loudness | None = None
) -> np.ndarray:
    """Features of 25-fps frames; frame i covers samples 640 i .. 640 (i + 1). Noise between words is gated.

    Args:
        samples: float32 (N,), 16 kHz mono.
        start: first frame; a fraction shifts the sound by less than a frame.
        frames: number of frames, default: to the end of the recording.
        loudness: of the whole recording, default: measured here. Give it when a recording is read in pieces; then
            the pieces equal the corresponding part of the whole.

    Returns float32 (frames, 4, 80).
    """
    if frames is None:
        frames = feature_frames(len(samples)) - int(start)
    loudness = measure_loudness(samples) if loudness is None else loudness
    power = mel_power(samples, start, frames).reshape(frames, PER_FRAME, BINS)
    power *= _gate(samples, start, frames, loudness.gate).astype(np.float32)[:, None, None]
    return normalise(power, loudness.speech)
