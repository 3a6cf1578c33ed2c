"""What the analytic warp gets slightly wrong, learned: a residual flow, what stands still, a change of light."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..face.geometry import FLOW_GRID, around
from .conditions import POSE_SCALE
from .unet import ResBlock

VIEW, COARSE_VIEW = 256, 128  # sides at which the refiner looks at the warped picture and at the portrait
CELLS = FLOW_GRID  # its own finest resolution
LIGHT_CELLS = CELLS // 2
GUIDE_CHANNELS = 8
FLOW_SCALE, LIGHT_SCALE = 0.01, 0.1  # sizes of an output of one: shares of the crop, and of full white
SURELY_STILL = (0.8, 0.98)  # where the portrait begins to show, and where nothing else does
STILL_BIAS = -5.0  # untrained, next to nothing stands still
REACH = 3  # cells by which mouth and eyes grow where nothing is corrected


class WarpRefiner(nn.Module):
    """Corrected flow, and light, for frames whose portrait was warped by the face model's flow.

    Landmarks say where a few hundred points are, up to the tracker's error, and nothing of the skin between them, of
    hair, of what stands still behind the head, or of shading. The network sees the portrait before and after the warp,
    with the flow and the masks it should agree with, and how the face moves. A displacement is added to the flow, and
    the sum fades to none where the picture stands still; mouth and eyes stay as they are. It works at a fixed
    resolution, so that one set of weights serves every picture size; untrained it changes nearly nothing.
    """

    def __init__(
        self, expression_std: torch.Tensor, widths: tuple[int, int, int] = (24, 32, 32), embed_width: int = 48
    ):
        super().__init__()
        count = len(expression_std)
        self.register_buffer("expression_std", expression_std.clone())
        self.register_buffer("pose_scale", torch.tensor(POSE_SCALE), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(2 * count + 15, 64), nn.SiLU(), nn.Linear(64, embed_width), nn.SiLU()
        )  # fmt: skip
        fine, middle, coarse = widths
        channels = 3 * (VIEW // CELLS) ** 2 + 3 * (COARSE_VIEW // CELLS) ** 2 + GUIDE_CHANNELS + 2
        self.stem = nn.Conv2d(channels, fine, 3, padding=1)
        self.down_fine = ResBlock(fine, fine, embed_width, groups=4)
        self.shrink = nn.ModuleList(nn.Conv2d(*pair, 2, stride=2) for pair in ((fine, middle), (middle, coarse)))
        self.down_middle = ResBlock(middle, middle, embed_width, groups=4)
        self.coarse = nn.ModuleList(ResBlock(coarse, coarse, embed_width, groups=4) for _ in range(2))
        self.up_middle = ResBlock(coarse + middle, middle, embed_width, groups=4)
        self.up_fine = ResBlock(middle + fine, fine, embed_width, groups=4)
        self.norm_light, self.norm = nn.GroupNorm(4, middle), nn.GroupNorm(4, fine)
        self.light = nn.Conv2d(middle, 3, 3, padding=1)
        self.flow, self.still = nn.Conv2d(fine, 2, 3, padding=1), nn.Conv2d(fine, 1, 3, padding=1)
        for layer in (self.flow, self.still, self.light):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.still.bias, STILL_BIAS)

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
        portrait: torch.Tensor,  # (3, S, S) or (N, 3, S, S) before it: behind a head that leaves its place is no wall
        flow: torch.Tensor,  # (N, 2, 64, 64) that flow, in shares of the crop
        guide: torch.Tensor,  # (N, 8, h, w)
        expression: torch.Tensor,  # (N, 2r+1, 64)
        offset: torch.Tensor,  # (N, 2r+1, 6)
        beta: torch.Tensor,  # (N, 64) of the reference
        pose: torch.Tensor,  # (N, 6) of the reference
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> corrected flow (N, 2, 64, 64) in shares of the crop, light (N, 3, 32, 32) to add to the picture, and how
        still each place stands (N, 1, 64, 64) in 0..1."""
        portrait = portrait.expand_as(warped)
        views = [
            F.pixel_unshuffle(F.interpolate(picture, size=(side, side), mode="area") * 2 - 1, side // CELLS)
            for picture, side in ((warped, VIEW), (portrait, COARSE_VIEW))
        ]
        guide = F.interpolate(guide, size=(CELLS, CELLS), mode="bilinear") if guide.shape[-1] != CELLS else guide
        embedding = self.embed(self.features(expression, offset, beta, pose))
        seen = torch.cat([*views, guide, flow / FLOW_SCALE / 8], 1)
        fine = self.down_fine(self.stem(seen), embedding)
        middle = self.down_middle(self.shrink[0](fine), embedding)
        h = self.shrink[1](middle)
        for block in self.coarse:
            h = block(h, embedding)
        h = self.up_middle(torch.cat([F.interpolate(h, scale_factor=2.0, mode="bilinear"), middle], 1), embedding)
        light = self.light(F.silu(self.norm_light(h))) * LIGHT_SCALE
        h = self.up_fine(torch.cat([F.interpolate(h, scale_factor=2.0, mode="bilinear"), fine], 1), embedding)
        h = F.silu(self.norm(h))
        still = torch.sigmoid(self.still(h).float())
        change = (1 - still) * (flow + self.flow(h).float() * FLOW_SCALE) - flow
        return flow + beside_openings(change, guide), light, still


def beside_openings(change: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """A correction (N, 2, c, c) that leaves mouth and eyes alone; guide (N, 8, c, c).

    How far lips and lids are open is commanded. A correction that is learned from pixels damps it, since half a
    movement costs less than one at a wrong moment.
    """
    lips, opening, eyes = guide[:, :3].float().split(1, 1)
    # Of closed eyes the mask is a slit, which hardly covers its cells.
    mask = (lips + opening + 8 * eyes).clamp(0, 1)
    return change * (1 - around(mask, REACH))


def keep_still(pictures: torch.Tensor, portrait: torch.Tensor, still: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, S, S) with the portrait (3, S, S) itself wherever it surely stands still (N, 1, c, c)."""
    low, high = SURELY_STILL
    matte = ((F.interpolate(still, size=pictures.shape[-2:], mode="bilinear") - low) / (high - low)).clamp(0, 1)
    return torch.lerp(pictures, portrait.expand_as(pictures), matte)


def add_light(pictures: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """Add light (N, 3, c, c), smoothly enlarged, to pictures (N, 3, S, S); the result stays in 0..1."""
    return (pictures + F.interpolate(light, size=pictures.shape[-2:], mode="bilinear")).clamp(0, 1)
