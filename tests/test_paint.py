import pytest
import torch

from fd2talk_core.face.landmarks import LIPS_OUTER
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.paint import OpeningPainter, lip_places, mouth_light

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


def test_parted_lips_show_teeth_and_a_dark_inside_and_nothing_else_changes(face, rest):
    beta = rest[1] + face.control_vector({"lip_press": 1.0})
    opened = beta + face.controls["jaw_open"]
    picture = painted(face, rest, opened, reference=beta)
    top, x = at(face, rest, opened, 13, 13)
    bottom, _ = at(face, rest, opened, 14, 14)
    column = picture[:, top + 2 : bottom - 1, x].mean(0)
    assert column.min() < 0.28 and column[0] > column.min() + 0.05
    assert column.argmin() > 0 and column[-1] > 0.45
    assert (picture[:, :30] == 0.7).all() and (picture[:, -20:] == 0.7).all()


def test_teeth_of_an_open_reference_neither_grow_nor_shrink(face, rest):
    reference = face.controls["jaw_open"] * 0.4
    y, x = at(face, rest, reference, 13, 13)
    low, _ = at(face, rest, reference, 14, 14)
    portrait = torch.full((3, SIZE, SIZE), 0.4)
    portrait[:, y : (y + low) // 2, x - 20 : x + 20] = 1.0  # upper teeth fill half of the opening
    painter = OpeningPainter(face, portrait, rest[0], reference, rest[2])
    seen = painter(portrait[None].clone(), reference[None], rest[2][None])[0]
    assert torch.allclose(seen, portrait, atol=1e-4)
    wider = face.controls["jaw_open"] * 0.9
    grey = torch.full((1, 3, SIZE, SIZE), 0.4)
    seen = painter(grey, wider[None], rest[2][None])[0]
    teeth = (seen[0, :, x] > 0.7).sum(), (portrait[0, :, x] > 0.7).sum()
    assert abs(int(teeth[0]) - int(teeth[1])) <= 2
    bottom, _ = at(face, rest, wider, 14, 14)
    assert seen[:, bottom - 4, x].mean() < 0.35  # below them it is dark


def test_teeth_move_with_the_head(face, rest):
    reference = face.controls["jaw_open"] * 0.5
    portrait = torch.rand(3, SIZE, SIZE)
    painter = OpeningPainter(face, portrait, rest[0], reference, rest[2])
    moved = rest[2].clone()
    moved[3] += 8 / SIZE / moved[5].exp()  # 8 pixels to the right
    wider = face.controls["jaw_open"] * 0.9
    seen = painter(torch.zeros(1, 3, SIZE, SIZE), wider[None], moved[None])[0]
    y, x = at(face, rest, reference, 13, 13)
    shown = seen[:, y + 2 : y + 5, x + 7 : x + 10]
    assert torch.allclose(shown, portrait[:, y + 2 : y + 5, x - 1 : x + 2], atol=0.05)


def test_light_in_a_mouth_follows_its_tilt(face, rest):
    points = face.project(face.vertices(rest[0], face.controls["jaw_open"]), rest[2], 1.0)[None, :, :2]
    turned = 1 - points  # upside down
    places = torch.cartesian_prod(torch.linspace(0.42, 0.58, 9), torch.linspace(0.55, 0.75, 15))
    straight = mouth_light(points, torch.tensor([0.3]), places)
    assert torch.allclose(mouth_light(turned, torch.tensor([0.3]), 1 - places), straight, atol=1e-3)
    assert straight.min() < 0.3 and straight.max() > 0.7


def test_closing_lids_draw_lashes_and_open_eyes_stay(face, rest):
    shut = face.controls["blink_left"] + face.controls["blink_right"]
    y, x = at(face, rest, shut, 159, 159)
    assert painted(face, rest, shut)[:, y, x].mean() < 0.6
    assert torch.allclose(painted(face, rest, rest[1]), torch.full((3, SIZE, SIZE), 0.7))


def test_lips_that_close_cover_the_teeth(face, rest):
    reference = face.controls["jaw_open"] * 0.6
    points = face.landmarks(rest[0], reference, rest[2], SIZE)
    portrait = torch.full((3, SIZE, SIZE), 0.4)
    top, bottom, x = int(points[13, 1]) + 1, int(points[14, 1]), int(points[13, 0])
    portrait[:, top:bottom, x - 12 : x + 12] = 1.0
    painter = OpeningPainter(face, portrait, rest[0], reference, rest[2])
    squeezed = torch.full((1, 3, SIZE, SIZE), 0.4)
    shut = face.control_vector({"lip_press": 1.0})
    y, _ = at(face, rest, shut, 13, 14)
    squeezed[:, :, y - 4 : y + 4, x - 12 : x + 12] = 1.0  # what a smooth flow leaves between closed lips
    seen = painter(squeezed, shut[None], rest[2][None])[0]
    assert seen[:, y - 1 : y + 2, x].max() < 0.65


def test_places_on_unmoved_lips_are_their_own(face, rest):
    points = face.project(face.vertices(rest[0], face.controls["jaw_open"] * 0.3), rest[2], 1.0)[None, :, :2]
    low, high = points[0, list(LIPS_OUTER)].aminmax(dim=0)
    places = torch.cartesian_prod(*(torch.linspace(a, b, 30) for a, b in zip(low, high, strict=True)))
    found, on_lips = lip_places(points, points[0], places)
    reach = (high - low).max()
    assert 0.3 < on_lips.float().mean() < 0.8
    assert (found - places)[on_lips].abs().max() < 0.1 * reach
    assert (found - places)[on_lips].abs().mean() < 0.01 * reach


def test_frames_are_painted_alike_alone_and_in_a_batch(face, rest):
    reference = face.controls["jaw_open"] * 0.3
    portrait = torch.rand(3, SIZE, SIZE)
    painter = OpeningPainter(face, portrait, rest[0], reference, rest[2])
    opened = face.controls["jaw_open"] + face.controls["blink_left"]
    betas = torch.stack([opened, rest[1], reference + face.controls["blink_right"]])
    pose, pictures = rest[2].expand(3, -1), torch.rand(3, 3, SIZE, SIZE)
    together = painter(pictures.clone(), betas, pose)
    alone = [painter(pictures[i : i + 1].clone(), betas[i : i + 1], pose[i : i + 1]) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert (together - pictures).abs().amax((1, 2, 3)).min() > 0.1
