"""`fd2talk bench`: how fast and how large the main job is on this machine, as a table and JSON."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ..device import autocast, pick_device
from .apart import median_seconds
from .bench_alternative import bench_alternative
from .bench_frames import SIZES, STEPS, bench_matrix, usual_precisions
from .bench_motion import FLAT, bench_motion
from .bench_video import bench_video
from .parts import TinyCoder
from .summary import write_json

REPEATS = 15
USUAL_STEPS = 2


class _FirstFrame:
    """Progress callback that notes when the first frames are there."""

    def __init__(self):
        self.start, self.seconds = time.perf_counter(), None

    def __call__(self, done: int, total: int) -> None:
        if done and self.seconds is None:
            self.seconds = time.perf_counter() - self.start


@torch.inference_mode()
def time_coder(coder, size: int, device: torch.device, batch: int = 1) -> dict[str, float]:
    """Milliseconds per frame to encode and decode pictures of `size`² px, `batch` at a time, in stage 2's precision."""
    pictures = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    with autocast(device):
        latents = coder.encode(pictures).contiguous(memory_format=torch.channels_last)
        return {
            "encode_ms": median_seconds(lambda: coder.encode(pictures), device, REPEATS, 2) * 1000 / batch,
            "decode_ms": median_seconds(lambda: coder.decode(latents), device, REPEATS, 2) * 1000 / batch,
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
    alternative: bool = False,
    minutes_video: Sequence[float] = (),
) -> dict:
    """Run the main job once and time its stages; then the autoencoder alone, and stage 1 on long recordings.

    Args:
        portrait, audio, size, steps, device: as for `talk`.
        out_json: where to write the result.
        taef1: folder with taef1_encoder.safetensors and taef1_decoder.safetensors, timed for comparison.
        minutes: lengths of sound that stage 1 is measured with, each in a process of its own; none = not measured.
        alternative: also time networks of Stable Diffusion 1.5's size.
        minutes_video: lengths of sound that the whole job's memory is measured with; none = not measured.

    Returns machine, seconds per stage, frames_per_second end to end (models loaded, video written),
    seconds_to_first_frame, peak_memory_mb, per coder encode_ms and decode_ms of one frame, and motion
    (see `bench_motion`) where minutes were given; likewise alternative (see `bench_alternative`) and video (see
    `bench_video`).
    """
    from ..frames.autoencoder import Autoencoder
    from ..pipeline import talk

    first = _FirstFrame()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.mp4"
        report = talk(portrait, audio, out, size=size, steps=steps, device=device, progress=first)
    result = {
        "machine": _machine(device),
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
    if minutes_video:
        result["video"] = bench_video(portrait, audio, minutes_video, size, steps, device)
    if alternative:
        # Measured as the alternative is, in a process of its own and without writing a video.
        own = bench_matrix(portrait, (size,), (steps,), usual_precisions(device)[-1:], device)
        result["alternative"] = bench_alternative(own, device)
    if out_json:
        write_json(Path(out_json), result)
    return result


def _machine(device: str) -> dict:
    place = pick_device(device)
    graphics = {"graphics": torch.cuda.get_device_name(place)} if place.type == "cuda" else {}
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device,
    } | graphics


def matrix(
    portrait: str | Path, sizes: Sequence[int] = SIZES, steps: Sequence[int] = STEPS, precisions: Sequence[str] = (),
    device: str = "cpu", alternative: bool = False, out_json: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:  # fmt: skip
    """Stage 2's speed and memory for every size, number of steps and precision.

    Returns {"machine", "matrix": rows of `bench_matrix`}, and with `alternative` also "alternative": rows of
    `bench_alternative`, one per size, against our usual steps in the last precision.
    """
    rows = bench_matrix(portrait, sizes, steps, precisions, device, progress=progress)
    result = {"machine": _machine(device), "matrix": rows}
    if alternative:
        usual = USUAL_STEPS if USUAL_STEPS in steps else steps[0]
        own = [row for row in rows if row["steps"] == usual and row["precision"] == rows[-1]["precision"]]
        result["alternative"] = bench_alternative(own, device)
    if out_json:
        write_json(Path(out_json), result)
    return result


def tables(result: dict) -> list[Table]:
    """The result of `bench` or `matrix` as rich tables."""
    made = _job_tables(result) if "coders" in result else []
    drawers = {"matrix": _matrix_table, "motion": _motion_table, "video": _video_table, "alternative": _other_table}
    return made + [draw(result[key]) for key, draw in drawers.items() if key in result]


def _job_tables(result: dict) -> list[Table]:
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
    return [stages, figures]


def _numbers_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _megabytes(value: float | None) -> str:
    return f"{value:.0f}" if value else "unknown"


def _matrix_table(rows: list[dict]) -> Table:
    columns = ["size", "precision", "steps", "frames per second", "seconds to first frames", "peak memory, MB"]
    on_card = any(row["peak_vram_mb"] for row in rows)
    table = _numbers_table(f"rendering, {rows[0]['device']}", columns + ["peak VRAM, MB"] * on_card)
    for row in rows:
        speeds = (f"{row['frames_per_second']:.2f}", f"{row['seconds_to_first_frame']:.1f}")
        memory = [_megabytes(row["peak_memory_mb"])] + [_megabytes(row["peak_vram_mb"])] * on_card
        table.add_row(str(row["size"]), row["precision"], str(row["steps"]), *speeds, *memory)
    return table


def _other_table(rows: list[dict]) -> Table:
    title = "networks of Stable Diffusion 1.5's size, random weights: one step and one decoding timed and multiplied"
    columns = ("size", "precision", "steps", "s per step", "s to decode", "fps", "our steps", "our fps", "times faster")
    table = _numbers_table(title, columns)
    for row in rows:
        times = [f"{row[key]:.3f}" for key in ("step_seconds", "decode_seconds", "frames_per_second")]
        ours = (str(row["our_steps"]), f"{row['our_frames_per_second']:.2f}", f"{row['times_faster']:.1f}")
        table.add_row(str(row["size"]), row["precision"], str(row["steps"]), *times, *ours)
    return table


def _verdict(growth: float | None) -> str:
    return "" if growth is None else f", memory {growth:+.0%} ({'flat' if abs(growth) <= FLAT else 'not flat'})"


def _video_table(result: dict) -> Table:
    title = f"whole job at only {result['lengths'][0]['fps']:g} frames per second{_verdict(result['memory_growth'])}"
    table = _numbers_table(title, ("minutes of sound", "frames", "seconds", "peak memory, MB"))
    for row in result["lengths"]:
        memory = _megabytes(row["peak_memory_mb"])
        table.add_row(f"{row['minutes']:.1f}", str(row["frames"]), f"{row['seconds']:.0f}", memory)
    return table


def _motion_table(result: dict) -> Table:
    columns = ("minutes of sound", "seconds", "x real time", "peak memory, MB")
    table = _numbers_table(f"stage 1{_verdict(result['memory_growth'])}", columns)
    for row in result["lengths"]:
        values = (row["minutes"], row["seconds"], row["x_real_time"])
        table.add_row(*(f"{value:.1f}" for value in values), _megabytes(row["peak_memory_mb"]))
    return table


def show(result: dict, console: Console | None = None) -> None:
    """Draw the result of `bench` or `matrix` on a console, the terminal by default."""
    console = console or Console()
    for table in tables(result):
        console.print(table)
