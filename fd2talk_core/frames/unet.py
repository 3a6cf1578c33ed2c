"""The frame UNet: motion and appearance enter through cross-attention layers of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class UNetConfig:
    """Sizes of the frame network; the defaults are the shipped one, `paper_scale()` the large one."""

    latent_channels: int = 16
    guide_channels: int = 8  # masks (4), flow (2), head coordinates (2)
    widths: tuple[int, ...] = (96, 128, 160)  # per halving of resolution
    depths: tuple[int, ...] = (2, 1, 1)  # residual blocks per resolution, down and up
    heads: int = 4
    token_width: int = 128  # motion tokens
    embed_width: int = 192  # noise level and motion summary
    motion_radius: int = 5  # frames before and after
    appearance_width: int = 64
    temporal: bool = False
    geometry: bool = True  # False = the paper's pure form: no warp, no guide channels used
    refine: bool = False  # a learned correction of the warp
    joint_attention: bool = False  # one attention over both conditions' tokens instead of two; for comparison

    @classmethod
    def paper_scale(cls) -> UNetConfig:
        return cls(
            widths=(256, 512, 768), depths=(2, 2, 2), heads=8, token_width=768, embed_width=1024, motion_radius=13,
            appearance_width=256, temporal=True,
        )  # fmt: skip


def timestep_embedding(level: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoids of noise levels in 0..1: (N,) -> (N, width)."""
    frequencies = torch.exp(torch.arange(width // 2, device=level.device) * (-math.log(10_000) / (width // 2)))
    angles = level.float()[:, None] * 1000 * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class ResBlock(nn.Module):
    """Two convolutions whose second normalisation is shifted and scaled by the embedding."""

    def __init__(self, width_in: int, width: int, embed_width: int, groups: int = 8):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.embed = nn.Linear(embed_width, 2 * width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.embed(embedding)[:, :, None, None].chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class CrossAttention(nn.Module):
    """Queries from the picture, keys and values from condition tokens; starts as the identity."""

    def __init__(self, width: int, token_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(token_width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(token_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, L, d)

    def remember(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of tokens (N, L, token_width), (N, heads, L, d) each; may be kept over steps and frames."""
        k, v = (self._split(part) for part in self.to_kv(self.token_norm(tokens)).chunk(2, -1))
        return k, v

    def forward(self, x: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        q = self._split(self.to_q(self.norm(x)))
        k, v = (part.expand(len(x), -1, -1, -1) for part in memory)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(1, 2).flatten(2))


class TemporalAttention(nn.Module):
    """Each place attends to itself in the neighbouring frames of the batch; starts as the identity."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = CrossAttention(width, width, heads)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        count, places, width = x.shape  # (B * F, L, C)
        x = x.reshape(count // frames, frames, places, width).transpose(1, 2).flatten(0, 1)  # (B * L, F, C)
        x = self.attention(x, self.attention.remember(x))
        return x.reshape(count // frames, places, frames, width).transpose(1, 2).reshape(count, places, width)


class ConditionBlock(nn.Module):
    """Distinct cross-attention to motion and to appearance, so that the two conditions do not interfere."""

    def __init__(self, width: int, appearance_width: int, config: UNetConfig):
        super().__init__()
        self.joint = nn.Linear(appearance_width, config.token_width) if config.joint_attention else None
        self.motion = CrossAttention(width, config.token_width, config.heads)
        self.appearance = None if self.joint else CrossAttention(width, appearance_width, config.heads)
        self.temporal = TemporalAttention(width, config.heads) if config.temporal else None

    def remember(self, appearance: torch.Tensor):
        """What this block needs of appearance tokens, in the form in which it can be kept."""
        return self.joint(appearance) if self.joint is not None else self.appearance.remember(appearance)

    def forward(self, x: torch.Tensor, motion: torch.Tensor, appearance, frames: int) -> torch.Tensor:
        height, width = x.shape[2:]
        h = x.flatten(2).transpose(1, 2)  # (N, H*W, C)
        if self.joint is not None:
            tokens = torch.cat([motion, appearance.expand(len(motion), -1, -1)], 1)
            h = self.motion(h, self.motion.remember(tokens))
        else:
            h = self.appearance(self.motion(h, self.motion.remember(motion)), appearance)
        if self.temporal is not None:
            h = self.temporal(h, frames)
        return h.transpose(1, 2).unflatten(2, (height, width))


class FrameUNet(nn.Module):
    """Predicts the clean latent residual from a noisy one.

    The residual is (frame latent - encoded warp) / residual scale; without geometry the warp counts as zero.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, embed = config.widths, config.embed_width
        self.embed_level = nn.Sequential(nn.Linear(128, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.embed_motion = nn.Linear(config.token_width, embed)
        self.stem = nn.Conv2d(2 * config.latent_channels + config.guide_channels, widths[0], 3, padding=1)
        self.down, self.down_condition, self.shrink = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.up, self.up_condition, self.grow = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            token = config.appearance_width * 2 ** max(0, level - 1)
            condition = lambda: ConditionBlock(width, token, config) if level else None  # noqa: B023, E731
            self.down.append(nn.ModuleList(ResBlock(width, width, embed) for _ in range(depth)))
            self.down_condition.append(condition())
            self.up.append(nn.ModuleList(ResBlock(2 * width if i == 0 else width, width, embed) for i in range(depth)))
            self.up_condition.append(condition())
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(widths[level + 1], width, 1))
        self.norm = nn.GroupNorm(8, widths[0])
        self.out = nn.Conv2d(widths[0], config.latent_channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def remember(self, appearance: list[torch.Tensor]) -> list[tuple]:
        """Appearance tokens, per attended resolution (N or 1, L, width), as what the attention layers keep of them."""
        layers = zip(self.down_condition, self.up_condition, strict=True)
        pairs = [(down, up) for down, up in layers if down is not None]
        return [(d.remember(tokens), u.remember(tokens)) for (d, u), tokens in zip(pairs, appearance, strict=True)]

    def forward(
        self,
        x: torch.Tensor,  # (N, 16, h, w) noisy residual
        level: torch.Tensor,  # (N,) noise level, 1 = pure noise
        warped: torch.Tensor,  # (N, 16, h, w) encoded warp
        guide: torch.Tensor,  # (N, 8, h, w)
        motion: torch.Tensor,  # (N, T, token_width)
        appearance: list[tuple],  # from `remember`, for N portraits or for one
        frames: int = 1,
    ) -> torch.Tensor:
        centre = motion[:, motion.shape[1] // 2]
        embedding = F.silu(self.embed_level(timestep_embedding(level, 128).to(x)) + self.embed_motion(centre))
        h = self.stem(torch.cat([x, warped, guide], 1))
        skips = []
        for index, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, embedding)
            if index:
                h = self.down_condition[index](h, motion, appearance[index - 1][0], frames)
            skips.append(h)
            if index < len(self.shrink):
                h = self.shrink[index](h)
        for index in reversed(range(len(self.up))):
            if index < len(self.grow):
                h = F.interpolate(self.grow[index](h), scale_factor=2.0, mode="nearest")
            h = torch.cat([h, skips[index]], 1)
            for block in self.up[index]:
                h = block(h, embedding)
            if index:
                h = self.up_condition[index](h, motion, appearance[index - 1][1], frames)
        return self.out(F.silu(self.norm(h)))
