"""Several people of one picture: who is animated stays on their own side, and leaves the others' faces alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..frames.appearance import Appearance
from ..frames.composite import Compositor, bands

FEATHER = 0.08  # half the width of the soft border between two faces, in shares of their distance


def own_side(appearance: Appearance) -> Tensor | None:
    """Weights of a portrait's crop at the picture's resolution, float16 (side, side): 0 on the sides of other faces.

    Two neighbours' weights add up to 1 between them; the border divides their distance as their sizes. None when no
    other face is near.
    """
    x0, y0, side = appearance.crop_box
    near = []
    for box in appearance.others:
        middle, reach = _middle(box)  # a face's own crop reaches its size from its middle, hair and neck included
        low, high = middle - reach, middle + reach
        if low[0] < x0 + side and high[0] > x0 and low[1] < y0 + side and high[1] > y0:
            near.append(box)
    if not near:
        return None
    own, size = _middle(appearance.box)
    weights = torch.ones(side, side, dtype=torch.float16)
    columns = torch.arange(x0, x0 + side) + 0.5 - own[0]
    for other, other_size in map(_middle, near):
        way = other - own
        length = float(way @ way)
        if length < 1:
            continue
        border = size / (size + other_size)
        for top, bottom in bands(0, side, side):
            rows = torch.arange(y0 + top, y0 + bottom) + 0.5 - own[1]
            along = (columns * float(way[0]) + rows[:, None] * float(way[1])) / length  # 0 here, 1 there
            share = ((border + FEATHER - along) / (2 * FEATHER)).clamp(0, 1)
            weights[top:bottom] *= (share * share * (3 - 2 * share)).half()
    return weights


def _middle(box: tuple[float, float, float, float]) -> tuple[np.ndarray, float]:
    x0, y0, x1, y1 = box
    return np.array([x0 + x1, y0 + y1]) / 2, max(x1 - x0, y1 - y0)


class SparingCompositor(Compositor):
    """A Compositor that leaves the picture's other faces alone, to the bit."""

    def __init__(self, appearance: Appearance, device: torch.device | str = "cpu"):
        super().__init__(appearance, device)
        side = own_side(appearance)
        if side is not None:
            self.mask = self.mask * side.to(self.device)


class GroupCompositor(SparingCompositor):
    """A SparingCompositor that pastes over what the frames already show, such as a neighbour who speaks, too."""

    def _blend(self, picture: Tensor, crop: Tensor, top: int, bottom: int) -> None:
        rows, columns = slice(top + self.y0, bottom + self.y0), slice(self.left, self.right)
        there = picture[rows, columns].permute(2, 0, 1).float()
        if picture.dtype == torch.uint8:
            there = there / 255
        mask = self.mask[top:bottom, self._columns].float()
        # Not there + mask * (crop - there): where the mask is 0 not a bit may change.
        crop = torch.where(mask > 0, there + mask * (crop.clamp(0, 1) - there), there)
        if picture.dtype == torch.uint8:
            crop = crop.mul(255).round()
        picture[rows, columns] = crop.permute(1, 2, 0).to(picture.dtype)
