"""Regions of the face in pictures, from the masks of the guide channels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..face.geometry import around


def pixel_regions(guide: torch.Tensor, size: int, reach: int) -> dict[str, torch.Tensor]:
    """Weights (N, 1, size, size) in 0..1 of mouth and eyes, grown by `reach` cells, and face; guide (N, 8, h, w)."""
    lips, opening, eyes, face = guide[:, :4].split(1, 1)
    regions = {"mouth": around(lips + opening, reach), "eyes": around(eyes, reach), "face": face}
    return {name: F.interpolate(m.clamp(0, 1), size=(size, size), mode="bilinear") for name, m in regions.items()}
