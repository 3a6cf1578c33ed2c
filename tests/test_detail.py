import numpy as np
import pytest
import torch

from fd2talk_core.face.model import FaceModel
from fd2talk_core.frames.appearance import Appearance, square_crop
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


def test_without_motion_it_restores_the_portrait(face):
    look = noisy_portrait(face, 256)
    detail = DetailLayer(face, look)(clip(face), 0, 2)
    assert detail.shape == (2, 3, 256, 256)
    coarse = torch.nn.functional.interpolate(look.crop[None], size=(256, 256), mode="bicubic", align_corners=False)
    restored = (coarse + detail[:1])[0].permute(1, 2, 0).numpy() * 255
    corner = np.s_[:60, :60]
    assert np.abs(restored[corner] - look.picture[corner]).max() < 1.5


def test_mouth_and_eyes_are_left_to_the_network(face):
    look = noisy_portrait(face, 256)
    detail = DetailLayer(face, look)(clip(face, jaw_open=0.6), 0, 1)[0]
    points = face.landmarks(look.alpha, face.control_vector({"jaw_open": 0.6}), look.pose, 256)
    for first, second in ((13, 14), (159, 145)):
        x, y = ((points[first] + points[second]) / 2)[:2].round().int().tolist()
        assert detail[:, y - 1 : y + 2, x - 1 : x + 2].abs().max() < 0.02
    assert detail[:, 10:40, 10:40].abs().mean() > 0.05


def test_a_small_portrait_has_none(face):
    assert DetailLayer(face, noisy_portrait(face, 64))(clip(face), 0, 1) is None
