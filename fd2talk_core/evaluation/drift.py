"""Does a render drift? The same motion at second 5 and at minute 10 of one clip must give the same picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tqdm import tqdm

from ..face.model import FaceModel
from ..frames.appearance import Appearance
from ..frames.sampling import sample_frames
from ..motion.clip import MotionClip
from ..prepare.run import FPS
from ..training.data import Clip
from . import metrics
from .reenactment import collect, tracked_motion

EARLY, LATE = 5 * FPS, 600 * FPS  # frames: second 5 and minute 10
# Frames on each side of both instants that are equal, beyond the model's own motion window.
REACH = 8
BATCH, PLACE = 8, 5  # frames per batch, and where in a batch the frame lies the second time
CLIPS = 3  # of a folder, unless told otherwise
MOST = 100.0  # dB; equal pictures have no finite PSNR


def long_motion(motion: MotionClip, radius: int) -> MotionClip:
    """The motion over and over for ten minutes, with the same frames around EARLY and LATE.

    radius: frames on each side that a frame's picture depends on.
    """
    reach = radius + REACH
    index = torch.arange(LATE + reach + 1) % len(motion)
    index[LATE - reach : LATE + reach + 1] = index[EARLY - reach : EARLY + reach + 1]
    return MotionClip(motion.expression[index], motion.pose[index], motion.fps, motion.face_model)


def compare_instants(render: Callable[[int, int], torch.Tensor]) -> dict[str, float]:
    """PSNR of the frame at minute 10 against that at second 5, in dB, at most 100.

    render: (first frame, batch size) -> that batch (b, S, S, 3). Returns same_place_psnr (first of its batch both
    times), other_place_psnr (further back in its batch), batch_of_1_psnr, and psnr, the lowest of them.
    """

    def frame(first: int, batch: int, place: int) -> torch.Tensor:
        return collect([render(first, batch)])[place : place + 1]

    early = frame(EARLY, BATCH, 0)
    late = {
        "same_place_psnr": frame(LATE, BATCH, 0),
        "other_place_psnr": frame(LATE - PLACE, BATCH, PLACE),
        "batch_of_1_psnr": frame(LATE, 1, 0),
    }
    scores = {name: min(metrics.psnr(picture, early).item(), MOST) for name, picture in late.items()}
    return scores | {"psnr": min(scores.values())}


def measure_drift(model, face_model: FaceModel, appearance: Appearance, motion: MotionClip, steps: int = 2) -> dict:
    """`compare_instants` of one portrait under a motion that is stretched to ten minutes."""
    clip = long_motion(motion, model.config.motion_radius)

    def render(first: int, batch: int) -> torch.Tensor:
        return next(sample_frames(model, face_model, appearance, clip, steps=steps, start=first, batch_size=batch))

    return compare_instants(render)


@torch.inference_mode()
def evaluate_drift(clips: list[Clip], model, face_model: FaceModel, steps: int = 2) -> list[dict]:
    """One row per clip: its first frame under its own tracked motion, see `measure_drift`."""
    rows = []
    for clip in tqdm([c for c in clips if not c.still], desc="drift", unit="clip"):
        tracked = tracked_motion(clip, face_model)
        if tracked is not None:
            rows.append({"clip": clip.name} | measure_drift(model, face_model, *tracked[:2], steps=steps))
    return rows
