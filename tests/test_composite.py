from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fd2talk_core.frames import composite
from fd2talk_core.frames.composite import Compositor, RowResizer, feather_mask, paste_back

SIZE = 64


def picture_of(height, width, seed=0):
    """A smooth colourful picture with some texture, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 17 + c) * np.cos(y / (23 + c)) for c in range(3)], -1)
    return (130 + 70 * waves + rng.normal(0, 3, waves.shape)).clip(0, 255).astype(np.uint8)


def make_appearance(height=150, width=180, box=(30, 10, 128), size=SIZE):
    picture = picture_of(height, width)
    x0, y0, side = box
    padded = np.pad(picture, ((side, side), (side, side), (0, 0)), mode="edge")
    crop = torch.from_numpy(padded[y0 + side : y0 + 2 * side, x0 + side : x0 + 2 * side].copy()).permute(2, 0, 1) / 255
    crop = F.interpolate(crop[None].float(), size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    landmarks = torch.zeros(478, 3)
    landmarks[33, 0], landmarks[263, 0] = 0.35 * size, 0.65 * size
    landmarks[:, 1] = 0.6 * size
    landmarks[61, 0], landmarks[291, 0] = 0.42 * size, 0.58 * size
    landmarks[[146, 91, 181, 84, 17, 314, 405, 321, 375, 409, 270, 269, 267, 0, 37, 39, 40, 185], 0] = 0.5 * size
    return SimpleNamespace(picture=picture, crop_box=box, size=size, crop=crop, landmarks=landmarks)


def as_frames(appearance, count=2):
    return appearance.crop.permute(1, 2, 0)[None].repeat(count, 1, 1, 1)


def test_own_crop_changes_nothing_visible():
    appearance = make_appearance()
    pasted = paste_back(appearance, as_frames(appearance))
    original = torch.from_numpy(appearance.picture).float() / 255
    assert pasted.shape == (2, 150, 180, 3) and pasted.dtype == torch.float32
    # Upscaling loses the noise only: its standard deviation is 3/255.
    assert (pasted - original).abs().mean() < 3 / 255


def test_background_is_steady_to_the_pixel():
    appearance = make_appearance()
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(3, SIZE, SIZE, 3, generator=generator)
    pasted = paste_back(appearance, frames)
    inside = torch.zeros(150, 180, dtype=torch.bool)
    inside[10:138, 30:158] = feather_mask(128) > 0
    original = torch.from_numpy(appearance.picture).float() / 255
    assert torch.equal(pasted[:, ~inside], original[~inside].expand(3, -1, -1))
    assert not torch.equal(pasted[:, inside], original[inside].expand(3, -1, -1))
    assert pasted.min() >= 0 and pasted.max() <= 1


def test_mask_is_whole_inside_and_gone_at_the_border():
    mask = feather_mask(200).float()
    assert mask[100, 100] == 1 and mask[100, 20] == 1
    assert mask[0].max() < 0.01 and mask[:, -1].max() < 0.01 and mask[3, 3] == 0
    assert mask.diff(dim=1).abs().max() < 0.15
    assert torch.allclose(mask, mask.flip(0), atol=1e-3) and torch.allclose(mask, mask.T, atol=1e-3)


def test_no_seam_when_the_colours_are_off():
    appearance = make_appearance()
    cast = torch.tensor([0.03, -0.02, 0.025])
    frames = (as_frames(appearance, 1) + cast).clamp(0, 1)
    pasted = paste_back(appearance, frames)[0]
    honest = paste_back(appearance, as_frames(appearance, 1))[0]
    assert (pasted - honest).abs().mean() < 0.15 * cast.abs().mean()


def test_moved_content_is_no_colour_cast():
    appearance = make_appearance()
    compositor = Compositor(appearance)
    frames = appearance.crop[None].clone()
    frames[:, :, 30:50, :12] = 0.0  # dark hair swings into the ring
    shifted = compositor.match_colours(frames)
    assert (shifted - frames).abs().max() < 0.02


def test_batches_do_not_matter():
    appearance = make_appearance()
    frames = torch.rand(5, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1))
    together = paste_back(appearance, frames)
    apart = torch.cat([paste_back(appearance, frames[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize("box", [(-20, -10, 128), (90, 60, 128), (-10, -30, 220), (70, 50, 40)])
def test_crops_that_leave_the_picture(box):
    appearance = make_appearance(box=box)
    pasted = paste_back(appearance, as_frames(appearance, 1))[0]
    original = torch.from_numpy(appearance.picture).float() / 255
    assert pasted.shape == original.shape and torch.isfinite(pasted).all()
    assert (pasted - original).abs().mean() < 3 / 255


class FlatDetail:
    """The same amount everywhere in the crop."""

    def __init__(self, side, amount):
        self.side, self.amount = side, amount

    def rows(self, index, top, bottom):
        return torch.full((3, bottom - top, self.side), self.amount * (index + 1))


def test_detail_is_added_frame_by_frame_under_the_mask():
    appearance = make_appearance()
    frames = as_frames(appearance, 2) * 0.5 + 0.2
    difference = paste_back(appearance, frames, FlatDetail(128, 0.05)) - paste_back(appearance, frames)
    mask = torch.zeros(150, 180)
    mask[10:138, 30:158] = feather_mask(128).float()
    for index, amount in enumerate((0.05, 0.1)):
        assert torch.allclose(difference[index], amount * mask[..., None].expand(-1, -1, 3), atol=2e-3)


@pytest.mark.parametrize("box", [(30, 10, 128), (-20, -10, 128), (90, 60, 128), (70, 50, 40)])
def test_a_picture_is_used_again_from_frame_to_frame(box):
    """What an encoder gets, one uint8 picture written over and over, is what separate pictures would be."""
    appearance = make_appearance(box=box)
    frames = torch.rand(3, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(2))
    compositor = Compositor(appearance)
    apart = compositor.paste(frames)
    x0, y0, side = box
    inside = np.zeros((150 + 400, 180 + 400), bool)
    inside[200 + y0 : 200 + y0 + side, 200 + x0 : 200 + x0 + side] = feather_mask(side).numpy() > 0
    outside = ~inside[200:350, 200:380]
    for index, canvas in enumerate(compositor.stream(frames)):
        assert np.array_equal(canvas[0].numpy()[outside], appearance.picture[outside]), "bit-identical outside"
        assert (canvas[0].float() / 255 - apart[index]).abs().max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(appearance.picture, picture_of(150, 180)), "the portrait itself stays as it is"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_portrait_steady(dtype):
    appearance = make_appearance()
    compositor = Compositor(appearance)
    pasted = compositor.paste(as_frames(appearance), dtype=dtype)
    portrait = (torch.from_numpy(appearance.picture).float() / 255).to(dtype)
    assert pasted.dtype == dtype and torch.equal(pasted[:, 0], portrait[0].expand(2, -1, -1))
    assert torch.equal(pasted[:, :, :25], portrait[:, :25].expand(2, -1, -1, -1))


def test_bands_do_not_show(monkeypatch):
    appearance = make_appearance()
    frames = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(3))
    whole = paste_back(appearance, frames)
    monkeypatch.setattr(composite, "BAND_PIXELS", 7 * 128)
    assert torch.allclose(paste_back(appearance, frames), whole, atol=1e-6)


@pytest.mark.parametrize("side", [40, 64, 100, 317])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizing_in_bands_is_resizing(side, mode):
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    resizer = RowResizer(64, side, mode)
    wide = resizer.widen(pictures)
    apart = torch.cat([resizer.rows(wide[1], top, min(top + 9, side)) for top in range(0, side, 9)], 1)
    whole = F.interpolate(pictures, size=(side, side), mode=mode, antialias=True, align_corners=False)[1]
    assert torch.allclose(apart, whole, atol=1e-5)


def test_a_grey_portrait_stays_grey():
    appearance = make_appearance()
    appearance.picture = appearance.picture[..., :1].repeat(3, -1)
    appearance.crop = appearance.crop[:1].expand(3, -1, -1)
    tinted = as_frames(appearance, 1) + torch.tensor([0.08, 0.0, -0.05])
    pasted = paste_back(appearance, tinted)
    assert (pasted.amax(-1) - pasted.amin(-1)).max() < 1e-6


def test_wrong_side_is_refused():
    with pytest.raises(ValueError, match="expected a side of 64"):
        paste_back(make_appearance(), torch.zeros(1, 32, 32, 3))
