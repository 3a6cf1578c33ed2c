"""Pasting generated crops back into the portrait, at the portrait's own resolution."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FEATHER_START = 0.86
SUPERELLIPSE = 6.0
COLOUR_GRID = 16
# Differences above this are moved content (hair, shoulders), not a colour cast.
COLOUR_TOLERANCE = 0.06
# A portrait whose channels differ less than this is grey, and stays so.
GREY_TOLERANCE = 0.02
# Work is done in bands of about so many pixels: they fit the processor's cache, and a face of 8000 pixels fits memory.
BAND_PIXELS = 1 << 18


def bands(first: int, last: int, width: int) -> Iterator[tuple[int, int]]:
    """Rows first .. last, cut into (top, bottom) of about BAND_PIXELS pixels each."""
    step = max(1, BAND_PIXELS // max(width, 1))
    for top in range(first, last, step):
        yield top, min(top + step, last)


class RowResizer:
    """Resizes pictures (C, n, n) to a square of `side`, band by band, so that the large one never exists as a whole.

    The same as `F.interpolate(..., antialias=True)` in the given mode, "bilinear" or "bicubic".
    """

    def __init__(self, source: int, side: int, mode: str, device: torch.device | str = "cpu"):
        self.source, self.side, self.mode = source, side, mode
        self.weights = self._scaled(torch.eye(source, device=device)[None, None], side, source)[0, 0]  # (side, source)
        used = self.weights != 0
        self._first = used.int().argmax(1).tolist()
        self._last = (source - used.flip(1).int().argmax(1)).tolist()

    def _scaled(self, pictures: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(pictures, size=(height, width), mode=self.mode, antialias=True, align_corners=False)

    def widen(self, pictures: Tensor) -> Tensor:
        """The first half of the work: (N, C, n, n) -> (N, C, n, side)."""
        return self._scaled(pictures, self.source, self.side)

    def rows(self, wide: Tensor, top: int, bottom: int) -> Tensor:
        """Rows top .. bottom of the result: one widened picture (C, n, w) -> (C, bottom - top, w)."""
        first, last = min(self._first[top:bottom]), max(self._last[top:bottom])
        return self.weights[top:bottom, first:last] @ wide[:, first:last]


class Detail(Protocol):
    """What the compositor adds to a resized frame: `detail.WarpedDetail`."""

    def rows(self, index: int, top: int, bottom: int) -> Tensor:
        """Rows of the crop at the portrait's resolution, for frame `index`: (3, bottom - top, side)."""


def superellipse_radius(size: int, device: torch.device | str = "cpu", rows: slice = slice(None)) -> Tensor:
    """(rows, size): 0 in the crop's centre, 1 where a square with rounded corners touches the crop's border."""
    axis = ((torch.arange(size, device=device) + 0.5) * 2 / size - 1).abs() ** SUPERELLIPSE
    return (axis[rows, None] + axis[None, :]) ** (1 / SUPERELLIPSE)


