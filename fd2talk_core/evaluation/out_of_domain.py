"""Pictures unlike those stage 2 was trained on: paintings, sculpture, stylised and grey ones, under a fixed motion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..face.landmarks import EYE_LEFT, EYE_RIGHT, FACE_OVAL, LIPS_OUTER, mouth_opening
from ..face.model import FaceModel
from ..face.tracker import FaceTracker
from ..frames.appearance import Appearance, encode_portrait, from_landmarks
from ..frames.sampling import geometry_only_frames, sample_frames
from ..motion.clip import MotionClip
from ..prepare.run import FPS
from ..training.data import Clip
from . import metrics
from .flicker import polygon_mask
from .parts import SIZE, kind_of
from .reenactment import collect
from .retrack import as_bytes
from .sheets import save_sheet
from .tracked import filled

KINDS = ("painting", "sculpture", "stylised_anime_3d", "drawing")
GREY = "greyscale"
MADE_GREY = 4  # photos that lose their colours where a folder has no grey ones
GREY_BELOW = 2.0  # grey levels: mean difference between a pixel's channels
FRAMES, YAW = 16, math.radians(10)


@dataclass
class Picture:
    """A still with its kind and label: uint8 (S, S, 3), landmarks (478, 3) px."""

    name: str
    kind: str
    held_back: bool
    picture: np.ndarray
    landmarks: np.ndarray


def is_grey(picture: np.ndarray) -> bool:
    """Whether uint8 RGB (H, W, 3) has no colours to speak of."""
    return float(np.ptp(picture.astype(np.int16), axis=-1).mean()) < GREY_BELOW


def load_picture(clip: Clip, kind: str | None = None) -> Picture | None:
    """A still, None without a label; kind GREY takes its colours away."""
    labels, picture = clip.labels(), clip.frames()[0]
    if not labels.valid.any():
        return None
    if kind == GREY and not is_grey(picture):
        grey = picture.astype(np.float32) @ np.float32(metrics.LUMA)
        picture = np.repeat((grey + 0.5).astype(np.uint8)[..., None], 3, axis=-1)
    kind = kind or (GREY if is_grey(picture) else clip.meta.get("kind", ""))
    return Picture(clip.name, kind, clip.held_back, picture, labels.landmarks[0])


def choose_pictures(clips: list[Clip], limit: int | None = None) -> list[Picture]:
    """Labelled stills of KINDS and grey ones, at most `limit` of each kind.

    Where a folder has no grey photos, the first few photos of people held back from training lose their colours.
    """
    stills = sorted((clip for clip in clips if clip.still), key=lambda clip: clip.name)
    found = [load_picture(clip) for clip in stills if clip.meta.get("kind") in KINDS]
    photos = [clip for clip in stills if kind_of(clip) == "photo"]
    grey = [loaded for clip in photos if (loaded := load_picture(clip)) and loaded.kind == GREY]
    if not grey:
        grey = [load_picture(clip, GREY) for clip in [clip for clip in photos if clip.held_back][:MADE_GREY]]
    groups: dict[str, list[Picture]] = {}
    for picture in filter(None, found + grey):
        groups.setdefault(picture.kind, []).append(picture)
    return [picture for group in groups.values() for picture in group[:limit]]


def probe_motion(face_model: FaceModel, beta: Tensor, frames: int = FRAMES) -> MotionClip:
    """The mouth opens and closes twice, the eyes blink once, the head turns by 10 degrees to each side.

    beta: (64,) expression of the portrait, from which the motion starts.
    """
    phase = torch.linspace(0, 1, frames)
    mouth = (2 * math.pi * phase).sin() ** 2
    blink = (1 - ((phase - 0.5) / 0.2).abs()).clamp(min=0)
    jaw = face_model.control_vector({"jaw_open": 0.7})
    lids = face_model.control_vector({"blink_left": 1.0, "blink_right": 1.0})
    pose = torch.zeros(frames, 6)
    pose[:, 1] = YAW * (2 * math.pi * phase).sin()
    return MotionClip(beta + mouth[:, None] * jaw + blink[:, None] * lids, pose, FPS, face_model.hash)


def skin_mask(landmarks: np.ndarray, size: int) -> Tensor:
    """Inside of the face without mouth and eyes, where colours should stay: (478, 3) px -> bool (size, size)."""
    face = polygon_mask(landmarks[list(FACE_OVAL)], size)
    for hole in (LIPS_OUTER, EYE_RIGHT, EYE_LEFT):
        face &= ~polygon_mask(landmarks[list(hole)], size)
    return face


def compare_colours(made: Tensor, landmarks: np.ndarray, reference: Tensor, at: np.ndarray) -> dict[str, float]:
    """Colours of the skin in frames (T, 3, S, S) against those of the reference (3, S, S), in CIELAB.

    landmarks (T, 478, 3), at (478, 3): px. Returns means over frames of colour_shift (distance of the mean colours),
    chroma_shift (the same without lightness) and colour_spread_shift (distance of the standard deviations).
    """
    size = made.shape[-1]

    def statistics(picture: Tensor, points: np.ndarray) -> tuple[Tensor, Tensor]:
        skin = metrics.lab(picture[None])[0][:, skin_mask(points, size)]
        return skin.mean(1), skin.std(1, correction=0)

    mean, spread = statistics(reference, at)
    found = [statistics(picture, points) for picture, points in zip(made, landmarks, strict=True)]
    shifts = torch.stack([m - mean for m, _ in found])
    return {
        "colour_shift": float(shifts.norm(dim=1).mean()),
        "chroma_shift": float(shifts[:, 1:].norm(dim=1).mean()),
        "colour_spread_shift": float(torch.stack([s - spread for _, s in found]).norm(dim=1).mean()),
    }


def compare_structure(made: Tensor, geometry: Tensor, landmarks: np.ndarray) -> dict[str, float]:
    """structure_ms_ssim and structure_gmsd of frames (T, 3, S, S) against geometry-only, the mouth's box left out."""
    made = made.clone()
    for index, points in enumerate(landmarks):
        x0, y0, x1, y1 = metrics.mouth_box(points, made.shape[-1])
        made[index, :, y0:y1, x0:x1] = geometry[index, :, y0:y1, x0:x1]
    return {
        "structure_ms_ssim": metrics.ms_ssim(made, geometry).mean().item(),
        "structure_gmsd": metrics.gmsd(made, geometry).mean().item(),
    }


