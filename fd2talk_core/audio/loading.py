"""Reading audio and bringing it to the form the networks expect: mono, 16 kHz, float32."""

from __future__ import annotations

from pathlib import Path

import av
import librosa
import numpy as np

from ..errors import UserError

SAMPLE_RATE = 16_000
MIN_SECONDS = 0.2


def load_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Decode the first audio track of a sound or video file.

    Returns (samples float32 (C, N) in about -1..1, sample rate in Hz).
    Raises UserError when the file has no readable sound.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"The file {Path(path).name} has no sound track. Choose a file that contains speech.")
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            chunks = [
                part.to_ndarray()
                for frame in container.decode(audio=0)
                for part in resampler.resample(frame)
            ]
    except (OSError, av.error.FFmpegError) as error:
        raise UserError(
            f"The file {Path(path).name} cannot be read as sound ({error}). Convert it to WAV, FLAC or MP3."
        ) from error
    if not chunks:
        raise UserError(f"The file {Path(path).name} contains no sound samples. Record or export it again.")
    return np.concatenate(chunks, axis=1), rate


def to_mono_16k(samples: np.ndarray, rate: int, min_seconds: float = MIN_SECONDS) -> np.ndarray:
    """Mix channels, resample to 16 kHz and check.

    Args:
        samples: float (N,) or (C, N), any rate.
        rate: sample rate of `samples`, in Hz.
        min_seconds: shortest audio that is accepted.

    Returns float32 (N',). Raises UserError for empty, too short or non-finite audio.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if rate <= 0:
        raise UserError(f"The audio says its sample rate is {rate} Hz. Export it again as a normal WAV file.")
    if samples.ndim == 2:
        samples = samples.mean(axis=0)
    if samples.size < min_seconds * rate:
        raise UserError(
            f"The audio is {samples.size / rate:.2f} s long, shorter than {min_seconds} s. Use a longer recording."
        )
    if not np.isfinite(samples).all():
        raise UserError("The audio contains values that are not numbers (NaN or infinity). Export it again.")
    samples = samples - samples.mean()
    if rate != SAMPLE_RATE:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def frame_count(duration: float, fps: float) -> int:
    """Number of video frames for `duration` seconds: the nearest whole number, so both end within half a frame."""
    return max(1, int(np.floor(duration * fps + 0.5)))
