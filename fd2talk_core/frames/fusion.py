"""The finished frame: what the network drew, joined with the warped portrait's own pixels, and sharpened."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..face.geometry import around

SPREAD = 5  # pixels over whose mean what is coarse and what is fine are told apart
# Shares of the coarse and of the fine difference between warp and drawn frame to take, and strength of unsharp masking;
# each region over the ones before. Measured on held-back people, see docs/method.md.
REGIONS = {
    "around": (0.0, 0.3, 0.5),
    "face": (0.4, 0.9, 0.4),
    "mouth": (0.2, 0.9, 0.85),
    "eyes": (0.6, 0.9, 0.2),
}
# Coarse differences, in shares of white, over which the warp's fine detail loses its credit: where the two show
# different things, its detail belongs to something else.
DOUBT = 0.12
SHARPEN_SIDE = 256  # px; larger pictures have less to make up for


def _smooth(pictures: torch.Tensor, side: int) -> torch.Tensor:
    return F.avg_pool2d(F.pad(pictures, (side // 2,) * 4, mode="replicate"), side, 1)


def _shares(guide: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """REGIONS as maps (N, 1, size, size) each, from guide channels (N, 8, h, w)."""
    lips, opening, eyes, face = guide[:, :4].float().split(1, 1)
    masks = {"face": face, "mouth": lips + opening, "eyes": eyes}
    maps = torch.tensor(REGIONS["around"], device=guide.device).view(1, -1, 1, 1)
    for name, mask in masks.items():
        own = torch.tensor(REGIONS[name], device=guide.device).view(1, -1, 1, 1)
        maps = maps + (own - maps) * around(mask, 1).clamp(0, 1)
    return F.interpolate(maps, size=(size, size), mode="bilinear").split(1, 1)


def finish(drawn: torch.Tensor, warped: torch.Tensor | None, guide: torch.Tensor) -> torch.Tensor:
    """Join decoded frames with the warps that they began from, and sharpen them.

    The autoencoder loses fine detail, and the network redraws what the warp shows well already; the warp is wrong where
    it had to guess, in mouths, behind lids, at the tracker's errors. Two guesses that err differently are better
    together, and only the warp has the portrait's own pixels. Sharpening makes up for few steps, which predict
    something close to the mean of what is possible.

    Args:
        drawn: decoded frames (N, 3, S, S) in 0..1.
        warped: the warped portraits (N, 3, S, S) in 0..1; None in the pure form, which has none.
        guide: guide channels (N, 8, h, w).

    Returns pictures (N, 3, S, S), which may leave 0..1 a little.
    """
    size = drawn.shape[-1]
    coarse_share, fine_share, strength = _shares(guide, size)
    if warped is not None:
        change = warped - drawn
        coarse = _smooth(change, SPREAD)
        credit = torch.exp(-_smooth(coarse.abs().mean(1, keepdim=True), SPREAD) / DOUBT)
        drawn = drawn + coarse_share * coarse + fine_share * credit * (change - coarse)
    strength = strength * min(1.0, SHARPEN_SIDE / size)
    return drawn + strength * (drawn - _smooth(drawn, 3))
