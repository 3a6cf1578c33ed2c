"""Speed and memory of stage 1 alone, for recordings of several lengths, each in a process of its own.

`python -m fd2talk_core.evaluation.bench_motion JSON` is that process, with `measure`'s arguments.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..audio.loading import SAMPLE_RATE, open_mono_16k
from .apart import over_lengths

MINUTES = (1.0, 10.0, 30.0)
FPS = 25.0
# Motion must not cost more memory the longer it gets; the samples themselves take 3.8 MB a minute.
FLAT = 0.10


def measure(audio: str | Path, device: str = "cpu") -> dict[str, float]:
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
    samples = open_mono_16k(audio)
    motion = generate_motion(model, samples, FPS)
    seconds = time.perf_counter() - start
    length = len(samples) / SAMPLE_RATE
    result = {"minutes": length / 60, "frames": len(motion), "seconds": seconds, "x_real_time": length / seconds}
    return result | {"peak_memory_mb": peak_memory_mb()}


def bench_motion(audio: str | Path, minutes: Sequence[float] = MINUTES, device: str = "cpu") -> dict:
    """Measure stage 1 on `audio`, repeated to each length; returns what `over_lengths` does, of `measure`'s results."""
    return over_lengths(__name__, "sound", audio, minutes, device=device)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
