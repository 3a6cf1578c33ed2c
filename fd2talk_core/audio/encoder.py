"""Audio encoders: log-mel, or features of a big speech model, to one token per video frame."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .features import BINS, PER_FRAME

# Frames on each side that a token looks at: the stem's four and the blocks' two each.
HALO = 12
DROPOUT = 0.1


class ConvBlock(nn.Module):
    """Residual bottleneck convolution over time, normalised per frame so that it does not see the window's length."""

    def __init__(self, width: int, kernel: int = 5):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width // 2, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Linear(width // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(self.norm(x).transpose(1, 2))  # (B, C/2, T)
        return x + self.out(self.dropout(F.gelu(h)).transpose(1, 2))  # (B, T, C)


class MelEncoder(nn.Module):
    """Log-mel features (B, T, 4, 80) -> tokens (B, T, width).

    Phones are short: half of the layers work at 50 Hz, before a token stands for a whole video frame.

    Args:
        width: token width.
        blocks: residual blocks at frame rate; each sees two more frames on both sides.
        stem, stem_blocks: width and residual blocks at 50 Hz; each sees one more frame on both sides.
    """

    def __init__(self, width: int = 256, blocks: int = 4, stem: int = 192, stem_blocks: int = 3):
        super().__init__()
        # Kernel 4, stride 2, padding 1, twice: a token is centred on its own four vectors.
        self.down1 = nn.Conv1d(BINS, stem, PER_FRAME, stride=2, padding=1)
        self.stem = nn.ModuleList(ConvBlock(stem) for _ in range(stem_blocks))
        self.down2 = nn.Conv1d(stem, width, PER_FRAME, stride=2, padding=1)
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, mel: Tensor) -> Tensor:
        x = mel.flatten(1, 2).transpose(1, 2)  # (B, 80, 4T)
        x = F.gelu(self.down1(x)).transpose(1, 2)  # (B, 2T, stem)
        for block in self.stem:
            x = block(x)
        x = self.down2(F.gelu(x).transpose(1, 2)).transpose(1, 2)  # (B, T, width)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class FeatureProjection(nn.Module):
    """Features of wav2vec 2.0, HuBERT, ... at 25 Hz (B, T, features) -> tokens (B, T, width)."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.proj = nn.Linear(features, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(self.norm(features))
