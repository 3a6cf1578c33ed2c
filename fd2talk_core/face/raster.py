"""Polygons and piecewise linear curves on pictures, for many faces at once on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch

ROWS_PER_PIXEL = 4
NOTHING = 1e-4  # coverage below this is rounding


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def places(self, size: int, device: torch.device) -> torch.Tensor:
        """Centres (height * width, 2) of its pixels as x, y in shares of a picture of side `size`."""
        y, x = (
            (torch.arange(start, start + count, device=device, dtype=torch.float32) + 0.5) / size
            for start, count in ((self.top, self.height), (self.left, self.width))
        )
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2)


def box_around(points: torch.Tensor, size: int, margin: int = 3) -> Box | None:
    """The box of all points (..., 2) in pixels, `margin` wider, within a picture; None if nothing is in it."""
    flat = points.reshape(-1, 2)
    left, top = (max(int(v) - margin, 0) for v in flat.amin(0).clamp(-size, 2 * size).tolist())
    right, bottom = (min(int(v) + margin + 1, size) for v in flat.amax(0).clamp(-size, 2 * size).tolist())
    return Box(top, left, bottom - top, right - left) if bottom > top and right > left else None


def outset(points: torch.Tensor, distance: float) -> torch.Tensor:
    """Closed polygons (N, P, 2) whose corners have moved outwards."""
    following, before = points.roll(-1, 1), points.roll(1, 1)
    area = (points[..., 0] * following[..., 1] - following[..., 0] * points[..., 1]).sum(1)
    along = following - before
    along = along / (along**2).sum(-1, keepdim=True).sqrt().clamp(min=1e-6)
    outwards = torch.stack([along[..., 1], -along[..., 0]], -1) * torch.where(area < 0, -1.0, 1.0)[:, None, None]
    return points + distance * outwards


def coverage(points: torch.Tensor, box: Box, rows_per_pixel: int = ROWS_PER_PIXEL) -> torch.Tensor:
    """How far closed polygons (N, P, 2), in pixels, cover the pixels of a box -> (N, height, width) in 0..1.

    On each of some lines per row of pixels, every crossing of an edge adds a signed step; their running sum is the
    winding number. Exact along rows, sampled across.
    """
    count, corners = points.shape[:2]
    here = points - torch.tensor([box.left, box.top], dtype=points.dtype, device=points.device)
    there = here.roll(-1, 1)
    lines = (torch.arange(box.height * rows_per_pixel, device=points.device, dtype=points.dtype) + 0.5) / rows_per_pixel
    lines = lines[None, :, None]
    (xa, ya), (xb, yb) = (p[:, None].unbind(-1) for p in (here, there))  # (N, 1, P) each
    weight = (ya <= lines).to(points.dtype) - (yb <= lines).to(points.dtype)
    slope = (xb - xa) / torch.where(yb == ya, 1.0, yb - ya)
    x = (xa + (lines - ya) * slope).clamp(0, box.width)
    cell = x.long()
    part = x - cell
    steps = points.new_zeros(count, lines.shape[1], box.width + 2)
    steps.scatter_add_(2, cell, weight * (1 - part)).scatter_add_(2, cell + 1, weight * part)
    inside = steps.cumsum(2)[..., : box.width].abs().clamp(max=1)
    inside = inside.view(count, box.height, rows_per_pixel, box.width).mean(2)
    return torch.where(inside < NOTHING, 0.0, inside)


def strip(points: torch.Tensor, width: float) -> torch.Tensor:
    """Open lines (N, P, 2) of a width as closed polygons (N, 2 P, 2)."""
    along = torch.cat(
        [points[:, 1:2] - points[:, :1], points[:, 2:] - points[:, :-2], points[:, -1:] - points[:, -2:-1]], 1
    )
    along = along / (along**2).sum(-1, keepdim=True).sqrt().clamp(min=1e-6)
    across = torch.stack([along[..., 1], -along[..., 0]], -1) * (width / 2)
    return torch.cat([points + across, (points - across).flip(1)], 1)


def interpolate(x: torch.Tensor, at: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Curves through (at, values), (N, K) each or values (N, K, C), at places x (N, M); constant beyond the ends.

    `at` must not decrease. -> (N, M) or (N, M, C).
    """
    right = torch.searchsorted(at.contiguous(), x.contiguous(), right=True).clamp(1, at.shape[1] - 1)
    left_at, right_at = at.gather(1, right - 1), at.gather(1, right)
    share = ((x - left_at) / (right_at - left_at).clamp(min=1e-9)).clamp(0, 1)
    if values.ndim == 3:
        right, share = right[..., None].expand(-1, -1, values.shape[2]), share[..., None]
    return torch.lerp(values.gather(1, right - 1), values.gather(1, right), share.expand_as(right))
