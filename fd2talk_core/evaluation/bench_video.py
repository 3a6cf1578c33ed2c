"""Peak memory of the whole job on long recordings, from sound file to video file, each in a process of its own.

`python -m fd2talk_core.evaluation.bench_video JSON` is that process, with `measure`'s arguments.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..audio.loading import load_mono_16k
from ..errors import UserError
from .bench_frames import run_apart
from .bench_motion import write_recording

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
    """Measure the job on `audio`, repeated to each length, at a low frame rate.

    Returns {"lengths": [what `measure` returns, ...], "memory_growth": peak of the longest over that of the shortest,
    minus 1; None for a single length, or where the system does not tell}.
    """
    if not minutes or min(minutes) <= 0:
        raise UserError("The lengths to measure must be minutes above 0. Write, say, --minutes-video 1,10.")
    voice = load_mono_16k(audio)
    lengths = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        for length in sorted(minutes):
            write_recording(voice, length, path)
            lengths.append(
                run_apart(
                    __name__, f"{length:g} minutes of video", portrait=str(portrait), audio=str(path), size=size,
                    steps=steps, device=device, fps=fps,
                )
            )  # fmt: skip
    first, last = lengths[0]["peak_memory_mb"], lengths[-1]["peak_memory_mb"]
    growth = last / first - 1 if len(lengths) > 1 and first and last else None
    return {"lengths": lengths, "memory_growth": growth}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
