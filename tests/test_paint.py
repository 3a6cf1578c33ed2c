import pytest
import torch

from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.paint import OpeningPainter

SIZE = 128


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


@pytest.fixture(scope="module")
def rest():
    return torch.zeros(80), torch.zeros(64), torch.tensor([0.0, 0, 0, 0, 0, -1.3])


def painted(face, rest, beta, reference=None):
    alpha, neutral, pose = rest
    crop = torch.full((3, SIZE, SIZE), 0.7)
    painter = OpeningPainter(face, crop, alpha, neutral if reference is None else reference, pose)
    return painter(crop[None].clone(), beta[None], pose[None])[0]


def at(face, rest, beta, first, second):
    points = face.landmarks(rest[0], beta, rest[2], SIZE)
    x, y = ((points[first] + points[second]) / 2)[:2].round().int().tolist()
    return y, x


def test_parted_lips_show_a_dark_inside_and_nothing_else_changes(face, rest):
    beta = rest[1] + face.control_vector({"lip_press": 1.0})
    opened = beta + face.controls["jaw_open"] * 0.6
    picture = painted(face, rest, opened, reference=beta)
    y, x = at(face, rest, opened, 13, 14)
    assert picture[:, y, x].mean() < 0.45
    assert (picture[:, :30] == 0.7).all() and (picture[:, -20:] == 0.7).all()


def test_an_open_reference_keeps_its_own_mouth(face, rest):
    opened = face.controls["jaw_open"] * 0.5
    picture = painted(face, rest, face.controls["jaw_open"] * 0.8, reference=opened)
    assert torch.allclose(picture, torch.full_like(picture, 0.7))


def test_closing_lids_draw_lashes_and_open_eyes_stay(face, rest):
    shut = face.controls["blink_left"] + face.controls["blink_right"]
    y, x = at(face, rest, shut, 159, 159)
    assert painted(face, rest, shut)[:, y, x].mean() < 0.6
    assert torch.allclose(painted(face, rest, rest[1]), torch.full((3, SIZE, SIZE), 0.7))
