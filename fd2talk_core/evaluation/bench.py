"""`fd2talk bench`: how fast and how large the main job is on this machine, as a table and JSON."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ..device import autocast, pick_device
from .bench_motion import FLAT, bench_motion
from .parts import TinyCoder
from .summary import write_json

REPEATS = 15


class _FirstFrame:
    """Progress callback that notes when the first frames are there."""

    def __init__(self):
        self.start, self.seconds = time.perf_counter(), None

    def __call__(self, done: int, total: int) -> None:
        if done and self.seconds is None:
            self.seconds = time.perf_counter() - self.start


def _milliseconds(call, device: torch.device) -> float:
    """Median time of one call in ms, after two to warm up."""
    times = []
    for turn in range(REPEATS + 2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn >= 2:
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


@torch.inference_mode()
def time_coder(coder, size: int, device: torch.device, batch: int = 1) -> dict[str, float]:
    """Milliseconds per frame to encode and decode pictures of `size`² px, `batch` at a time, in stage 2's precision."""
    pictures = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    with autocast(device):
        latents = coder.encode(pictures).contiguous(memory_format=torch.channels_last)
        return {
            "encode_ms": _milliseconds(lambda: coder.encode(pictures), device) / batch,
            "decode_ms": _milliseconds(lambda: coder.decode(latents), device) / batch,
        }


def bench(
    portrait: str | Path,
    audio: str | Path,
    size: int = 256,
    steps: int = 2,
    device: str = "cpu",
    out_json: str | Path | None = None,
    taef1: str | Path | None = None,
    minutes: Sequence[float] = (),
) -> dict:
    """Run the main job once and time its stages; then the autoencoder alone, and stage 1 on long recordings.

    Args:
        portrait, audio, size, steps, device: as for `talk`.
        out_json: where to write the result.
        taef1: folder with taef1_encoder.safetensors and taef1_decoder.safetensors, timed for comparison.
        minutes: lengths of sound that stage 1 is measured with, each in a process of its own; none = not measured.

    Returns machine, seconds per stage, frames_per_second end to end (models loaded, video written),
    seconds_to_first_frame, peak_memory_mb, per coder encode_ms and decode_ms of one frame, and motion
    (see `bench_motion`) where minutes were given.
    """
    from ..frames.autoencoder import Autoencoder
    from ..pipeline import talk

    first = _FirstFrame()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.mp4"
        report = talk(portrait, audio, out, size=size, steps=steps, device=device, progress=first)
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "device": device,
        },
        "size": size,
        "steps": steps,
        "frames": report.frames,
        "video_seconds": report.frames / report.fps,
        "seconds": report.seconds,
        "frames_per_second": report.frames_per_second,
        "render_frames_per_second": report.frames / max(report.seconds["frames"], 1e-9),
        "seconds_to_first_frame": first.seconds,
        "peak_memory_mb": report.peak_memory_mb,
        "coders": {},
    }
    place = pick_device(device)
    coders = {"ours": Autoencoder.load()} | ({"taef1": TinyCoder.load(Path(taef1))} if taef1 else {})
    for name, coder in coders.items():
        result["coders"][name] = time_coder(coder.to(place).eval(), size, place)
    if taef1:
        ours, theirs = result["coders"]["ours"], result["coders"]["taef1"]
        result["coders"]["times_faster"] = {key: theirs[key] / ours[key] for key in ours}
    if minutes:
        result["motion"] = bench_motion(audio, minutes, device)
    if out_json:
        write_json(Path(out_json), result)
    return result


def tables(result: dict) -> list[Table]:
    """`bench`'s result as rich tables."""
    machine = result["machine"]
    stages = Table(title=f"{result['size']} px, {result['steps']} steps, {machine['device']}", title_justify="left")
    stages.add_column("stage")
    stages.add_column("seconds", justify="right")
    for name, seconds in result["seconds"].items():
        stages.add_row(name, f"{seconds:.2f}")
    stages.add_section()
    stages.add_row("all", f"{sum(result['seconds'].values()):.2f}")
    stages.add_row("until the first frames", f"{result['seconds_to_first_frame'] or 0:.2f}")
    figures = Table(title=f"{result['frames']} frames, {machine['threads']} threads", title_justify="left")
    figures.add_column("figure")
    figures.add_column("value", justify="right")
    figures.add_row("frames per second, end to end", f"{result['frames_per_second']:.2f}")
    figures.add_row("frames per second, rendering alone", f"{result['render_frames_per_second']:.2f}")
    if result["peak_memory_mb"]:
        figures.add_row("peak memory", f"{result['peak_memory_mb']:.0f} MB")
    for name, values in result["coders"].items():
        unit = " x" if name == "times_faster" else " ms"
        for key, value in values.items():
            figures.add_row(f"{name.replace('_', ' ')}: {key.removesuffix('_ms')}", f"{value:.1f}{unit}")
    return [stages, figures, *([_motion_table(result["motion"])] if "motion" in result else [])]


def _motion_table(result: dict) -> Table:
    growth = result["memory_growth"]
    verdict = "" if growth is None else f", memory {growth:+.0%} ({'flat' if abs(growth) <= FLAT else 'not flat'})"
    table = Table(title=f"stage 1{verdict}", title_justify="left")
    for name in ("minutes of sound", "seconds", "x real time", "peak memory, MB"):
        table.add_column(name, justify="right")
    for row in result["lengths"]:
        values = (row["minutes"], row["seconds"], row["x_real_time"])
        memory = row["peak_memory_mb"]
        table.add_row(*(f"{value:.1f}" for value in values), f"{memory:.0f}" if memory else "unknown")
    return table


def show(result: dict, console: Console | None = None) -> None:
    """Draw `bench`'s result on a console, the terminal by default."""
    console = console or Console()
    for table in tables(result):
        console.print(table)
