"""Joining drawn frames with the warp's own pixels, and sharpening them."""

import torch
from torch.nn import functional as F

from fd2talk_core.frames.fusion import REGIONS, finish
from fd2talk_core.training.losses import laplacian

SIZE = 64


def guide(**masks):
    """Guide channels whose named masks are 1 everywhere."""
    channels = torch.zeros(1, 8, SIZE // 8, SIZE // 8)
    for index, name in enumerate(("lips", "mouth", "eyes", "face")):
        channels[:, index] = masks.get(name, 0.0)
    return channels


def textured(seed=0, strength=0.1):
    """A smooth picture and fine texture on it."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=(SIZE, SIZE), mode="bicubic")
    return smooth * 0.4 + 0.3, strength * (torch.rand(1, 3, SIZE, SIZE, generator=generator) - 0.5)


def energy(pictures):
    return laplacian(pictures).pow(2).mean()


def test_fine_detail_of_the_warp_returns_in_the_face_where_both_agree():
    smooth, texture = textured()
    made = finish(smooth, smooth + texture, guide(face=1.0))
    assert F.cosine_similarity((made - smooth).flatten(), texture.flatten(), dim=0) > 0.9
    assert energy(made) > 0.6 * energy(smooth + texture)
    around = finish(smooth, smooth + texture, guide())
    assert energy(around) < 0.5 * energy(made)


def test_detail_of_something_else_is_not_taken():
    smooth, texture = textured()
    agreed = finish(smooth, smooth + texture, guide(face=1.0))
    doubtful = finish(smooth, smooth + 0.3 + texture, guide(face=1.0))
    assert energy(doubtful) < 0.2 * energy(agreed)


def test_regions_take_their_shares_of_what_is_coarse():
    drawn = torch.full((1, 3, SIZE, SIZE), 0.5)
    for masks, region in (({}, "around"), ({"face": 1.0}, "face"), ({"lips": 1.0}, "mouth"), ({"eyes": 1.0}, "eyes")):
        made = finish(drawn, drawn + 0.2, guide(**masks))[..., 16:-16, 16:-16]  # masks end softly
        assert torch.allclose(made, torch.tensor(0.5 + REGIONS[region][0] * 0.2), atol=1e-5), region
    assert torch.equal(finish(drawn, drawn, guide(mouth=1.0)), drawn)


def test_without_a_warp_it_only_sharpens_and_large_pictures_less():
    smooth, texture = textured()
    picture = smooth + texture
    sharper = [energy(finish(picture, None, guide(**masks))) for masks in ({"eyes": 1.0}, {}, {"lips": 1.0})]
    assert energy(picture) < sharper[0] < sharper[1] < sharper[2]
    large = picture.repeat(1, 1, 8, 8)
    assert energy(finish(large, None, guide(lips=1.0).repeat(1, 1, 8, 8))) < 0.8 * sharper[2]


def test_frames_are_finished_each_for_itself():
    smooth, texture = textured()
    pair = torch.cat([smooth, smooth.flip(3)]), torch.cat([smooth + texture, smooth - texture])
    guides = torch.cat([guide(face=1.0), guide(eyes=1.0)])
    together = finish(*pair, guides)
    for index in (0, 1):
        rows = slice(index, index + 1)
        assert torch.equal(finish(pair[0][rows], pair[1][rows], guides[rows]), together[rows])
