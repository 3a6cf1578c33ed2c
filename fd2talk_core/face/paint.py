"""What opens and what closes: the mouth's inside and the lids, painted into a warped picture.

A warp only moves what the portrait shows. Closed lips that part would stretch over the opening, and lids that shut
would squeeze the eye instead of covering it. A first, plain guess of what appears there is painted from the
portrait's own colours; the frame network works from it.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from .landmarks import EYE_LEFT, EYE_RIGHT, LIPS_INNER, LIPS_OUTER, eye_opening, mouth_opening
from .model import FaceModel

# Upper lid margins from corner to corner, and the skin above them that a closing lid brings down.
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LID_SKIN = ((29, 27, 28), (259, 257, 258))
# Colour of what shows between parting lips, over that of the lips: little parted, teeth and lip; wide open, the dark of
# the mouth. In open mouths of the training clips the median is (0.79, 0.86, 0.86); a dark guess costs more than a light
# one, but a wide open mouth without dark looks like a plug.
PARTED_COLOUR, OPEN_COLOUR = (0.58, 0.6, 0.6), (0.42, 0.35, 0.34)
PARTED, OPEN = 0.06, 0.2  # openings in inter-ocular distances
LASH_DARKNESS = 0.35
# A reference whose mouth is this open shows its inside already, and the warp carries it along.
OPEN_REFERENCE = 0.08
# How far lips have to part beyond the reference's, in inter-ocular distances, to be painted fully.
PARTING = 0.05
# Shares of its opening from which on an eye counts as closing, and at which its lid covers it fully.
SHUT_FROM, SHUT_FULLY = 0.15, 0.5
OVERSAMPLE = 2


def _polygons(points: np.ndarray, contours: tuple[tuple[int, ...], ...], size: int) -> np.ndarray:
    """Coverage (size, size) of closed contours of one face; points (478, 2) in shares of the picture."""
    side = size * OVERSAMPLE
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for contour in contours:
        draw.polygon([tuple(points[i] * side) for i in contour], fill=255)
    return np.asarray(image.reduce(OVERSAMPLE), dtype=np.float32) / 255


def _lashes(points: np.ndarray, line: tuple[int, ...], size: int) -> np.ndarray:
    side = size * OVERSAMPLE
    image = Image.new("L", (side, side))
    width = max(2, round(side * 0.006))
    ImageDraw.Draw(image).line([tuple(points[i] * side) for i in line], fill=255, width=width, joint="curve")
    return np.asarray(image.reduce(OVERSAMPLE), dtype=np.float32) / 255


def _colour_at(picture: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Mean colour (3,) of a picture (3, S, S) around points (P, 2) in shares."""
    soft = F.avg_pool2d(picture[None], 3, 1, 1)
    return F.grid_sample(soft, (points * 2 - 1)[None, None], align_corners=False)[0, :, 0].mean(1)


def lids_coming_down(shut: torch.Tensor) -> torch.Tensor:
    """How much lids cover, 0..1, of eyes that are shut by `shut`: those of a face at rest tremble a little."""
    return ((shut - SHUT_FROM) / (SHUT_FULLY - SHUT_FROM)).clamp(0, 1)


def eyes_shut(model: FaceModel, alpha: torch.Tensor, reference: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Share (N,) of the eyes' opening in the reference that is gone: alpha (N, 80), expressions (N, 64)."""
    rest, now = (eye_opening(model.vertices(alpha, values)) for values in (reference, beta))
    return (1 - now / rest.clamp(min=1e-3)).clamp(0, 1)


class OpeningPainter:
    """Colours of one portrait (crop (3, S, S) in 0..1, with its alpha, beta and pose), and painting with them."""

    def __init__(
        self, model: FaceModel, crop: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor
    ):
        self.model, self.alpha, self.beta = model, alpha, beta
        crop = crop.cpu()
        rest = model.vertices(alpha, beta)
        points = model.project(rest, pose, 1.0)[..., :2]
        self.mouth_rest, self.eye_rest = float(mouth_opening(rest)), float(eye_opening(rest))
        self.lips = _colour_at(crop, points[list(LIPS_OUTER)])
        self.lids = [_colour_at(crop, points[list(skin)]) for skin in LID_SKIN]

    def __call__(self, warped: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """Paint into warped pictures (N, 3, S, S) of target frames (N, 64), (N, 6); returns them changed."""
        size = warped.shape[-1]
        shapes = self.model.vertices(self.alpha.expand(len(beta), -1), beta)
        opening = mouth_opening(shapes)
        wide_open = ((opening - PARTED) / (OPEN - PARTED)).clamp(0, 1)[:, None]
        inside = self.lips * torch.lerp(torch.tensor(PARTED_COLOUR), torch.tensor(OPEN_COLOUR), wide_open)  # (N, 3)
        mouth = ((opening - max(self.mouth_rest, 0.015)) / PARTING).clamp(0, 1)
        mouth = mouth * max(0.0, 1 - self.mouth_rest / OPEN_REFERENCE)
        shut = (1 - eye_opening(shapes) / max(self.eye_rest, 1e-3)).clamp(0, 1)
        points = self.model.project(shapes, pose, 1.0)[..., :2].numpy()
        open_beta = beta.clone()
        lids = self.model.slices["eyelids"]
        open_beta[:, lids] = self.beta[lids]
        wide = self.model.landmarks(self.alpha.expand(len(beta), -1), open_beta, pose, 1.0)[..., :2].numpy()
        for index in range(len(beta)):
            picture = warped[index]
            if mouth[index] > 0:
                mask = _polygons(points[index], (LIPS_INNER,), size)
                picture = self._blend(picture, mask * float(mouth[index]), inside[index])
            if shut[index] > SHUT_FROM:
                for contour, line, colour in zip((EYE_RIGHT, EYE_LEFT), UPPER_LIDS, self.lids, strict=True):
                    # Nearly shut, the last gap between the lids is covered too; the lashes mark it.
                    gap = 1 - ((float(shut[index]) - 0.45) / 0.2)
                    seen = _polygons(points[index], (contour,), size) * min(1.0, max(0.0, gap))
                    covered = _polygons(wide[index], (contour,), size) - seen
                    strength = float(lids_coming_down(shut[index]))
                    picture = self._blend(picture, covered.clip(0, 1) * strength, colour)
                    lashes = _lashes(points[index], line, size) * 0.8 * strength
                    picture = self._blend(picture, lashes, colour * LASH_DARKNESS)
            warped[index] = picture
        return warped

    @staticmethod
    def _blend(picture: torch.Tensor, mask: np.ndarray, colour: torch.Tensor) -> torch.Tensor:
        soft = F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(mask))[None], 3, 1, 1).to(picture)
        return picture + soft * (colour.to(picture)[:, None, None] - picture)
