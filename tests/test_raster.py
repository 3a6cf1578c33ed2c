import pytest
import torch

from fd2talk_core.face.raster import Box, box_around, coverage, interpolate, outset, strip

SQUARE = torch.tensor([[[2.0, 2], [6, 2], [6, 5], [2, 5]]])


def test_coverage_is_the_area_inside():
    whole = coverage(SQUARE + 0.25, Box(0, 0, 8, 8))
    assert whole.sum() == pytest.approx(12, abs=0.01)
    assert whole[0, 3, 3] == 1 and whole[0, 0].sum() == 0
    assert whole[0, 3, 2] == pytest.approx(0.75) and whole[0, 2, 3] == pytest.approx(0.75)
    assert torch.allclose(coverage(SQUARE.flip(1) + 0.25, Box(0, 0, 8, 8)), whole)  # either way round


def test_a_box_shows_its_part_of_the_picture():
    angles = torch.linspace(0, 6.2, 30)
    disc = (torch.stack([angles.cos(), angles.sin()], -1) * 20 + 32)[None]
    whole = coverage(disc, Box(0, 0, 64, 64))
    assert whole.sum() == pytest.approx(400 * torch.pi, rel=0.02)
    assert torch.allclose(coverage(disc, Box(8, 30, 30, 10)), whole[:, 8:38, 30:40], atol=1e-4)
    box = box_around(disc, 64, margin=1)
    assert coverage(disc, box).sum() == pytest.approx(float(whole.sum()), rel=1e-4)
    assert box_around(disc + 200, 64) is None


def test_a_contour_that_crosses_itself_is_filled_on_both_sides():
    bow = torch.tensor([[[0.0, 0], [8, 8], [8, 0], [0, 8]]])
    assert coverage(bow, Box(0, 0, 8, 8)).sum() == pytest.approx(32, rel=0.02)


def test_outset_widens_and_strip_has_its_width():
    wider = coverage(outset(SQUARE, 1.0), Box(0, 0, 8, 8))
    assert wider.sum() > 20
    line = torch.tensor([[[1.0, 4], [4, 4], [7, 4]]])
    assert coverage(strip(line, 2.0), Box(0, 0, 8, 8)).sum() == pytest.approx(12, abs=0.05)


def test_interpolation_is_constant_beyond_the_ends():
    at, values = torch.tensor([[0.0, 1, 3]]), torch.tensor([[0.0, 10, 30]])
    found = interpolate(torch.tensor([[-1.0, 0.5, 2, 9]]), at, values)
    assert found.tolist() == [[0, 5, 20, 30]]
    pairs = interpolate(torch.tensor([[2.0]]), at, torch.stack([values, -values], -1))
    assert pairs.tolist() == [[[20, -20]]]
