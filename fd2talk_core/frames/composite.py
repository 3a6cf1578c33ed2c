"""Pasting generated crops back into the portrait, at the portrait's own resolution."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..face.landmarks import LIPS_OUTER, inter_ocular_distance

FEATHER_START = 0.86
SUPERELLIPSE = 6.0
COLOUR_GRID = 16
# Differences above this are moved content (hair, shoulders), not a colour cast.
COLOUR_TOLERANCE = 0.06


def superellipse_radius(size: int, device: torch.device | str = "cpu") -> Tensor:
    """(size, size): 0 in the crop's centre, 1 where a square with rounded corners touches the crop's border."""
    axis = ((torch.arange(size, device=device) + 0.5) * 2 / size - 1).abs() ** SUPERELLIPSE
    return (axis[:, None] + axis[None, :]) ** (1 / SUPERELLIPSE)


@lru_cache(maxsize=4)
def feather_mask(size: int, device: torch.device | str = "cpu") -> Tensor:
    """(size, size) weights of the generated crop: 1 inside, falling smoothly to 0 at the crop's border. Read only."""
    share = ((1 - superellipse_radius(size, device)) / (1 - FEATHER_START)).clamp(0, 1)
    return share * share * (3 - 2 * share)


@lru_cache(maxsize=4)
def colour_weights(size: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The border ring in which colours are compared (size, size), and how its cells spread inwards (g², g²)."""
    radius = superellipse_radius(size, device)
    ring = ((radius > FEATHER_START - 0.06) & (radius < 1)).float()
    cells = (torch.arange(COLOUR_GRID, device=device) + 0.5) / COLOUR_GRID
    points = torch.cartesian_prod(cells, cells)  # (g², 2)
    spread = 1 / (torch.cdist(points, points) ** 2 + (1.0 / COLOUR_GRID) ** 2)
    return ring, spread / spread.sum(1, keepdim=True)


class Compositor:
    """Pastes frames of one portrait; holds the masks, so that many small batches cost little.

    Works a batch at a time: memory depends on the batch and the picture's size, not on the video's length.
    Pixels outside the crop's rounded mask are the portrait's own, the same in every frame.
    """

    def __init__(self, appearance, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.picture = torch.tensor(np.asarray(appearance.picture), device=self.device)  # (H, W, 3) uint8
        self.x0, self.y0, self.side = (int(v) for v in appearance.crop_box)
        self.reference = torch.as_tensor(appearance.crop, dtype=torch.float32, device=self.device)  # (3, s, s)
        height, width = self.picture.shape[:2]
        # The part of the crop that lies inside the picture, in picture pixels.
        self.left, self.top = max(self.x0, 0), max(self.y0, 0)
        self.right, self.bottom = min(self.x0 + self.side, width), min(self.y0 + self.side, height)
        rows = slice(self.top - self.y0, self.bottom - self.y0)
        columns = slice(self.left - self.x0, self.right - self.x0)
        self._inside = (..., rows, columns)
        self.mask = feather_mask(self.side, self.device)[self._inside]  # (h, w)
        background = self.picture[self.top : self.bottom, self.left : self.right]
        self.background = background.permute(2, 0, 1).float() / 255  # (3, h, w)
        self._lips = torch.tensor(np.asarray(appearance.landmarks), dtype=torch.float32)
        self._ring, self._spread = colour_weights(self.reference.shape[-1], self.device)

    def match_colours(self, frames: Tensor) -> Tensor:
        """Shift frames (b, 3, s, s) smoothly so that they meet the portrait's colours in the border ring.

        The difference to the portrait is averaged over cells of the ring and spread inwards by inverse squared
        distance; where ring and portrait show different things it is not trusted.
        """
        difference = self.reference - frames
        trust = self._ring * torch.exp(-((difference.abs().mean(1, keepdim=True) / COLOUR_TOLERANCE) ** 2))
        total = F.adaptive_avg_pool2d(trust * difference, COLOUR_GRID).flatten(2)  # (b, 3, g²)
        weight = F.adaptive_avg_pool2d(trust, COLOUR_GRID).flatten(2)  # (b, 1, g²)
        field = (total @ self._spread) / (weight @ self._spread + 1e-2)
        field = field.unflatten(2, (COLOUR_GRID, COLOUR_GRID))
        return frames + F.interpolate(field, size=frames.shape[-2:], mode="bilinear", align_corners=False)

    def mouth_weight(self) -> Tensor:
        """(h, w) weights 0..1 of the mouth, with a soft border, in the visible part of the crop."""
        size = self.reference.shape[-1]
        lips = self._lips[list(LIPS_OUTER), :2]
        low, high = lips.min(0).values, lips.max(0).values
        reach = (high - low) / 2 + 0.25 * inter_ocular_distance(self._lips)
        centre = (low + high) / 2 / size * self.side
        reach = reach / size * self.side
        axis = torch.arange(self.side) + 0.5
        x, y = (axis - centre[0]) / reach[0], (axis - centre[1]) / reach[1]
        distance = (x[None, :] ** 2 + y[:, None] ** 2).sqrt()
        return ((1.2 - distance) / 0.4).clamp(0, 1)[self._inside].to(self.device)

    def paste(self, frames: Tensor, detail: Tensor | None = None) -> Tensor:
        """Paste generated crops.

        Args:
            frames: (b, s, s, 3) in 0..1, the generated crops; s is the appearance's size.
            detail: (b, 3, side, side), high frequencies at the portrait's resolution, added outside the mouth.

        Returns float32 (b, H, W, 3) in 0..1.
        """
        frames = frames.to(self.device, torch.float32).permute(0, 3, 1, 2)
        if frames.shape[-1] != self.reference.shape[-1] or frames.shape[-1] != frames.shape[-2]:
            raise ValueError(f"frames are {tuple(frames.shape)}, expected a side of {self.reference.shape[-1]}")
        frames = self.match_colours(frames)
        keep = None if detail is None else 1 - self.mouth_weight()
        height, width = self.picture.shape[:2]
        out = torch.empty(len(frames), height, width, 3, device=self.device)
        out[:] = self.picture.float() / 255
        for index, frame in enumerate(frames):
            crop = F.interpolate(
                frame[None], size=(self.side, self.side), mode="bicubic", align_corners=False, antialias=True
            )[0][self._inside]
            if detail is not None:
                crop = crop + keep * detail[index][self._inside].to(self.device)
            crop = self.background + self.mask * (crop.clamp(0, 1) - self.background)
            out[index, self.top : self.bottom, self.left : self.right] = crop.permute(1, 2, 0)
        return out


def paste_back(appearance, frames: Tensor, detail: Tensor | None = None) -> Tensor:
    """Paste generated crops (b, s, s, 3) in 0..1 into their portrait: float32 (b, H, W, 3) in 0..1.

    appearance: the `Appearance` that the frames were generated from. detail: see `Compositor.paste`; for many
    batches of one portrait use a `Compositor`, which keeps its masks.
    """
    return Compositor(appearance, frames.device).paste(frames, detail)
