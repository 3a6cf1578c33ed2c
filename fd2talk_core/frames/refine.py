"""What the analytic warp gets slightly wrong, learned: a residual flow and a change of light."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..face.geometry import FLOW_GRID
from .conditions import POSE_SCALE
from .unet import ResBlock

COARSE = 128  # side of the picture that the refiner looks at
CELLS = 32  # its own resolution
GUIDE_CHANNELS = 8
FLOW_SCALE, LIGHT_SCALE = 0.01, 0.1  # sizes of an output of one: shares of the crop, and of full white


class WarpRefiner(nn.Module):
    """Residual flow and light for frames whose portrait was warped by the face model's flow.

    Landmarks say where a few hundred points are, up to the tracker's error, and nothing of the skin between them, of
    hair or of shading. The network sees the warped portrait with the masks it should agree with, and how the face
    moves. It works at a fixed resolution, so that one set of weights serves every picture size; untrained it changes
    nothing.
    """

    def __init__(self, expression_std: torch.Tensor, width: int = 36, embed_width: int = 48):
        super().__init__()
        count = len(expression_std)
        self.register_buffer("expression_std", expression_std.clone())
        self.register_buffer("pose_scale", torch.tensor(POSE_SCALE), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(2 * count + 15, 64), nn.SiLU(), nn.Linear(64, embed_width), nn.SiLU()
        )  # fmt: skip
        self.stem = nn.Conv2d(3 * (COARSE // CELLS) ** 2 + GUIDE_CHANNELS, width, 3, padding=1)
        self.fine = ResBlock(width, width, embed_width, groups=4)
        self.shrink = nn.Conv2d(width, width, 2, stride=2)
        self.coarse = nn.ModuleList(ResBlock(width, width, embed_width, groups=4) for _ in range(2))
        self.join = nn.Conv2d(2 * width, width, 1)
        self.last = ResBlock(width, width, embed_width, groups=4)
        self.norm = nn.GroupNorm(4, width)
        self.flow = nn.Conv2d(width, 2 * (FLOW_GRID // CELLS) ** 2, 3, padding=1)
        self.light = nn.Conv2d(width, 3, 3, padding=1)
        for layer in (self.flow, self.light):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def features(self, expression: torch.Tensor, offset: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor):
        """How a frame differs from the reference and how fast it changes; arguments as for `MotionEncoder`."""
        middle = expression.shape[1] // 2
        change = (expression[:, middle] - beta) / self.expression_std
        speed = (expression[:, middle + 1] - expression[:, middle - 1]) / self.expression_std
        moved = offset[:, middle] / self.pose_scale
        turning = (offset[:, middle + 1] - offset[:, middle - 1]) / self.pose_scale
        return torch.cat([change, speed, moved, turning, pose[:, :3] / self.pose_scale[:3]], 1).clamp(-8, 8)

    def forward(
        self,
        warped: torch.Tensor,  # (N, 3, S, S) portrait after the analytic flow
        guide: torch.Tensor,  # (N, 8, h, w)
        expression: torch.Tensor,  # (N, 2r+1, 64)
        offset: torch.Tensor,  # (N, 2r+1, 6)
        beta: torch.Tensor,  # (N, 64) of the reference
        pose: torch.Tensor,  # (N, 6) of the reference
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-> residual flow (N, 2, 64, 64) in shares of the crop, light (N, 3, 32, 32) to add to the picture."""
        coarse = F.interpolate(warped, size=(COARSE, COARSE), mode="area")
        guide = guide if guide.shape[-1] == CELLS else F.interpolate(guide, size=(CELLS, CELLS), mode="area")
        embedding = self.embed(self.features(expression, offset, beta, pose))
        h = self.stem(torch.cat([F.pixel_unshuffle(coarse * 2 - 1, COARSE // CELLS), guide], 1))
        fine = self.fine(h, embedding)
        h = self.shrink(fine)
        for block in self.coarse:
            h = block(h, embedding)
        h = self.join(torch.cat([F.interpolate(h, scale_factor=2.0, mode="bilinear"), fine], 1))
        h = F.silu(self.norm(self.last(h, embedding)))
        return F.pixel_shuffle(self.flow(h), FLOW_GRID // CELLS) * FLOW_SCALE, self.light(h) * LIGHT_SCALE


def add_light(pictures: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """Add light (N, 3, c, c), smoothly enlarged, to pictures (N, 3, S, S); the result stays in 0..1."""
    return (pictures + F.interpolate(light, size=pictures.shape[-2:], mode="bilinear")).clamp(0, 1)
