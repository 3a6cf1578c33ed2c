"""Encoders of the two conditions of the frame UNet: appearance of the reference, and motion around a frame."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .unet import ResBlock, UNetConfig

REFERENCE_CHANNELS = 16 + 4 + 2  # latent, region masks, head coordinates
# Typical sizes of pose offsets (rad, rad, rad, IOD, IOD, log scale), which bring them to about one.
POSE_SCALE = (0.15, 0.15, 0.1, 0.15, 0.15, 0.05)


class AppearanceEncoder(nn.Module):
    """Reference latent with masks and head coordinates -> token grids at the UNet's attended resolutions."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        width = config.appearance_width
        levels = len(config.widths) - 1
        self.stem = nn.Conv2d(REFERENCE_CHANNELS, width, 3, padding=1)
        self.shrink = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for level in range(levels):
            inner = width * 2**level
            self.shrink.append(nn.Conv2d(width if level == 0 else inner // 2, inner, 4, stride=2, padding=1))
            self.blocks.append(ResBlock(inner, inner, 1))
        self.null = nn.ParameterList(torch.randn(1, 1, width * 2**level) * 0.02 for level in range(levels))

    def forward(self, reference: torch.Tensor) -> list[torch.Tensor]:
        """(N, 22, h, w) -> [(N, h*w/4, C), (N, h*w/16, 2C), ...]."""
        nothing = reference.new_zeros(len(reference), 1)
        h = F.silu(self.stem(reference))
        tokens = []
        for shrink, block in zip(self.shrink, self.blocks, strict=True):
            h = block(shrink(h), nothing)
            tokens.append(h.flatten(2).transpose(1, 2))
        return tokens


class MotionEncoder(nn.Module):
    """A window of coefficients around a frame -> motion tokens; the middle token summarises the frame itself."""

    def __init__(self, config: UNetConfig, expression_std: torch.Tensor | None = None):
        super().__init__()
        width = config.token_width
        self.radius = config.motion_radius
        count = 64 if expression_std is None else len(expression_std)
        self.register_buffer("expression_std", torch.ones(count) if expression_std is None else expression_std.clone())
        self.register_buffer("pose_scale", torch.tensor(POSE_SCALE), persistent=False)
        self.project = nn.Linear(3 * count + 9, width)
        self.place = nn.Parameter(torch.randn(2 * self.radius + 1, width) * 0.02)
        self.conv1 = nn.Conv1d(width, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        self.null = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(
        self,
        expression: torch.Tensor,  # (N, 2r+1, 64)
        offset: torch.Tensor,  # (N, 2r+1, 6) pose minus the reference's
        reference_expression: torch.Tensor,  # (N, 64)
        reference_pose: torch.Tensor,  # (N, 6)
    ) -> torch.Tensor:
        """-> (N, 2r+1, token_width)."""
        still = (reference_expression / self.expression_std)[:, None].expand_as(expression)
        moving = expression / self.expression_std
        angles = (reference_pose[:, None, :3] / self.pose_scale[:3]).expand(-1, expression.shape[1], -1)
        features = torch.cat([moving, still, moving - still, offset / self.pose_scale, angles], -1)
        h = self.project(features.clamp(-8, 8)) + self.place
        h = h + self.conv2(F.silu(self.conv1(F.silu(h).transpose(1, 2)))).transpose(1, 2)
        return h
