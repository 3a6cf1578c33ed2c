"""The APPEARANCE of a portrait: its face crop and the face's coefficients in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import UserError
from ..face.model import FaceModel
from ..face.tracker import FaceBox, FaceTracker
from .composite import bands

CROP_FACTOR = 2.0
MIN_CONFIDENCE = 0.3


@dataclass
class Appearance:
    """One portrait, ready for stage 2.

    picture: uint8 (H, W, 3), the whole picture. crop_box: (x0, y0, side) in its pixels, inside the picture where
    possible. crop: float32 (3, size, size) in 0..1. landmarks: (478, 3) pixels of the crop at `size`. alpha (80,),
    beta (64,), pose (6,): the face's coefficients in the crop. notes: what the user should know, in sentences.
    """

    picture: np.ndarray
    crop_box: tuple[int, int, int]
    size: int
    crop: torch.Tensor
    landmarks: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor
    pose: torch.Tensor
    confidence: float
    face_model: str
    notes: list[str] = field(default_factory=list)


def crop_rows(picture: np.ndarray, crop_box: tuple[int, int, int], top: int, bottom: int) -> torch.Tensor:
    """Rows top .. bottom of a square as it is: float32 (3, bottom - top, side); beyond the picture its edge repeats."""
    x0, y0, side = crop_box
    height, width = picture.shape[:2]
    rows = np.clip(np.arange(y0 + top, y0 + bottom), 0, height - 1)
    columns = np.clip(np.arange(x0, x0 + side), 0, width - 1)
    return torch.from_numpy(picture[rows[:, None], columns]).permute(2, 0, 1).float() / 255


def square_crop(picture: np.ndarray, crop_box: tuple[int, int, int], size: int) -> torch.Tensor:
    """Cut a square and resize it to float32 (3, size, size); beyond the picture its edge pixels repeat."""
    side = crop_box[2]
    if side <= size:
        crop = crop_rows(picture, crop_box, 0, side)[None]
        if side < size:
            crop = F.interpolate(crop, size=(size, size), mode="bicubic", align_corners=False)
        return crop[0].clamp(0, 1)
    # Narrowed band by band: a large square never exists in floating point as a whole.
    narrow = torch.cat([
        _smaller(crop_rows(picture, crop_box, top, bottom), bottom - top, size) for top, bottom in bands(0, side, side)
    ], 1)  # fmt: skip
    return _smaller(narrow, size, size).clamp(0, 1)


def _smaller(crop: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(crop[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False)[0]


def crop_for(landmarks: np.ndarray, width: int, height: int) -> tuple[int, int, int]:
    """A square of twice the face around it, moved inside the picture, shrunk if the picture is smaller."""
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    face = float((high - low).max())
    side = int(round(CROP_FACTOR * face))
    side = max(8, min(side, max(int(1.35 * face), min(width, height))))
    x0, y0 = np.round((low + high) / 2 - side / 2).astype(int)
    x0 = int(np.clip(x0, 0, width - side)) if side <= width else (width - side) // 2
    y0 = int(np.clip(y0, 0, height - side)) if side <= height else (height - side) // 2
    return x0, y0, side


def from_landmarks(
    picture: np.ndarray,
    landmarks: np.ndarray,
    face_model: FaceModel,
    size: int,
    crop_box: tuple[int, int, int] | None = None,
    confidence: float = 1.0,
) -> Appearance:
    """Appearance of a face whose landmarks (478, 3), in pixels of `picture`, are known."""
    height, width = picture.shape[:2]
    crop_box = crop_box or crop_for(landmarks, width, height)
    x0, y0, side = crop_box
    local = (torch.as_tensor(landmarks, dtype=torch.float32) - torch.tensor([x0, y0, 0.0])) * (size / side)
    fit = face_model.fit(local[None], size)
    return Appearance(
        picture, crop_box, size, square_crop(picture, crop_box, size), local, fit.alpha, fit.beta[0], fit.pose[0],
        confidence, face_model.hash,
    )  # fmt: skip


def encode_portrait(
    picture: np.ndarray,
    tracker: FaceTracker,
    face_model: FaceModel,
    *,
    size: int = 256,
    box: tuple[float, float, float, float] | None = None,
    mask: np.ndarray | None = None,
    face_index: int = 0,
) -> Appearance:
    """Find the face in a picture and describe it.

    Args:
        picture: uint8 RGB (H, W, 3).
        size: side of the face crop in pixels, a multiple of 32 (256 or 512).
        box: (x0, y0, x1, y1) in pixels around the wanted face; mask: (H, W), non-zero on it; face_index: 0 = largest.

    Raises UserError when there is no usable face.
    """
    if size % 32 or size < 64:
        raise UserError(f"The frame size {size} is not possible. Choose 256 or 512 (a multiple of 32).")
    face, note = tracker.find(picture, face_index, FaceBox(*box) if box else None, mask)
    appearance = from_landmarks(picture, face.landmarks, face_model, size, confidence=face.confidence)
    if note:
        appearance.notes.append(note)
    if face.confidence < MIN_CONFIDENCE:
        appearance.notes.append(
            "The face was found with little certainty. Check the crop preview, or give a box around the face."
        )
    return appearance
