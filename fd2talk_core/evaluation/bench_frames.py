"""Speed and memory of stage 2 alone over sizes, steps and precisions, each in a process of its own.

`python -m fd2talk_core.evaluation.bench_frames JSON` is that process: it takes `measure`'s arguments, and writes its
result as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from ..device import fast_dtype, pick_device, usual_batch
from ..errors import UserError
from .apart import run_apart

SIZES, STEPS, BATCHES = (256, 512), (1, 2, 4), 4
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision_name(dtype: torch.dtype) -> str:
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def usual_precisions(device: str) -> tuple[str, ...]:
    """fp32 and the precision that is fast on the device, if that is another."""
    return tuple(dict.fromkeys(("fp32", precision_name(fast_dtype(pick_device(device))))))


def peak_vram_mb(device: torch.device) -> float | None:
    """Most memory that this process's tensors took on a CUDA device, in MB; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def measure(portrait: str, size: int, steps: int, precision: str, device: str, frames: int | None = None) -> dict:
    """Render `frames` frames of a fixed motion (None = four batches) after one batch to warm up.

    Returns size, steps, precision, device, frames_per_second (rendering alone), seconds_to_first_frame (from picture
    and weights on disk to the first batch; Python's imports excepted), peak_memory_mb and peak_vram_mb (None without
    CUDA).
    """
    from ..face.model import FaceModel
    from ..face.tracker import FaceTracker
    from ..frames.appearance import encode_portrait
    from ..frames.model import FrameModel
    from ..frames.sampling import sample_frames
    from ..pipeline import peak_memory_mb
    from ..video.reading import read_picture
    from .out_of_domain import probe_motion

    start = time.perf_counter()
    place, face_model = pick_device(device), FaceModel.load()
    model = FrameModel.load().to(place).eval()
    appearance = encode_portrait(read_picture(portrait), FaceTracker.load(), face_model, size=size)
    batch = usual_batch(place)
    motion = probe_motion(face_model, appearance.beta, (frames or BATCHES * batch) + batch)
    batches = sample_frames(
        model, face_model, appearance, motion, steps=steps, dtype=PRECISIONS[precision], batch_size=batch
    )  # fmt: skip
    next(batches)
    first, made = time.perf_counter(), 0
    for pictures in batches:  # on the CPU, so the device has finished
        made += len(pictures)
    seconds = time.perf_counter() - first
    return {
        "size": size,
        "steps": steps,
        "precision": precision,
        "device": str(place),
        "frames_per_second": made / seconds,
        "seconds_to_first_frame": first - start,
        "peak_memory_mb": peak_memory_mb(),
        "peak_vram_mb": peak_vram_mb(place),
    }


def bench_matrix(
    portrait: str | Path,
    sizes: Sequence[int] = SIZES,
    steps: Sequence[int] = STEPS,
    precisions: Iterable[str] = (),
    device: str = "cpu",
    frames: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict]:
    """`measure` for every size, number of steps and precision (default: `usual_precisions`), in a process each."""
    precisions = tuple(precisions) or usual_precisions(device)
    unknown = set(precisions) - set(PRECISIONS)
    if unknown:
        raise UserError(f"There is no precision '{sorted(unknown)[0]}'. Choose from: {', '.join(PRECISIONS)}.")
    cells = list(itertools.product(sizes, precisions, steps))
    rows = []
    for size, precision, count in cells:
        rows.append(
            run_apart(
                __name__, f"{size} px with {count} steps in {precision}", portrait=str(portrait), size=size,
                steps=count, precision=precision, device=device, frames=frames,
            )
        )  # fmt: skip
        if progress:
            progress(len(rows), len(cells))
    return rows


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
