"""Measurements in processes of their own, because a process's peak memory never falls, and timing within one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..audio.loading import SAMPLE_RATE, load_mono_16k
from ..errors import UserError


def run_apart(module: str, what: str, **arguments) -> dict:
    """`python -m module JSON` in a process of its own; its last line of output is the result.

    what: name of the work for the UserError that is raised when the process fails.
    """
    command = [sys.executable, "-m", module, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"Measuring {what} failed ({last}). Free memory, or choose smaller sizes or lengths.")
    return json.loads(done.stdout.splitlines()[-1])


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


def over_lengths(module: str, what: str, audio: str | Path, minutes: Sequence[float], **arguments) -> dict:
    """`run_apart` with `audio`, a sound file repeated to each length.

    Returns {"lengths": [results, ...], "memory_growth": peak_memory_mb of the longest over that of the shortest, minus
    1; None for a single length, or where the system does not tell}. Raises UserError for lengths that are not positive.
    """
    if not minutes or min(minutes) <= 0:
        raise UserError("The lengths to measure must be minutes above 0. Write, say, 1,10,30.")
    voice = load_mono_16k(audio)
    lengths = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        for length in sorted(minutes):
            write_recording(voice, length, path)
            lengths.append(run_apart(module, f"{length:g} minutes of {what}", audio=str(path), **arguments))
    first, last = lengths[0]["peak_memory_mb"], lengths[-1]["peak_memory_mb"]
    return {"lengths": lengths, "memory_growth": last / first - 1 if len(lengths) > 1 and first and last else None}


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 1) -> float:
    """Median time of a call, after some to warm up."""
    times = []
    for _ in range(repeats + warm_up):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])