def feather_mask(size: int, device: torch.device | str = "cpu") -> Tensor:
    """float16 (size, size) weights of the generated crop: 1 inside, falling smoothly to 0 at the crop's border."""
    mask = torch.empty(size, size, dtype=torch.float16, device=device)
    for top, bottom in bands(0, size, size):
        share = ((1 - superellipse_radius(size, device, slice(top, bottom))) / (1 - FEATHER_START)).clamp(0, 1)
        mask[top:bottom] = share * share * (3 - 2 * share)
    return mask


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

    Pixels outside the crop's rounded mask are the portrait's own, the same in every frame, and are not touched: only
    the crop is computed, in bands, so that memory depends neither on the video's length nor on the portrait's size.
    """

    def __init__(self, appearance, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.picture = np.asarray(appearance.picture)  # uint8 (H, W, 3)
        self.x0, self.y0, self.side = (int(v) for v in appearance.crop_box)
        self.reference = torch.as_tensor(appearance.crop, dtype=torch.float32, device=self.device)  # (3, s, s)
        height, width = self.picture.shape[:2]
        # The part of the crop that lies inside the picture, in picture pixels.
        self.left, self.top = max(self.x0, 0), max(self.y0, 0)
        self.right, self.bottom = min(self.x0 + self.side, width), min(self.y0 + self.side, height)
        self._columns = slice(self.left - self.x0, self.right - self.x0)
        self.mask = feather_mask(self.side, self.device)
        self.background = torch.tensor(
            self.picture[self.top : self.bottom, self.left : self.right], device=self.device
        )  # uint8 (h, w, 3)
        size = self.reference.shape[-1]
        self._resizer = RowResizer(size, self.side, "bicubic", self.device)
        self._ring, self._spread = colour_weights(size, self.device)
        self._canvas: Tensor | None = None
        self.grey = bool((self.reference.amax(0) - self.reference.amin(0)).max() < GREY_TOLERANCE)

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

    def blank(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The portrait `count` times, (count, H, W, 3): uint8, or floating point in 0..1."""
        portrait = torch.tensor(self.picture, device=self.device)
        if dtype == torch.uint8:
            return portrait.repeat(count, 1, 1, 1) if count != 1 else portrait[None]
        out = torch.empty(count, *portrait.shape, dtype=dtype, device=self.device)
        self.fill(out)
        return out

    def fill(self, out: Tensor) -> None:
        """Write the portrait into every frame of floating point `out` (b, H, W, 3), as 0..1."""
        portrait = torch.tensor(self.picture)
        for frame in out:
            frame.copy_(portrait).div_(255)

    def paste_into(self, out: Tensor, frames: Tensor, detail: Detail | None = None) -> None:
        """Paste generated crops into pictures that show the portrait already; only pixels under the mask change.

        A picture that was pasted into before may be used again: all that changed in it is overwritten.

        Args:
            out: (b, H, W, 3), uint8 or floating point in 0..1, from `blank` or `fill`.
            frames: (b, s, s, 3) in 0..1, the generated crops; s is the appearance's size.
            detail: high frequencies at the portrait's resolution, see `DetailLayer`.
        """
        for index, frame in enumerate(self._widened(frames)):
            self._paste_one(out[index], frame, detail, index)

    def stream(self, frames: Tensor, detail: Detail | None = None) -> Iterator[Tensor]:
        """Pasted frames one by one, uint8 (1, H, W, 3), for an encoder: every one is written over the one before."""
        if self._canvas is None:
            self._canvas = self.blank(1, torch.uint8)
        for index, frame in enumerate(self._widened(frames)):
            self._paste_one(self._canvas[0], frame, detail, index)
            yield self._canvas

    def _widened(self, frames: Tensor) -> Tensor:
        """Crops (b, s, s, 3), their colours matched, as wide as they will be: (b, 3, s, w)."""
        frames = frames.to(self.device, torch.float32).permute(0, 3, 1, 2)
        if frames.shape[-1] != self.reference.shape[-1] or frames.shape[-1] != frames.shape[-2]:
            raise ValueError(f"frames are {tuple(frames.shape)}, expected a side of {self.reference.shape[-1]}")
        if self.grey:
            frames = frames.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        return self._resizer.widen(self.match_colours(frames))[..., self._columns]

    def _paste_one(self, picture: Tensor, frame: Tensor, detail: Detail | None, index: int) -> None:
        for top, bottom in bands(self.top - self.y0, self.bottom - self.y0, self.right - self.left):
            crop = self._resizer.rows(frame, top, bottom)
            if detail is not None:
                crop += detail.rows(index, top, bottom)[..., self._columns].to(self.device)
            self._blend(picture, crop, top, bottom)

    def _blend(self, picture: Tensor, crop: Tensor, top: int, bottom: int) -> None:
        """Blend rows top .. bottom of the crop (3, n, w) into one picture (H, W, 3)."""
        first, last = top + self.y0, bottom + self.y0
        background = self.background[first - self.top : last - self.top].permute(2, 0, 1).float().div_(255)
        crop = crop.clamp_(0, 1).sub_(background).mul_(self.mask[top:bottom, self._columns].float()).add_(background)
        if picture.dtype == torch.uint8:
            crop = crop.mul_(255).round_()
        picture[first:last, self.left : self.right].copy_(crop.permute(1, 2, 0))

    def paste(self, frames: Tensor, detail: Detail | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Paste generated crops (b, s, s, 3) in 0..1 into copies of the portrait: (b, H, W, 3), see `paste_into`."""
        out = self.blank(len(frames), dtype)
        self.paste_into(out, frames, detail)
        return out


def paste_back(appearance, frames: Tensor, detail: Detail | None = None) -> Tensor:
    """Paste generated crops (b, s, s, 3) in 0..1 into their portrait: float32 (b, H, W, 3) in 0..1.

    appearance: the `Appearance` that the frames were generated from. detail: see `Compositor.paste_into`; for many
    batches of one portrait use a `Compositor`, which keeps its masks.
    """
    return Compositor(appearance, frames.device).paste(frames, detail)
