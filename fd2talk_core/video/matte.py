"""Transparency of a portrait, moved along with the head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..frames.appearance import Appearance, crop_rows, square_crop
from ..frames.composite import Compositor, bands
from ..frames.detail import WarpedDetail


class MovingMatte:
    """The opacity of a portrait's pixels in generated frames: it moves as the pixels themselves are warped.

    appearance: one with `opacity`, uint8 (H, W). compositor: what pastes the frames; where it leaves the picture alone,
    so does the matte. None for bare face crops.
    """

    def __init__(self, appearance: Appearance, compositor: Compositor | None):
        opacity = appearance.opacity[..., None]
        self.compositor = compositor
        if compositor is None:
            self.layer = square_crop(opacity, appearance.crop_box, appearance.size).half()
        else:
            self.still = torch.tensor(appearance.opacity)
            self.layer = crop_rows(opacity, appearance.crop_box, 0, compositor.side).half()  # (1, side, side)

    def frames(self, flow: Tensor) -> Iterator[Tensor]:
        """Opacity uint8 (H, W) of a few frames, one by one, of the picture's or crop's size; each is new.

        flow: backward, in shares of the crop, as they were warped (N, 2, g, g).
        """
        warped = WarpedDetail(self.layer, flow.cpu().float(), torch.ones(len(flow), 1, 1, 1))
        for index in range(len(flow)):
            if self.compositor is None:
                yield warped.rows(index, 0, warped.side)[0].mul(255).round().byte()
            else:
                yield self._pasted(warped, index)

    def _pasted(self, warped: WarpedDetail, index: int) -> Tensor:
        paste, frame = self.compositor, self.still.clone()
        columns = slice(paste.left - paste.x0, paste.right - paste.x0)
        for top, bottom in bands(paste.top - paste.y0, paste.bottom - paste.y0, paste.right - paste.left):
            part = frame[top + paste.y0 : bottom + paste.y0, paste.left : paste.right]
            there = part.float()
            mask = paste.mask[top:bottom, columns].float().cpu()
            part.copy_(torch.lerp(there, warped.rows(index, top, bottom)[0, :, columns] * 255, mask).round())
        return frame


def with_alpha(pictures, alpha: Tensor) -> Tensor:
    """Pictures (B, H, W, 3), uint8 or floating point in 0..1, and opacity uint8 (B, H, W) -> the same with alpha."""
    pictures = torch.as_tensor(np.asarray(pictures))
    alpha = alpha if pictures.dtype == torch.uint8 else alpha.to(pictures.dtype) / 255
    return torch.cat([pictures, alpha[..., None]], -1)
