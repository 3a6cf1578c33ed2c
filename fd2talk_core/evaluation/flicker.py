"""Flicker: how much fine detail trembles where the real clip stands still."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..face.landmarks import FACE_OVAL, inter_ocular_distance
from .metrics import luma

WINDOW = 5  # px of the box blur that parts high from low frequencies
FACE_MARGIN = 0.25  # inter-ocular distances around the face that never count as static
STILL_BELOW = 1.5  # grey levels: temporal standard deviation of the blurred luminance
LEAST_SHARE, LEAST_FRAMES = 0.01, 8
# A video holds 8 bits. Below the noise of rounding to them nothing can be told apart.
ROUNDING = 12**-0.5


def polygon_mask(points: np.ndarray, size: int) -> Tensor:
    """Inside of a polygon (n, 2 or 3) in px of a picture of side `size` -> bool (size, size)."""
    picture = Image.new("L", (size, size))
    ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in points[:, :2]], fill=1)
    return torch.from_numpy(np.array(picture)).bool()


def _blurred(grey: Tensor) -> Tensor:
    return F.avg_pool2d(grey, WINDOW, 1, WINDOW // 2, count_include_pad=False)


def static_pixels(real: Tensor, landmarks: np.ndarray) -> Tensor | None:
    """Pixels outside of the face at which a real clip (T, 3, S, S) does not change -> bool (S, S), None if too few.

    landmarks: (T, 478, 3) px. Stillness is judged by low frequencies alone, so that pixels are not chosen for how
    little flicker they have.
    """
    size = real.shape[-1]
    if len(real) < LEAST_FRAMES:
        return None
    face = torch.stack([polygon_mask(points[list(FACE_OVAL)], size) for points in landmarks]).any(0)
    reach = int(np.ceil(FACE_MARGIN * np.median(inter_ocular_distance(landmarks))))
    near = F.max_pool2d(face[None, None].float(), 2 * reach + 1, 1, reach)[0, 0] > 0
    still = _blurred(luma(real)).std(0, correction=0)[0] * 255 < STILL_BELOW
    static = still & ~near
    return static if static.float().mean() >= LEAST_SHARE else None


def flicker(frames: Tensor, static: Tensor) -> float:
    """Temporal standard deviation of the high-pass luminance, mean over static pixels, in grey levels of 255.

    frames: (T, 3, S, S) in 0..1; static: bool (S, S).
    """
    grey = luma(frames)
    trembling = (grey - _blurred(grey)).std(0, correction=0)[0]
    return float(trembling[static].mean() * 255)


def compare_flicker(made: Tensor, real: Tensor, landmarks: np.ndarray) -> dict[str, float | None]:
    """flicker and real_flicker in grey levels, and flicker_ratio; all None where too little of the clip is static.

    The ratio's denominator is never below the rounding noise of 8 bits, as the background of generated clips may not
    change at all.
    """
    static = static_pixels(real, landmarks)
    if static is None:
        return dict.fromkeys(("flicker", "real_flicker", "flicker_ratio"))
    ours, truth = flicker(made, static), flicker(real, static)
    return {"flicker": ours, "real_flicker": truth, "flicker_ratio": ours / max(truth, ROUNDING)}
