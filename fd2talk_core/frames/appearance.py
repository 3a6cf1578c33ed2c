"""The APPEARANCE of a portrait: its face crop and the face's coefficients in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import UserError
from ..face.landmarks import eye_opening, mouth_opening
from ..face.model import FaceModel
from ..face.tracker import FaceBox, FaceTracker
from .composite import bands

CROP_FACTOR = 2.0
MIN_CONFIDENCE = 0.3
# All of 221 portraits are found with more than this; faces on their head, chin taken for forehead, with less.
SURE = 0.996
# Where remarks begin. Of 221 official portraits and paintings 9 are turned further, none further up, down or tilted.
# In 95 of 100 the mouth is open by less than 0.19, laughs among them.
FAR_TURN, FAR_NOD, FAR_TILT = 30.0, 28.0, 35.0  # degrees
OPEN_MOUTH = 0.22
# Eyes count as shut when they open less than the first plus the second times the brightness of the irises over that
# of the skin around. The tracked opening alone is not enough: it follows shut lids halfway. Right for 66 % of 70
# frames of blinks, wrong for 3 % of 63 frames between blinks and of 221 portraits.
SHUT_EYES = (0.05, 0.3)
IRIS_RADIUS = 0.16  # share of the eye's width
CUT_OFF = 0.03  # share of the face's height
SOFT_BELOW = 0.75  # pixels of the crop in the picture over pixels generated


@dataclass
class Appearance:
    """One portrait, ready for stage 2.

    picture: uint8 (H, W, 3), the whole picture. crop_box: (x0, y0, side) in its pixels, inside the picture where
    possible. crop: float32 (3, size, size) in 0..1. landmarks: (478, 3) pixels of the crop at `size`. alpha (80,),
    beta (64,), pose (6,): the face's coefficients in the crop. notes: what the user should know, in sentences.
    box, others: (x0, y0, x1, y1) in pixels of the picture, of this face (None = unknown) and of those beside it.
    opacity: uint8 (H, W) of the picture, None when nothing of it is transparent.
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
    box: tuple[float, float, float, float] | None = None
    others: tuple[tuple[float, float, float, float], ...] = ()
    opacity: np.ndarray | None = None


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


def iris_brightness(crop: torch.Tensor, landmarks: torch.Tensor) -> float:
    """Brightness where the irises should be, over that of the skin around the eyes; crop (3, S, S), (478, 3) pixels."""
    grey, size = crop.mean(0), crop.shape[-1]
    line = torch.arange(size) + 0.5
    ratios = []
    for iris, corners, skin in ((468, (33, 133), (27, 29, 230)), (473, (263, 362), (257, 259, 450))):
        width = (landmarks[corners[0], :2] - landmarks[corners[1], :2]).norm()
        x, y = landmarks[iris, :2]
        inside = (line - x) ** 2 + (line[:, None] - y) ** 2 < (IRIS_RADIUS * width) ** 2
        around = landmarks[list(skin), :2].long().clamp(0, size - 1)
        if inside.any():
            ratios.append(float(grey[inside].mean() / grey[around[:, 1], around[:, 0]].mean().clamp(min=0.02)))
    return sum(ratios) / len(ratios) if ratios else 0.0


def remarks(appearance: Appearance, face_model: FaceModel) -> list[str]:
    """What makes a portrait hard to animate, in sentences for the user."""
    pitch, yaw, roll = (math.degrees(angle) for angle in appearance.pose[:3].tolist())
    shape = face_model.vertices(appearance.alpha, appearance.beta)
    brightness = iris_brightness(appearance.crop, appearance.landmarks)
    x0, y0, side = appearance.crop_box
    height, width = appearance.picture.shape[:2]
    points = appearance.landmarks[:, :2] * (side / appearance.size) + torch.tensor([x0, y0])
    face = float((points.max(0).values - points.min(0).values).max())
    beyond = float(torch.stack([-points, points - torch.tensor([width, height])]).max())
    found = {
        f"The head is turned far to the side (about {abs(yaw):.0f} degrees), so much of the face must be made up. "
        "Choose a more frontal picture.": abs(yaw) > FAR_TURN,
        f"The head looks far {'down' if pitch > 0 else 'up'} (about {abs(pitch):.0f} degrees), so part of the face "
        "must be made up. Choose a more frontal picture.": abs(pitch) > FAR_NOD,
        f"The head is tilted by about {abs(roll):.0f} degrees. Turn the picture upright for better results.": (
            abs(roll) > FAR_TILT
        ),
        "The eyes seem to be shut or hidden in the portrait, so their look must be made up. Choose a picture with open "
        "eyes.": float(eye_opening(shape)) < SHUT_EYES[0] + SHUT_EYES[1] * brightness,
        "The mouth is wide open in the portrait, so closed lips must be made up. Choose a picture with a closed or "
        "gently smiling mouth.": float(mouth_opening(shape)) > OPEN_MOUTH,
        "The face is cut off at the picture's edge, and what is missing is filled with the edge's colours. Choose a "
        "picture that shows the whole face.": beyond > CUT_OFF * face,
        f"The face is small ({face:.0f} pixels), so the frames of {appearance.size} pixels are soft. Use a larger "
        "picture of it for sharper ones.": side < SOFT_BELOW * appearance.size,
    }
    return [sentence for sentence, holds in found.items() if holds]


def _upside_down(picture: np.ndarray, tracker: FaceTracker) -> bool:
    return any(face.confidence > SURE for face in tracker.track(picture[::-1, ::-1]))


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
    if face.confidence < SURE and _upside_down(picture, tracker):
        raise UserError("The face stands on its head in the picture. Turn the picture upright.")
    appearance = from_landmarks(picture, face.landmarks, face_model, size, confidence=face.confidence)
    if note:
        appearance.notes.append(note)
    if face.confidence < MIN_CONFIDENCE:
        appearance.notes.append(
            "The face was found with little certainty. Check the crop preview, or give a box around the face."
        )
    appearance.notes += remarks(appearance, face_model)
    return appearance
