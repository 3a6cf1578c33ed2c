"""Fine detail of a large portrait, moved along with the face: what a 256-pixel crop cannot hold."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..face.geometry import dense_flow, region_masks
from ..face.model import FaceModel
from ..motion.clip import MotionClip
from .appearance import Appearance, crop_rows
from .composite import RowResizer, bands

MASK_CELLS = 64


class WarpedDetail:
    """Detail of a few frames, computed a band of rows at a time when it is asked for.

    layer: float16 (3, side, side) high frequencies of the portrait. flow: (N, 2, g, g) backward, in shares of the
    crop. keep: (N, 1, c, c), 0 where the frame network's own picture must stay alone.
    """

    def __init__(self, layer: torch.Tensor, flow: torch.Tensor, keep: torch.Tensor):
        self.layer, self.side = layer, layer.shape[-1]
        self._flow_resizer = RowResizer(flow.shape[-1], self.side, "bilinear")
        self._keep_resizer = RowResizer(keep.shape[-1], self.side, "bilinear")
        self._flow, self._keep = self._flow_resizer.widen(flow), self._keep_resizer.widen(keep)
        self._line = (torch.arange(self.side) + 0.5) / self.side

    def rows(self, index: int, top: int, bottom: int) -> torch.Tensor:
        """Rows top .. bottom of frame `index`: float32 (3, bottom - top, side)."""
        x, y = self._flow_resizer.rows(self._flow[index], top, bottom)
        x, y = (x + self._line) * 2 - 1, (y + self._line[top:bottom, None]).mul_(self.side)
        # Only the rows of the layer that are looked at become float32; one more on each side for the interpolation.
        first = max(0, min(int(y.min()) - 1, self.side - 1))
        last = min(self.side, max(int(y.max()) + 2, first + 1))
        part = self.layer[None, :, first:last].float()
        where = torch.stack([x, (y - first) * (2 / (last - first)) - 1], -1)
        detail = F.grid_sample(part, where[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
        return detail.mul_(self._keep_resizer.rows(self._keep[index], top, bottom))


class DetailLayer:
    """High frequencies of the portrait's crop, warped to each frame and kept off the mouth and the eyes.

    There the frame network paints things that the portrait does not show, and old detail would lie on top of them.
    The crop enlarged as the compositor does it, plus this detail, is the portrait. torso: as in `dense_flow`.
    """

    def __init__(self, face_model: FaceModel, appearance: Appearance, torso: float = 1.0):
        self.face_model, self.appearance, self.torso = face_model, appearance, torso
        self.side = side = appearance.crop_box[2]
        self.layer: torch.Tensor | None = None
        if side > appearance.size:
            resizer = RowResizer(appearance.size, side, "bicubic")
            coarse = resizer.widen(appearance.crop[None])[0]
            self.layer = torch.empty(3, side, side, dtype=torch.float16)
            for top, bottom in bands(0, side, side):
                full = crop_rows(appearance.picture, appearance.crop_box, top, bottom)
                self.layer[:, top:bottom] = full - resizer.rows(coarse, top, bottom)

    def __call__(
        self, motion: MotionClip, start: int, count: int, flow: torch.Tensor | None = None
    ) -> WarpedDetail | None:
        """Detail of frames start .. start + count, or None when the crop already holds all.

        flow: their `dense_flow` (count, 2, g, g), where it is known already.
        """
        if self.layer is None:
            return None
        look = self.appearance
        beta, pose = motion.expression[start : start + count], look.pose + motion.pose[start : start + count]
        if flow is None:
            # One by one, which fits the processor's cache: twice as fast as all at once.
            flow = torch.cat([
                dense_flow(self.face_model, look.alpha, (look.beta, look.pose), target, torso=self.torso)
                for target in zip(beta[:, None], pose[:, None], strict=True)
            ])  # fmt: skip
        landmarks = self.face_model.landmarks(look.alpha.expand(len(beta), -1), beta, pose, 1.0)
        masks = region_masks(landmarks, MASK_CELLS)[:, :3].amax(1, keepdim=True)  # lips, mouth, eyes
        masks = F.avg_pool2d(F.max_pool2d(masks, 7, 1, 3), 5, 1, 2)
        return WarpedDetail(self.layer, flow.cpu().float(), 1 - masks)