def compare_mouth(made: Tensor, landmarks: np.ndarray, tracker: FaceTracker) -> dict[str, float | None]:
    """face_found, share of frames (T, 3, S, S) in which our tracker sees a face, and mouth_correlation.

    The latter compares its mouth opening with the commanded landmarks' (T, 478, 3); None when a face is rarely found.
    """
    faces = list(tracker.track_video(as_bytes([made.permute(0, 2, 3, 1)])))
    valid = np.array([face is not None for face in faces])
    scores = {"face_found": float(valid.mean()), "mouth_correlation": None}
    if valid.sum() > len(valid) / 2:
        opening = np.array([0.0 if face is None else float(mouth_opening(face.landmarks)) for face in faces])
        scores["mouth_correlation"] = metrics.opening_correlation(filled(opening, valid), mouth_opening(landmarks))
    return scores


def _encoded(still: Picture, tracker: FaceTracker, face_model: FaceModel, size: int) -> tuple[Appearance, str]:
    """The portrait as a user gets it; from the label where our tracker finds no face."""
    try:
        return encode_portrait(still.picture, tracker, face_model, size=size), "tracker"
    except UserError:
        return from_landmarks(still.picture, still.landmarks, face_model, size), "label"


@torch.inference_mode()
def evaluate_out_of_domain(
    pictures: list[Picture], model, face_model: FaceModel, tracker: FaceTracker, steps: int = 2, size: int = SIZE,
    sheets: Path | None = None, frames: int = FRAMES,
) -> list[dict]:  # fmt: skip
    """Animate each picture by `probe_motion`; one row per picture.

    Rows have clip, kind, held_back, encoded_by (tracker or label), and what `compare_mouth`, `compare_colours` (also
    of geometry-only, with the prefix `geometry_`) and `compare_structure` return. sheets: folder for contact sheets.
    """
    rows = []
    for still in tqdm(pictures, desc="out-of-domain", unit="picture"):
        look, source = _encoded(still, tracker, face_model, size)
        motion = probe_motion(face_model, look.beta, frames)
        alpha = look.alpha.expand(len(motion), -1)
        commanded = face_model.landmarks(alpha, motion.expression, look.pose + motion.pose, size).numpy()
        ours = collect(sample_frames(model, face_model, look, motion, steps=steps))
        geometry = collect(geometry_only_frames(model, face_model, look, motion))
        row = {"clip": still.name, "kind": still.kind, "held_back": still.held_back, "encoded_by": source}
        row |= compare_mouth(ours, commanded, tracker)
        reference = (look.crop, look.landmarks.numpy())
        row |= compare_colours(ours, commanded, *reference)
        bare = compare_colours(geometry, commanded, *reference)
        row |= {f"geometry_{key}": value for key, value in bare.items()}
        rows.append(row | compare_structure(ours, geometry, commanded))
        if sheets is not None:
            shown = {"reference": look.crop[None].expand_as(ours), "geometry only": geometry, "ours": ours}
            save_sheet(sheets / f"{still.kind}_{still.name}.jpg", shown, commanded, ("geometry only", "ours"))
    return rows
