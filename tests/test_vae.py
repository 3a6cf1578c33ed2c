"""A ComfyUI VAE in the place of our autoencoder: FLUX.1's latents are taken, all others refused with what to do."""

from pathlib import Path

import pytest
import torch
from comfy_server import in_comfyui, missing
from torch.nn import functional as F

from fd2talk_core.errors import UserError
from fd2talk_core.frames.appearance import square_crop
from fd2talk_core.frames.autoencoder import Autoencoder
from fd2talk_core.frames.vae import VaeCoder, checked_coder
from fd2talk_core.video.reading import read_picture

ROOT = Path(__file__).parents[1]
TAEF1 = ROOT.parent / "shared/models"


class ComfyLike:
    """What ComfyUI's VAE object does: NHWC pictures in 0..1, networks in -1..1, latents neither shifted nor scaled."""

    def __init__(self, encoder, decoder, change=lambda raw: raw, change_back=lambda raw: raw):
        self.encoder, self.decoder, self.change, self.change_back = encoder, decoder, change, change_back

    def encode(self, pixels):
        return self.change(self.encoder(pixels.movedim(-1, 1) * 2 - 1) / 0.3611 + 0.1159)

    def decode(self, raw):
        return (self.decoder((self.change_back(raw) - 0.1159) * 0.3611) / 2 + 0.5).clamp(0, 1).movedim(1, -1)


@pytest.fixture(scope="module")
def own():
    return Autoencoder.load().requires_grad_(False)


@pytest.fixture(scope="module", params=["portrait.png", "portrait_stylised.png"])
def crop(request):
    return square_crop(read_picture(ROOT / "assets" / request.param), (15, 29, 480), 256)


@pytest.mark.weights
def test_our_own_networks_pass_through_unchanged(own, crop):
    coder = checked_coder(ComfyLike(own.encode, own.decode), own, crop)
    latents = own.encode(crop[None])
    assert torch.allclose(coder.encode(crop[None]), latents, atol=1e-5)
    assert torch.allclose(coder.decode(latents), own.decode(latents).clamp(-1, 1), atol=1e-4)


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
            assert pixels.dtype == torch.float32 and pixels.min() >= 0.5 and pixels.max() <= 1
            return torch.full((len(pixels), 16, 32, 32), 0.1159, dtype=torch.bfloat16)

        def decode(self, raw):
            return torch.zeros(len(raw), 256, 256, 3, dtype=torch.float16)

    coder = VaeCoder(Half())
    latents = coder.encode(crop[None] * 3 - 1)
    assert latents.dtype == torch.float32 and latents.abs().max() < 1e-3
    assert coder.decode(latents).shape == (1, 3, 256, 256) and coder.decode(latents).dtype == torch.float32


# ComfyUI's own VAE object, around TAEF1 (the latents of FLUX.1) and TAESD (those of SD 1.5).
IN_COMFYUI = """
import importlib, numpy as np, torch
import comfy.sd, comfy.utils
from PIL import Image
node = nodes.NODE_CLASS_MAPPINGS["FD2TalkSampleFrames"]
core = node.__module__.rsplit(".", 2)[0] + ".fd2talk_core."
encode = importlib.import_module(core + "frames.appearance").encode_portrait
MotionClip = importlib.import_module(core + "motion.clip").MotionClip
def load(name, scale, shift):
    state = dict(vae_scale=torch.tensor(scale), vae_shift=torch.tensor(shift))
    for part in ("encoder", "decoder"):
        weights = comfy.utils.load_torch_file({models!r} + "/" + name + "_" + part + ".safetensors")
        state |= {{"taesd_" + part + "." + key: value for key, value in weights.items()}}
    return comfy.sd.VAE(sd=state)
with torch.inference_mode():
    _, frame_model = nodes.NODE_CLASS_MAPPINGS["FD2TalkLoadModels"].execute("default (shipped)", "auto").args
    picture = np.asarray(Image.open({portrait!r}).convert("RGB"))
    look = encode(picture, frame_model.tracker, frame_model.face_model)
    pose = torch.zeros(3, 6)
    pose[1, 2] = 0.15
    jaw = frame_model.face_model.controls["jaw_open"]
    motion = MotionClip(torch.stack([0 * jaw, 0.6 * jaw, jaw]), pose, 25.0, frame_model.face_model.hash)
    inputs = (frame_model, look, motion, 0, 2, 1.0, 1.0, 2)
    own, _ = node.execute(*inputs).args
    other, _ = node.execute(*inputs, vae=load("taef1", 0.3611, 0.1159)).args
    still, _ = node.execute(*inputs, torso="stay").args
    try:
        node.execute(*inputs, vae=load("taesd", 1.0, 0.0))
        refused = ""
    except ValueError as error:
        refused = str(error)
changes = torch.stack([(frames[2] - frames[0]).flatten().float() for frames in (own, other)])
result = dict(
    shapes=[list(own.shape), list(other.shape)], refused=refused, difference=float((own - other).abs().mean()),
    likeness=float(torch.corrcoef(changes)[0, 1]), torso=float((still - own).abs().max()),
)
"""


@pytest.mark.integration
@pytest.mark.weights
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_comfyui_vaes_are_taken_and_refused():
    if not (TAEF1 / "taef1_encoder.safetensors").is_file():
        pytest.skip(f"TAEF1 is not in {TAEF1}")
    result = in_comfyui(IN_COMFYUI, models=str(TAEF1), portrait=str(ROOT / "assets/portrait.png"))
    assert result["shapes"] == [[3, 256, 256, 3]] * 2
    assert 0 < result["difference"] < 0.06, "the same person in about the same colours"
    assert result["likeness"] > 0.8, "the mouth opens just so"
    assert result["torso"] > 0.02, "a torso that stays is another picture"
    assert "has 4 latent channels instead of 16. Connect FLUX.1's VAE" in result["refused"]
