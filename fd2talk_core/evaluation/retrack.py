"""Look at finished pictures as a stranger would: clips are rendered to the end and tracked again with MediaPipe."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..audio.loading import SAMPLE_RATE
from ..errors import UserError
from ..face.landmarks import eye_opening, mouth_opening
from ..face.model import FaceModel
from ..prepare.labels import FaceLabeller, FrameLabels
from ..prepare.run import FPS
from ..training.data import Clip
from ..video.reading import iter_frames
from . import metrics
from .motion import dominant_identities, pooled, talker_group, voiced
from .motion_metrics import find_blinks, jitter, lip_scores, pose_scores
from .summary import summarise
from .tracked import TrackedClip, face_points, filled, track_clip

log = logging.getLogger(__name__)

# Ten seconds of a clip are rendered at most, and so many clips unless told otherwise.
FRAMES, CLIPS = 250, 6


def compare_labels(
    labels: FrameLabels, size: int, real: TrackedClip, face_model: FaceModel,
    asked: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Landmarks of a made video against the real clip's.

    labels: of the made frames, in pixels of their `size`. asked: mouth and eye opening (T,) of the motion that was
    rendered.

    Returns what `opening_scores`, `lip_scores` and `pose_scores` do, opening_jitter and its real partner,
    asked_correlation, blinks, real_blinks, asked_blinks, seconds and face_lost (share of the frames). Raises UserError
    when hardly any frame shows a face.
    """
    count = min(len(labels.valid), len(real))
    valid, points = labels.valid[:count], labels.landmarks[:count]
    if valid.sum() < 2:
        raise UserError("MediaPipe finds no face in the rendered video. Look at the video; the portrait may be unfit.")
    points = np.where(valid[:, None, None], points, points[valid][:1])
    opening, eyes = filled(mouth_opening(points), valid), filled(eye_opening(points), valid)
    fit = face_model.fit(torch.from_numpy(filled(points, valid)), size)
    lips = face_points(face_model, real.alpha, fit.beta)[0]
    real_lips = face_points(face_model, real.alpha, real.expression[:count])[0]
    row = metrics.opening_scores(opening, real.opening[:count]) | lip_scores(lips, real_lips, FPS)
    row |= {"opening_jitter": jitter(opening, FPS), "real_opening_jitter": jitter(real.opening[:count], FPS)}
    row |= {"blinks": len(find_blinks(eyes, FPS)), "real_blinks": len(find_blinks(real.eyes[:count], FPS))}
    row |= {"frames": count, "seconds": count / FPS, "face_lost": float(1 - valid.mean())}
    if asked is not None:
        row["asked_correlation"] = metrics.opening_scores(opening, asked[0][:count])["correlation"]
        row["asked_blinks"] = len(find_blinks(asked[1][:count], FPS))
    return row | pose_scores([fit.pose.numpy()], real.pose[:count].numpy(), FPS)


def retrack_video(video: str | Path, real: TrackedClip, landmarker: str | Path, face_model: FaceModel) -> dict:
    """A finished 25-fps video against the clip whose sound it was made from; see `compare_labels`."""
    with FaceLabeller(landmarker) as labeller:
        frames = list(iter_frames(Path(video), None))
        return compare_labels(labeller.label(frames, FPS), frames[0].shape[1], real, face_model)


def as_bytes(batches: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
    """Float (b, H, W, 3) in 0..1 -> uint8 (H, W, 3) one by one, as a video holds them."""
    for batch in batches:
        yield from (batch.clamp(0, 1) * 255 + 0.5).byte().numpy()


def evaluate_retracked(
    clips: list[Clip], landmarker: str | Path | None, face_model: FaceModel, *, steps: int = 2,
    frames: int = FRAMES, dominant: set[str] | None = None, heard: Mapping[str, str] | None = None,
    motion_weights: str | Path | None = None,
) -> list[dict]:  # fmt: skip
    """Render clips' first frames with both stages to the clips' own sound, track them again, one row per clip.

    landmarker: MediaPipe .task file. frames: at most so many of each clip. dominant, heard: see
    `evaluate_motion`. motion_weights: default the shipped ones. Raises UserError without a landmarker.
    """
    from ..frames.model import FrameModel
    from ..frames.sampling import sample_frames
    from ..motion.model import MotionModel
    from ..motion.sampling import generate_motion
    from .reenactment import tracked_motion

    if landmarker is None:
        raise UserError("Rendered video is tracked with MediaPipe. Pass --landmarker with its .task file.")
    dominant = dominant_identities(clips) if dominant is None else dominant
    motion_model, frame_model = MotionModel.load(motion_weights).eval(), FrameModel.load().eval()
    rows = []
    for clip in tqdm([c for c in clips if voiced(c)], desc="retrack", unit="clip"):
        real, first = track_clip(clip, face_model), tracked_motion(clip, face_model, 1)
        if real is None or first is None:
            continue
        appearance = first[0]
        motion = generate_motion(
            motion_model, real.samples[: frames * SAMPLE_RATE // FPS], float(FPS),
            reference_expression=appearance.beta, reference_pose=appearance.pose,
        )  # fmt: skip
        asked = face_points(face_model, appearance.alpha, motion.expression)[1:]
        made = as_bytes(sample_frames(frame_model, face_model, appearance, motion, steps=steps))
        with FaceLabeller(landmarker) as labeller:
            labels = labeller.label(made, FPS)
        row = compare_labels(labels, appearance.size, real, face_model, asked)
        rows.append({"clip": clip.name, "talker": talker_group(clip, dominant, heard)} | row)
    return rows


def summarise_retracked(rows: list[dict]) -> dict[str, dict]:
    """Summary by talkers, with the pooled numbers of `pooled` and opening_jitter_ratio."""
    summary = {}
    for name in ("all", *dict.fromkeys(row["talker"] for row in rows)):
        members = [row for row in rows if name in ("all", row["talker"])]
        numbers = summarise(members, None)["all"] | pooled(members)
        if "real_opening_jitter" in numbers:
            numbers["opening_jitter_ratio"] = numbers["opening_jitter"] / max(numbers["real_opening_jitter"], 1e-9)
        summary[name] = numbers
    return summary
