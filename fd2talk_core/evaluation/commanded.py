"""Does the picture do what the motion says? A clip re-enacts itself, and MediaPipe tracks what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..errors import UserError
from ..face.landmarks import eye_opening, mouth_opening
from ..face.model import FaceModel
from ..frames.sampling import sample_frames
from ..prepare.labels import FaceLabeller, FrameLabels
from ..prepare.run import FPS
from ..training.data import Clip
from . import metrics
from .reenactment import FRAMES, tracked_motion
from .retrack import as_bytes
from .tracked import filled

# Below this the eyes hardly move, and what MediaPipe sees is its own noise. A blink within 50 frames gives about 0.04.
EYES_MOVE_FROM = 0.02


def compare_commanded(
    labels: FrameLabels, commanded: np.ndarray, alpha: torch.Tensor, pose: torch.Tensor, size: int,
    face_model: FaceModel,
) -> dict[str, float | None]:  # fmt: skip
    """What tracking sees in made frames of side `size` against the landmarks (T, 478, 3) they were to have.

    alpha (80,): of the portrait. pose: (T, 6) commanded, absolute.

    Returns mouth_correlation and eye_correlation (of the openings at the same instant; None below 8 frames, and the
    latter also where the commanded eyes hardly move), eye_std of the command, pose_error (mean absolute error of
    pitch, yaw and roll, degrees) and face_lost (share of the frames). Raises UserError when hardly any frame shows a
    face.
    """
    valid = labels.valid
    if valid.sum() < 2:
        raise UserError("MediaPipe finds no face in the rendered frames. Look at them; the clip may be unfit.")
    points = filled(labels.landmarks, valid)
    eyes = eye_opening(commanded)
    fit = face_model.fit(torch.from_numpy(points[valid]), size, alpha=alpha)
    off = (fit.pose - pose[torch.from_numpy(valid)])[:, :3]

    def correlation(opening) -> float | None:
        return metrics.opening_correlation(opening(points), opening(commanded))

    return {
        "mouth_correlation": correlation(mouth_opening),
        "eye_correlation": correlation(eye_opening) if eyes.std() >= EYES_MOVE_FROM else None,
        "eye_std": float(eyes.std()),
        "pose_error": float(off.abs().mean().rad2deg()),
        "face_lost": float(1 - valid.mean()),
    }


@torch.inference_mode()
def evaluate_commanded(
    clips: list[Clip], landmarker: str | Path | None, model, face_model: FaceModel, frames: int = FRAMES, steps: int = 2
) -> list[dict]:
    """Drive each clip's first frame by the clip's own tracked motion, render it, track the result; see above.

    Numbers with the prefix `real_` are what the same tracking sees in the real frames: how well one could do.
    landmarker: MediaPipe .task file. Raises UserError without one.
    """
    if landmarker is None:
        raise UserError("Rendered frames are tracked with MediaPipe. Pass --landmarker with its .task file.")
    rows = []
    for clip in tqdm([c for c in clips if not c.still], desc="commanded", unit="clip"):
        tracked = tracked_motion(clip, face_model, frames)
        if tracked is None:
            continue
        appearance, motion, real, _ = tracked
        pose = appearance.pose + motion.pose
        commanded = face_model.landmarks(
            appearance.alpha.expand(len(motion), -1), motion.expression, pose, appearance.size
        ).numpy()
        row = {"clip": clip.name, "frames": len(motion)}
        made = sample_frames(model, face_model, appearance, motion, steps=steps)
        for prefix, batches in (("", made), ("real_", [real.permute(0, 2, 3, 1)])):
            with FaceLabeller(landmarker) as labeller:
                labels = labeller.label(as_bytes(batches), FPS)
            scores = compare_commanded(labels, commanded, appearance.alpha, pose, appearance.size, face_model)
            row |= {prefix + key: value for key, value in scores.items() if not (prefix and key == "eye_std")}
        rows.append(row)
    return rows
