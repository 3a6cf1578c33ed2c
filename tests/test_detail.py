import numpy as np
import pytest
import torch

from fd2talk_core.face.geometry import dense_flow
from fd2talk_core.face.model import FaceModel
from fd2talk_core.frames.appearance import Appearance, square_crop
from fd2talk_core.frames.composite import Compositor
from fd2talk_core.frames.detail import DetailLayer
from fd2talk_core.motion.clip import MotionClip


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


def noisy_portrait(face, side, size=64):
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    pose = torch.tensor([0.0, 0, 0, 0, 0, -1.3])
    alpha, beta = torch.zeros(80), torch.zeros(64)
    return Appearance(
        picture, (0, 0, side), size, square_crop(picture, (0, 0, side), size),
        face.landmarks(alpha, beta, pose, size), alpha, beta, pose, 1.0, face.hash,
    )  # fmt: skip


def clip(face, **controls):
    beta = face.control_vector(controls)
    return MotionClip(expression=beta.repeat(2, 1), pose=torch.zeros(2, 6), fps=25.0, face_model=face.hash)


def whole(detail, index=0):
    return detail.rows(index, 0, detail.side)


@pytest.mark.parametrize("side", [256, 2200])
def test_without_motion_it_restores_the_portrait(face, side):
    look = noisy_portrait(face, side)
    detail = DetailLayer(face, look)(clip(face), 0, 2)
    pasted = Compositor(look).paste(look.crop.movedim(0, -1)[None], detail, torch.uint8)[0].numpy()
    corner = np.s_[side // 10 : side // 4, side // 10 : side // 4]
    assert np.abs(pasted[corner].astype(int) - look.picture[corner]).max() <= 1
    mouth = np.s_[side * 55 // 100 : side * 6 // 10, side * 48 // 100 : side * 52 // 100]
    assert np.abs(pasted[mouth].astype(int) - look.picture[mouth]).mean() > 5, "the mouth is not touched"


def test_it_moves_with_the_face(face):
    look = noisy_portrait(face, 256)
    motion = clip(face)
    motion.pose[:, 3] = 0.25  # inter-ocular distances to the right
    rest, moved = (whole(DetailLayer(face, look)(m, 0, 1)) for m in (clip(face), motion))
    x, y = face.landmarks(look.alpha, look.beta, look.pose, 256)[9, :2].round().int().tolist()  # between the brows
    shift = round(0.25 * float(look.pose[5].exp()) * 256)
    patch, here = rest[:, y - 5 : y + 6, x - 5 : x + 6], moved[:, y - 5 : y + 6, x - 5 + shift : x + 6 + shift]
    stayed = moved[:, y - 5 : y + 6, x - 5 : x + 6]
    likeness = [float(torch.corrcoef(torch.stack([patch.flatten(), part.flatten()]))[0, 1]) for part in (here, stayed)]
    assert likeness[0] > 0.5 > abs(likeness[1]) + 0.2


def test_mouth_and_eyes_are_left_to_the_network(face):
    look = noisy_portrait(face, 256)
    detail = whole(DetailLayer(face, look)(clip(face, jaw_open=0.6), 0, 1))
    points = face.landmarks(look.alpha, face.control_vector({"jaw_open": 0.6}), look.pose, 256)
    for first, second in ((13, 14), (159, 145)):
        x, y = ((points[first] + points[second]) / 2)[:2].round().int().tolist()
        assert detail[:, y - 1 : y + 2, x - 1 : x + 2].abs().max() < 0.02
    assert detail[:, 10:40, 10:40].abs().mean() > 0.05


def test_bands_do_not_show(face):
    look = noisy_portrait(face, 300)
    motion = clip(face, jaw_open=1.0)
    motion.pose[:] = torch.tensor([0.1, 0.3, 0.2, 0.2, -0.2, 0.1])
    detail = DetailLayer(face, look)(motion, 0, 2)
    bands = torch.cat([detail.rows(1, top, min(top + 13, 300)) for top in range(0, 300, 13)], 1)
    assert torch.allclose(bands, whole(detail, 1), atol=2e-4)


def test_a_flow_that_is_known_is_not_computed_again(face, monkeypatch):
    look, motion = noisy_portrait(face, 256), clip(face, jaw_open=0.6)
    motion.pose[:, 2] = 0.2
    states = (look.beta, look.pose), (motion.expression, look.pose + motion.pose)
    flow = dense_flow(face, look.alpha, *states, torso=0.0)
    layer = DetailLayer(face, look, torso=0.0)
    computed, following = whole(layer(motion, 0, 2), 1), whole(DetailLayer(face, look)(motion, 0, 2), 1)
    assert not torch.allclose(computed[:, 210:], following[:, 210:], atol=0.1), "below the chin the torso counts"
    monkeypatch.delattr("fd2talk_core.frames.detail.dense_flow")
    assert torch.allclose(whole(layer(motion, 0, 2, flow=flow), 1), computed, atol=1e-3)


def test_a_small_portrait_has_none(face):
    assert DetailLayer(face, noisy_portrait(face, 64))(clip(face), 0, 1) is None
