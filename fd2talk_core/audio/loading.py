"""Reading audio and bringing it to the form the networks expect: mono, 16 kHz, float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import av
import numpy as np
import soxr

from ..errors import UserError

SAMPLE_RATE = 16_000
MIN_SECONDS = 0.2
_BLOCK = 1 << 16


@contextmanager
def _sound_of(path: str | Path) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Sample rate of the first audio track, and its decoded pieces, float32 (C, n)."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"The file {Path(path).name} has no sound track. Choose a file that contains speech.")
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            yield rate, (
                part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)
            )
    except (OSError, av.error.FFmpegError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"The file {Path(path).name} cannot be read as sound ({error}). Convert it to WAV, FLAC or MP3."
        ) from error


def load_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Decode the first audio track of a sound or video file, all of it in memory; `load_mono_16k` needs far less.

    Returns (samples float32 (C, N) in about -1..1, sample rate in Hz).
    Raises UserError when the file has no readable sound.
    """
    with _sound_of(path) as (rate, pieces):
        chunks = list(pieces)
    if not chunks:
        raise UserError(f"The file {Path(path).name} contains no sound samples. Record or export it again.")
    return np.concatenate(chunks, axis=1), rate


def load_mono_16k(path: str | Path, min_seconds: float = MIN_SECONDS) -> np.ndarray:
    """`to_mono_16k(*load_audio(path))`, bit for bit, holding one block and the result in memory.

    The result takes 3.8 MB per minute whatever the file's rate and channels. Raises UserError as these two do.
    """
    with _sound_of(path) as (rate, pieces):
        return _mono_16k(pieces, rate, min_seconds, Recording(BytesIO()))[:]


def open_mono_16k(path: str | Path, min_seconds: float = MIN_SECONDS) -> Recording:
    """As `load_mono_16k`, with the samples in a temporary file: memory does not grow with the recording at all."""
    with _sound_of(path) as (rate, pieces):
        return _mono_16k(pieces, rate, min_seconds, Recording())


class Recording:
    """Mono samples at 16 kHz, read from a temporary file, or another open one, as they are sliced.

    Knows `len`, `size`, `shape` and slices without a step, which give float32 (n,); the file goes with the object.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file = TemporaryFile() if file is None else file
        self.size, self._offset = 0, np.float32(0)

    def __len__(self) -> int:
        return self.size

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError("a recording is read without steps")
        samples = np.empty(max(0, stop - start), np.float32)
        self._file.seek(4 * start)
        self._file.readinto(samples.data.cast("B"))
        samples -= self._offset
        return samples

    def _write(self, samples: np.ndarray) -> None:
        self._file.write(samples.tobytes())
        self.size += samples.size

    def _finish(self, length: int) -> Recording:
        """Cut or fill up to the length that the source's length and rate say, and remove what offset is left."""
        self._write(np.zeros(max(0, length - self.size), np.float32))
        self.size = length
        total = sum(self[start : start + _BLOCK].sum(dtype=np.float64) for start in range(0, length, _BLOCK))
        self._offset = np.float32(total / length)
        return self


def to_mono_16k(samples: np.ndarray, rate: int, min_seconds: float = MIN_SECONDS) -> np.ndarray:
    """Mix channels, remove the offset, resample to 16 kHz and check.

    Args:
        samples: (N,) or (C, N), any rate; floats in about -1..1, or signed integers over their type's full range.
        rate: sample rate of `samples`, in Hz.
        min_seconds: shortest audio that is accepted.

    Returns float32 (N',). Raises UserError for empty, too short or non-finite audio.
    """
    samples = np.atleast_2d(np.asarray(samples))
    pieces = (samples[:, start : start + _BLOCK] for start in range(0, samples.shape[1], _BLOCK))
    return _mono_16k(pieces, rate, min_seconds, Recording(BytesIO()))[:]


def _blocks(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Mono float32 blocks of one length from pieces (C, n) of any: the result must not depend on how a file is cut."""
    kept: list[np.ndarray] = []
    size = 0
    for piece in pieces:
        if np.issubdtype(piece.dtype, np.signedinteger):
            piece = piece.astype(np.float32) / -float(np.iinfo(piece.dtype).min)
        kept.append(piece.astype(np.float32, copy=False).mean(axis=0))
        size += kept[-1].size
        while size >= _BLOCK:
            joined = np.concatenate(kept)
            yield joined[:_BLOCK]
            kept, size = [joined[_BLOCK:]], size - _BLOCK
    if size:
        yield np.concatenate(kept)


def _mono_16k(pieces: Iterable[np.ndarray], rate: int, min_seconds: float, recording: Recording) -> Recording:
    if rate <= 0:
        raise UserError(f"The audio says its sample rate is {rate} Hz. Export it again as a normal WAV file.")
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ") if rate != SAMPLE_RATE else None
    total, offset = 0, None
    for block in _blocks(pieces):
        if not np.isfinite(block).all():
            raise UserError("The audio contains values that are not numbers (NaN or infinity). Export it again.")
        # An offset must go before resampling, which would make a click of its beginning.
        offset = block.mean(dtype=np.float64).astype(np.float32) if offset is None else offset
        total += len(block)
        recording._write(stream.resample_chunk(block - offset) if stream else block - offset)
    if total < max(min_seconds * rate, 1):
        raise UserError(
            f"The audio is {total / rate:.2f} s long, shorter than {min_seconds} s. Use a longer recording."
        )
    if stream:
        recording._write(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    return recording._finish(-(-total * SAMPLE_RATE // rate))


def frame_count(duration: float, fps: float) -> int:
    """Number of video frames for `duration` seconds: the nearest whole number, so both end within half a frame."""
    return max(1, int(np.floor(duration * fps + 0.5)))
