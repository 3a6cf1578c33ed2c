"""Reading video files and pictures frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}


def _open(path: str | Path) -> av.container.InputContainer:
    try:
        return av.open(str(path))
    except (OSError, av.error.FFmpegError) as error:
        raise UserError(
            f"The file {Path(path).name} cannot be read as a video ({error}). Check that it plays, or convert it."
        ) from error


def video_fps(path: str | Path) -> Fraction:
    """Average frame rate of the first video stream, in frames per second."""
    with _open(path) as container:
        if not container.streams.video:
            raise UserError(f"The file {Path(path).name} has no picture track. Choose a file that contains video.")
        return Fraction(container.streams.video[0].average_rate or 25)


def video_seconds(path: str | Path) -> float | None:
    """About how long the video lasts, as the file says; None when it does not."""
    with _open(path) as container:
        return container.duration / av.time_base if container.duration else None


def iter_frames(path: str | Path, fps: Fraction | float | None = 25) -> Iterator[np.ndarray]:
    """Yield RGB frames, uint8 (H, W, 3), resampled to a constant rate.

    Each output instant n/fps shows the newest source frame whose time has come, as a player would; `fps=None`
    yields the frames as stored.

    Raises UserError when the file is not a readable video.
    """
    with _open(path) as container:
        if not container.streams.video:
            raise UserError(f"The file {Path(path).name} has no picture track. Choose a file that contains video.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if fps is None:
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")
            return
        step = 1 / Fraction(fps).limit_denominator(100_000)
        source_step = 1 / Fraction(stream.average_rate or 25)
        start, emitted, held = None, 0, None
        for frame in container.decode(stream):
            time = frame.pts * stream.time_base if frame.pts is not None else emitted * step
            start = time if start is None else start
            # A tolerance of a tenth of a source frame absorbs container time bases that cannot express 1/fps.
            while held is not None and emitted * step < time - start - source_step / 10:
                yield held
                emitted += 1
            held, last = frame.to_ndarray(format="rgb24"), time - start
        while held is not None and emitted * step < last + source_step - source_step / 10:
            yield held
            emitted += 1


def read_picture(path: str | Path) -> np.ndarray:
    """Read any still as upright RGB uint8 (H, W, 3): transparency on white, grey and 16-bit converted.

    Raises UserError when the file is not a picture.
    """
    try:
        picture = ImageOps.exif_transpose(Image.open(path))
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(
            f"The file {Path(path).name} cannot be read as a picture ({error}). Save it again as PNG or JPEG."
        ) from error
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float32)
        top = 65535.0 if values.max() > 255 else 255.0
        picture = Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))
