"""Index groups of the 478-vertex MediaPipe face topology (face mesh plus irises)."""

from __future__ import annotations

import numpy as np
import torch

N_VERTICES = 478

# Contours are listed in order around the shape, so that they can be filled as polygons.
LIPS_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
LIPS_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
EYE_RIGHT = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
EYE_LEFT = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
BROW_RIGHT = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
BROW_LEFT = (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
IRIS_RIGHT = (468, 469, 470, 471, 472)
IRIS_LEFT = (473, 474, 475, 476, 477)
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip

OUTER_EYE_CORNERS = (33, 263)
LIP_GAP = (13, 14)
MOUTH_CORNERS = (61, 291)

# Vertices that expression hardly moves; head pose is fitted on them.
STABLE = (
    33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 98, 327, 97, 326, 129, 358, 10, 151, 9, 8, 109, 338,
    67, 297, 103, 332, 54, 284, 21, 251, 162, 389, 127, 356, 234, 454, 93, 323, 227, 447, 193, 417, 122, 351,
)  # fmt: skip


def inter_ocular_distance(landmarks):
    """Distance between the outer eye corners, over x, y and z. (..., 478, 3) -> (...); numpy or torch."""
    difference = landmarks[..., OUTER_EYE_CORNERS[0], :] - landmarks[..., OUTER_EYE_CORNERS[1], :]
    return (difference**2).sum(-1) ** 0.5


def mouth_opening(landmarks):
    """Inner-lip gap over inter-ocular distance. (..., 478, 3) -> (...); numpy or torch."""
    difference = landmarks[..., LIP_GAP[0], :] - landmarks[..., LIP_GAP[1], :]
    return (difference**2).sum(-1) ** 0.5 / inter_ocular_distance(landmarks)


def eye_opening(landmarks):
    """Mean lid gap over eye width of both eyes, in about 0 (shut) .. 0.4. (..., 478, 3) -> (...)."""
    gaps = []
    for upper, lower, outer, inner in ((159, 145, 33, 133), (386, 374, 263, 362)):
        gap = ((landmarks[..., upper, :] - landmarks[..., lower, :]) ** 2).sum(-1) ** 0.5
        width = ((landmarks[..., outer, :] - landmarks[..., inner, :]) ** 2).sum(-1) ** 0.5
        gaps.append(gap / width)
    return (gaps[0] + gaps[1]) / 2


def face_box(landmarks: np.ndarray | torch.Tensor) -> tuple[float, float, float, float]:
    """Bounding box (x0, y0, x1, y1) of landmarks (478, 2 or 3), in their own unit."""
    points = np.asarray(landmarks)[..., :2]
    low, high = points.min(0), points.max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
