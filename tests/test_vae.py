"""A ComfyUI VAE in the place of our autoencoder: FLUX.1's latents are taken, all others refused with what to do."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fd2talk_core.errors import UserError
from fd2talk_core.frames.appearance import square_crop
from fd2talk_core.frames.autoencoder import Autoencoder
from fd2talk_core.frames.vae import VaeCoder, checked_coder
from fd2talk_core.video.reading import read_picture

ROOT = Path(__file__).parents[1]
TAEF1 = ROOT.parent / "shared/models"


class ComfyLike:
    """What ComfyUI's VAE object does: NHWC pictures in 0..1, latents neither shifted nor scaled."""

    def __init__(self, encoder, decoder, change=lambda raw: raw, change_back=lambda raw: raw):
        self.encoder, self.decoder, self.change, self.change_back = encoder, decoder, change, change_back

    def encode(self, pixels):
        return self.change(self.encoder(pixels.movedim(-1, 1)) / 0.3611 + 0.1159)

    def decode(self, raw):
        return self.decoder((self.change_back(raw) - 0.1159) * 0.3611).clamp(0, 1).movedim(1, -1)


@pytest.fixture(scope="module")
def own():
    return Autoencoder.load().requires_grad_(False)


@pytest.fixture(scope="module", params=["portrait.png", "portrait_stylised.png"])
def crop(request):
    return square_crop(read_picture(ROOT / "assets" / request.param), (15, 29, 480), 256)


@pytest.mark.weights
def test_our_own_latents_pass_through_unchanged(own, crop):
    coder = checked_coder(ComfyLike(own.encode, own.decode), own, crop)
    latents = own.encode(crop[None])
    assert torch.allclose(coder.encode(crop[None]), latents, atol=1e-5)
    assert torch.allclose(coder.decode(latents), own.decode(latents).clamp(0, 1), atol=1e-4)


@pytest.mark.weights
def test_another_encoder_of_the_same_latents_is_taken(own, crop):
    if not (TAEF1 / "taef1_encoder.safetensors").is_file():
        pytest.skip(f"TAEF1 is not in {TAEF1}")
    from fd2talk_core.training.autoencoder import load_taef1

    taef1 = load_taef1(TAEF1).requires_grad_(False)
    coder = checked_coder(ComfyLike(taef1.encoder, taef1.decoder), own, crop)
    again = own.decode(coder.encode(crop[None]))[0].clamp(0, 1)
    assert -10 * (again - crop).pow(2).mean().log10() > 20, "our decoder reads its latents"


def rolled(raw):
    return raw.roll(1, 1)


def swapped(raw):
    return raw[:, [1, 0, *range(2, 16)]]


def permuted(raw):
    return raw[:, torch.randperm(16, generator=torch.Generator().manual_seed(0))]


@pytest.mark.weights
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rolled, r"are not FLUX\.1's \(correlation"),
        (permuted, r"are not FLUX\.1's \(correlation"),
        (swapped, r"are not FLUX\.1's \(correlation"),
        (lambda raw: -raw, r"are not FLUX\.1's \(correlation"),
        (lambda raw: 4 * raw, r"are not FLUX\.1's \(correlation"),
        (lambda raw: raw * torch.nan, r"are not FLUX\.1's \(correlation"),
        (torch.zeros_like, r"are not FLUX\.1's \(correlation"),
        (lambda raw: raw[:, :4], "has 4 latent channels instead of 16"),
        (lambda raw: raw[:, :, None], "not for pictures: its latents are 5-dimensional"),
        (lambda raw: F.interpolate(raw, scale_factor=2), "makes 64 x 64 latents of a picture of 256"),
    ],
)
def test_other_latents_are_refused(own, crop, change, message):
    with pytest.raises(UserError, match=message) as refused:
        checked_coder(ComfyLike(own.encode, own.decode, change), own, crop)
    assert "Connect FLUX.1's VAE (ae.safetensors), or disconnect it" in str(refused.value)


@pytest.mark.weights
def test_a_vae_that_cannot_decode_pictures_is_refused(own, crop):
    with pytest.raises(UserError, match="decodes the portrait to shape"):
        checked_coder(ComfyLike(own.encode, lambda raw: own.decode(raw)[..., ::2]), own, crop)
    with pytest.raises(UserError, match="cannot encode and decode pictures"):
        checked_coder(object(), own, crop)


def test_devices_and_types_of_the_answer_do_not_matter(crop):
    class Half:
        def encode(self, pixels):
            assert pixels.dtype == torch.float32 and pixels.min() >= 0 and pixels.max() <= 1
            return torch.full((len(pixels), 16, 32, 32), 0.1159, dtype=torch.bfloat16)

        def decode(self, raw):
            return torch.zeros(len(raw), 256, 256, 3, dtype=torch.float16)

    coder = VaeCoder(Half())
    latents = coder.encode(crop[None] * 3 - 1)
    assert latents.dtype == torch.float32 and latents.abs().max() < 1e-3
    assert coder.decode(latents).shape == (1, 3, 256, 256) and coder.decode(latents).dtype == torch.float32
