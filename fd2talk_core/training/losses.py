"""Loss terms that several parts share."""

from __future__ import annotations

import torch
from torch.nn import functional as F

SHARPNESS_WINDOW = 8


def laplacian(pictures: torch.Tensor) -> torch.Tensor:
    """4-neighbour Laplacian of the inner pixels: (N, C, H, W) -> (N, C, H-2, W-2)."""
    middle = pictures[..., 1:-1, 1:-1]
    return (
        pictures[..., :-2, 1:-1]
        + pictures[..., 2:, 1:-1]
        + pictures[..., 1:-1, :-2]
        + pictures[..., 1:-1, 2:]
        - 4 * middle
    )


def gradient_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1 distance of horizontal and vertical differences."""
    return sum((made.diff(dim=axis) - real.diff(dim=axis)).abs().mean() for axis in (2, 3))


def sharpness_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """How much the local strength of fine detail (RMS of the Laplacian in small windows) differs.

    It does not ask where the detail is, only how much there is; so it works against the blur that L1 and L2 leave
    where detail cannot be predicted.
    """
    strength = [
        (F.avg_pool2d(laplacian(x) ** 2, SHARPNESS_WINDOW, SHARPNESS_WINDOW // 2) + 1e-5).sqrt() for x in (made, real)
    ]
    return (strength[0] - strength[1]).abs().mean()
