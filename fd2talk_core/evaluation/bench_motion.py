"""Speed and memory of stage 1 alone, for recordings of several lengths, each in a process of its own.

`python -m fd2talk_core.evaluation.bench_motion RECORDING DEVICE` is that process: it writes its result as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..audio.loading import SAMPLE_RATE, load_mono_16k, open_mono_16k
from ..errors import UserError

MINUTES = (1.0, 10.0, 30.0)
FPS = 25.0
# Motion must not cost more memory the longer it gets; the samples themselves take 3.8 MB a minute.
FLAT = 0.10


def write_recording(voice: np.ndarray, minutes: float, path: Path) -> None:
    """Repeat a voice (N,) at 16 kHz until it lasts `minutes`; a mono 16-bit WAV file."""
    once = (np.clip(voice, -1, 1) * 32767).astype("<i2")
    left = int(minutes * 60 * SAMPLE_RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        while left > 0:
            file.writeframes(once[:left].tobytes())
            left -= len(once)


def measure(recording: str | Path, device: str = "cpu") -> dict[str, float]:
    """Stage 1 with default steps on a sound file: minutes, frames, seconds, x_real_time, peak_memory_mb.

    seconds is the time of reading and generating, without loading the network; peak_memory_mb is that of the whole
    process so far, so measure each length in a new one.
    """
    from ..device import pick_device
    from ..motion.model import MotionModel
    from ..motion.sampling import generate_motion
    from ..pipeline import peak_memory_mb

    model = MotionModel.load().to(pick_device(device)).eval()
    generate_motion(model, np.zeros(SAMPLE_RATE, np.float32), FPS)  # what the first call alone sets up
    start = time.perf_counter()
    samples = open_mono_16k(recording)
    motion = generate_motion(model, samples, FPS)
    seconds = time.perf_counter() - start
    length = len(samples) / SAMPLE_RATE
    result = {"minutes": length / 60, "frames": len(motion), "seconds": seconds, "x_real_time": length / seconds}
    return result | {"peak_memory_mb": peak_memory_mb()}


def bench_motion(audio: str | Path, minutes: Sequence[float] = MINUTES, device: str = "cpu") -> dict:
    """Measure stage 1 on `audio`, repeated to each length.

    Returns {"lengths": [what `measure` returns, ...], "memory_growth": peak of the longest over that of the shortest,
    minus 1, None where the system does not tell}. Raises UserError for lengths that are not positive, and when a
    process fails.
    """
    if not minutes or min(minutes) <= 0:
        raise UserError("The lengths to measure must be minutes above 0. Write, say, --minutes 1,10,30.")
    voice = load_mono_16k(audio)
    lengths = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        for length in sorted(minutes):
            write_recording(voice, length, path)
            command = [sys.executable, "-m", __name__, str(path), device]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise UserError(f"Stage 1 failed on {length:g} minutes of sound ({last}). Free memory and try again.")
            lengths.append(json.loads(done.stdout.splitlines()[-1]))
    first, last = lengths[0]["peak_memory_mb"], lengths[-1]["peak_memory_mb"]
    return {"lengths": lengths, "memory_growth": last / first - 1 if first and last else None}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*sys.argv[1:])) + "\n")
