"""Peak memory of the whole job on long recordings, from sound file to video file, each in a process of its own.

`python -m fd2talk_core.evaluation.bench_video JSON` is that process, with `measure`'s arguments.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .apart import over_lengths

# Frames are written as they are made, so their number decides the time only; a low rate keeps that short.
FPS = 2.0


def measure(portrait: str, audio: str, size: int, steps: int, device: str, fps: float = FPS) -> dict:
    """`talk` on a recording: minutes, fps, frames, seconds and peak_memory_mb of the process."""
    from ..pipeline import talk

    with tempfile.TemporaryDirectory() as folder:
        report = talk(portrait, audio, Path(folder) / "long.mp4", size=size, steps=steps, device=device, fps=fps)
    return {
        "minutes": report.duration / 60,
        "fps": report.fps,
        "frames": report.frames,
        "seconds": report.total_seconds,
        "peak_memory_mb": report.peak_memory_mb,
    }


def bench_video(
    portrait: str | Path, audio: str | Path, minutes: Sequence[float], size: int = 256, steps: int = 2,
    device: str = "cpu", fps: float = FPS,
) -> dict:  # fmt: skip
    """Measure the job on `audio`, repeated to each length, at a low frame rate; returns what `over_lengths` does."""
    return over_lengths(
        __name__, "video", audio, minutes, portrait=str(portrait), size=size, steps=steps, device=device, fps=fps
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
