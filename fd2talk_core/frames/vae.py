"""A ComfyUI VAE in the place of our own autoencoder: FLUX.1's, whose latents ours were taught to match."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UserError
from .autoencoder import LATENT_CHANNELS, LATENT_FACTOR

# Our latents are the VAE's own, shifted and scaled as FLUX.1's diffusion models take them.
LATENT_SHIFT, LATENT_SCALE = 0.1159, 0.3611
# Our encoder was taught with pictures in 0..1 handed to a teacher that takes them in -1..1. So our latents of a picture
# are FLUX.1's of its lighter copy, the upper half of the range, and pictures are changed so on both ways. Without this
# the two disagree by a relative error of 1 (0.3 with it).
LIGHTEST, RANGE = 1.0, 0.5
# Both encoders see the same portrait. Against TAEF1 ours has a mean correlation per channel of 0.79 to 0.88 on 19
# pictures, its worst channel 0.55, and a relative error of 0.24 to 0.46; with channels in another order -0.17 to 0.02
# and 1.1 to 1.4.
LEAST_CORRELATION, LEAST_IN_A_CHANNEL, MOST_ERROR = 0.5, 0.1, 0.8
ADVICE = "Connect FLUX.1's VAE (ae.safetensors), or disconnect it to use the one that comes with FD2Talk."


class VaeCoder:
    """Speaks to a ComfyUI VAE (`encode`: NHWC in 0..1 -> latents, `decode`: back) in our latents and channel order."""

    def __init__(self, vae):
        self.vae = vae

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in 0..1 -> float32 (N, 16, H/8, W/8), on the pictures' device."""
        # The VAE knows which precision it can take; sampling may ask for less all around.
        with torch.autocast(pictures.device.type, enabled=False):
            lighter = LIGHTEST - RANGE * (1 - pictures.float().clamp(0, 1))
            raw = self.vae.encode(lighter.movedim(1, -1))
        return (raw.to(pictures.device, torch.float32) - LATENT_SHIFT) * LATENT_SCALE

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, 16, h, w) -> float32 (N, 3, 8h, 8w), about 0..1, on the latents' device."""
        with torch.autocast(latents.device.type, enabled=False):
            pictures = self.vae.decode(latents.float() / LATENT_SCALE + LATENT_SHIFT)
        return 1 - (LIGHTEST - pictures.to(latents.device, torch.float32).movedim(-1, 1)) / RANGE


def latent_agreement(found: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Correlation of each channel (C,), and relative error, of two encodings (1, C, h, w) of one picture."""
    found, expected = found[0].flatten(1), expected[0].flatten(1)
    deviations = [values - values.mean(1, keepdim=True) for values in (found, expected)]
    spread = deviations[0].norm(dim=1) * deviations[1].norm(dim=1)
    correlation = (deviations[0] * deviations[1]).sum(1) / spread.clamp(min=1e-12)
    return correlation, float((found - expected).norm() / expected.norm().clamp(min=1e-12))


@torch.no_grad()
def checked_coder(vae, autoencoder: nn.Module, crop: torch.Tensor) -> VaeCoder:
    """The coder of a ComfyUI VAE, after a look at what it makes of the portrait.

    Args:
        vae: what ComfyUI's Load VAE gives.
        autoencoder: our own (`FrameModel.autoencoder`), to compare with.
        crop: the portrait's crop (3, size, size) in 0..1.

    Raises UserError for a VAE of another kind: not 16 channels at an eighth of the resolution, or other latents.
    """
    if not callable(getattr(vae, "encode", None)) or not callable(getattr(vae, "decode", None)):
        raise UserError(f"The connected VAE cannot encode and decode pictures. {ADVICE}")
    coder = VaeCoder(vae)
    found = coder.encode(crop[None])
    cells = crop.shape[-1] // LATENT_FACTOR
    if found.ndim != 4:
        raise UserError(f"The connected VAE is not for pictures: its latents are {found.ndim}-dimensional. {ADVICE}")
    if found.shape[1] != LATENT_CHANNELS:
        raise UserError(
            f"The connected VAE has {found.shape[1]} latent channels instead of {LATENT_CHANNELS}. {ADVICE}"
        )
    if found.shape[2:] != (cells, cells):
        raise UserError(
            f"The connected VAE makes {found.shape[3]} x {found.shape[2]} latents of a picture of {crop.shape[-1]} "
            f"pixels, instead of {cells} x {cells}. {ADVICE}"
        )
    device = next(autoencoder.parameters()).device
    expected = autoencoder.encode(crop[None].to(device, torch.float32)).float().to(found.device)
    correlation, error = latent_agreement(found, expected)
    # Written so that NaN is refused, too.
    alike = correlation.mean() >= LEAST_CORRELATION and correlation.min() >= LEAST_IN_A_CHANNEL and error <= MOST_ERROR
    if not alike:
        raise UserError(
            f"The latents of the connected VAE are not FLUX.1's (correlation {float(correlation.mean()):.2f}, relative "
            f"error {error:.2f}), as for SD3 and other models with 16 channels. {ADVICE}"
        )
    shape = coder.decode(found).shape
    if shape != (1, *crop.shape):
        raise UserError(f"The connected VAE decodes the portrait to shape {tuple(shape)}. {ADVICE}")
    return coder
