"""A small, fast face autoencoder with f8, 16-channel latents of the FLUX.1 VAE's kind.

Latents are in the space diffusion models of the FLUX.1 family work in (the VAE's own output, shifted and scaled), of
pictures of half the contrast: a picture x in -1..1 has FLUX.1's latent of 0.5 + 0.5 x, because that is how TAEF1, which
taught it, was shown pictures. `vae.py` does the mapping for a FLUX.1 VAE in its place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..checkpoint import default_weights, load_checkpoint, load_state, save_checkpoint

LATENT_CHANNELS, LATENT_FACTOR = 16, 8


@dataclass
class AutoencoderConfig:
    """Widths at a quarter and an eighth of the picture's resolution, and residual blocks there."""

    encoder_width: tuple[int, int] = (64, 128)
    encoder_depth: tuple[int, int] = (2, 4)
    decoder_width: tuple[int, int] = (80, 128)
    decoder_depth: tuple[int, int] = (2, 4)


class ResBlock(nn.Module):
    """Two 3x3 convolutions without normalisation; the second starts at zero, so a new block is the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Encoder(nn.Module):
    """(N, 3, H, W) pictures in 0..1 -> (N, 16, H/8, W/8) latents."""

    def __init__(self, width: tuple[int, int], depth: tuple[int, int]):
        super().__init__()
        self.stem = nn.Conv2d(48, width[0], 3, padding=1)
        self.fine = nn.Sequential(*(ResBlock(width[0]) for _ in range(depth[0])))
        self.down = nn.Conv2d(width[0], width[1], 4, stride=2, padding=1)
        self.coarse = nn.Sequential(*(ResBlock(width[1]) for _ in range(depth[1])))
        self.out = nn.Conv2d(width[1], LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pixel_unshuffle(x * 2 - 1, 4)  # (N, 48, H/4, W/4)
        x = self.fine(F.relu(self.stem(x)))
        x = self.coarse(F.relu(self.down(x)))  # (N, C, H/8, W/8)
        return self.out(x)


class Decoder(nn.Module):
    """(N, 16, h, w) latents -> (N, 3, 8h, 8w) pictures, about 0..1, not clamped."""

    def __init__(self, width: tuple[int, int], depth: tuple[int, int]):
        super().__init__()
        self.stem = nn.Conv2d(LATENT_CHANNELS, width[1], 3, padding=1)
        self.coarse = nn.Sequential(*(ResBlock(width[1]) for _ in range(depth[1])))
        self.up = nn.Conv2d(width[1], 4 * width[0], 3, padding=1)
        self.fine = nn.Sequential(*(ResBlock(width[0]) for _ in range(depth[0])))
        self.out = nn.Conv2d(width[0], 48, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        # The latents have rare large values; a soft clamp as in TAESD keeps one of them from spoiling the picture.
        x = F.relu(self.stem(torch.tanh(z / 3) * 3))
        x = F.pixel_shuffle(self.up(self.coarse(x)), 2)  # (N, C, H/4, W/4)
        x = self.out(self.fine(F.relu(x)))
        return F.pixel_shuffle(x, 4) * 0.5 + 0.5


class Autoencoder(nn.Module):
    """Encoder and decoder; fully convolutional, sides must be multiples of 8."""

    def __init__(self, config: AutoencoderConfig | None = None):
        super().__init__()
        self.config = config or AutoencoderConfig()
        self.encoder = Encoder(self.config.encoder_width, self.config.encoder_depth)
        self.decoder = Decoder(self.config.decoder_width, self.config.decoder_depth)

    def forward(self, pictures: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Training pass: latents of all pictures, and reconstructions, the first len(given) of them from `given`."""
        latents = self.encoder(pictures)
        return latents, self.decoder(torch.cat([given.to(latents), latents[len(given) :]]))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in 0..1 -> (N, 16, H/8, W/8)."""
        return self.encoder(pictures)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, 16, h, w) -> (N, 3, 8h, 8w), about 0..1, not clamped."""
        return self.decoder(latents)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Autoencoder:
        """Read autoencoder weights, the shipped ones by default."""
        path = path or default_weights("autoencoder")
        file = load_checkpoint(path, "autoencoder")
        model = cls(AutoencoderConfig(**{key: tuple(value) for key, value in file.config.items()}))
        load_state(model, file.state, path)
        return model.eval()

    def save(self, path: str | Path, provenance: dict) -> None:
        save_checkpoint(path, "autoencoder", self.state_dict(), asdict(self.config), provenance)
