"""Fine detail of a large portrait, moved along with the face: what a 256-pixel crop cannot hold."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..face.geometry import dense_flow, region_masks, warp
from ..face.model import FaceModel
from ..motion.clip import MotionClip
from .appearance import Appearance, square_crop

MAX_SIDE = 2048  # beyond that, detail of a talking face is not seen, and memory is
MASK_CELLS = 64


class DetailLayer:
    """High frequencies of the portrait's crop, warped to each frame and kept off the mouth opening and the eyes.

    There the frame network paints things that the portrait does not show, and old detail would lie on top of them.
    """

    def __init__(self, face_model: FaceModel, appearance: Appearance):
        self.face_model, self.appearance = face_model, appearance
        self.side = appearance.crop_box[2]
        side = min(self.side, MAX_SIDE)
        self.layer: torch.Tensor | None = None
        if side > appearance.size:
            full = square_crop(appearance.picture, appearance.crop_box, side)
            coarse = F.interpolate(appearance.crop[None], size=(side, side), mode="bicubic", align_corners=False)[0]
            self.layer = full - coarse  # (3, side, side)

    def __call__(self, motion: MotionClip, start: int, count: int) -> torch.Tensor | None:
        """Detail of frames start .. start + count: (count, 3, side, side), or None when the crop already holds all."""
        if self.layer is None:
            return None
        look = self.appearance
        beta, pose = motion.expression[start : start + count], look.pose + motion.pose[start : start + count]
        flow = dense_flow(self.face_model, look.alpha, (look.beta, look.pose), (beta, pose))
        landmarks = self.face_model.landmarks(look.alpha.expand(len(beta), -1), beta, pose, 1.0)
        masks = region_masks(landmarks, MASK_CELLS)[:, :3].amax(1, keepdim=True)  # lips, mouth, eyes
        masks = F.avg_pool2d(F.max_pool2d(masks, 5, 1, 2), 5, 1, 2)
        size = self.layer.shape[-1]
        keep = 1 - F.interpolate(masks, size=(size, size), mode="bilinear", align_corners=False)
        detail = warp(self.layer, flow) * keep
        if size != self.side:
            detail = F.interpolate(detail, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return detail
