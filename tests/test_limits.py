"""Motion that no network saw is held back softly, and all other motion is left alone to the bit."""

from types import SimpleNamespace

import pytest
import torch

from fd2talk_core.face.model import FaceModel
from fd2talk_core.frames.limits import EXPRESSION_LIMITS, TURN_LIMITS, pose_room, soft_limit
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.sampling import generate_motion

STEPS = 400


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


def look(face, yaw=0.0, shift=0.0, log_scale=-1.3):
    pose = torch.tensor([0.07, yaw, 0.0, shift, 0.0, log_scale])
    return SimpleNamespace(pose=pose, size=256, landmarks=face.landmarks(torch.zeros(80), torch.zeros(64), pose, 256))


def sweep(face, expression=None, pose=None, most=1.0):
    """A clip that goes from nothing to `most` times an expression (64,) or a pose offset (6,)."""
    line = torch.linspace(0, most, STEPS)[:, None]
    still = (torch.zeros(64), torch.zeros(6))
    return MotionClip(
        line * (still[0] if expression is None else expression), line * (still[1] if pose is None else pose),
        25.0, face.hash,
    )  # fmt: skip


def region_size(face, expression, region):
    part = face.slices[region]
    return (expression[:, part] / face.exp_std[part]).norm(p=4, dim=1)


@pytest.mark.weights
def test_generated_motion_is_left_alone_to_the_bit(face, shipped, voice):
    clip = generate_motion(shipped, voice[: 16000 * 3], seed=3, steps=2)
    limited, note = soft_limit(clip, face, look(face))
    assert limited is clip and note is None


def test_every_control_at_full_strength_is_inside(face):
    expression = torch.stack([vector for vector in face.controls.values()])
    clip = MotionClip(expression, torch.zeros(len(expression), 6), 25.0, face.hash)
    limited, note = soft_limit(clip, face, look(face))
    assert torch.equal(limited.expression, clip.expression) and note is None


@pytest.mark.parametrize(("control", "region"), [("jaw_open", "mouth"), ("blink_left", "eyelids"), ("gaze_x", "gaze")])
def test_expression_saturates_smoothly_and_in_order(face, control, region):
    clip = sweep(face, face.controls[control], most=12.0)
    limited, note = soft_limit(clip, face, look(face))
    before, after = region_size(face, clip.expression, region), region_size(face, limited.expression, region)
    limit = EXPRESSION_LIMITS[region]
    inside = before < 0.69 * limit
    assert inside.any() and torch.equal(limited.expression[inside], clip.expression[inside])
    steps = after.diff()
    assert steps.min() > -1e-4 and after.max() <= limit + 1e-4 and after.max() > 0.95 * limit
    assert steps.diff().abs().max() < 0.5 * steps.max(), "no kink"
    other = torch.ones(64, dtype=torch.bool)
    other[face.slices[region]] = False
    assert torch.equal(limited.expression[:, other], clip.expression[:, other])
    assert "of 400 frames" in note and note.count(".") == 1


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("portrait", [{}, {"yaw": 0.3}, {"yaw": -0.9}, {"shift": 0.6}, {"log_scale": -0.9}])
def test_pose_saturates_smoothly_and_in_order(face, index, sign, portrait):
    direction = torch.zeros(6)
    direction[index] = sign
    clip, own = sweep(face, pose=direction, most=4.0), look(face, **portrait)
    limited, note = soft_limit(clip, face, own)
    below, above = pose_room(own)
    room = float((below if sign < 0 else above)[index])
    after = limited.pose[:, index] * sign
    inside = clip.pose[:, index].abs() < 0.69 * room
    assert torch.equal(limited.pose[inside], clip.pose[inside])
    assert after.diff().min() >= -1e-6 and 0.95 * room < after.max() <= room + 1e-6
    assert (limited.pose[0] == 0).all(), "no motion stays no motion"
    if index < 3 and portrait.get("yaw", 0) != -0.9:
        assert (own.pose[index] + limited.pose[:, index]).abs().max() <= TURN_LIMITS[index] + 1e-6
    assert note


def test_a_face_that_is_pushed_stays_in_the_crop(face):
    for own in (look(face), look(face, shift=0.5), look(face, log_scale=-1.6)):
        for index in (3, 4):
            for sign in (-1, 1):
                direction = torch.zeros(6)
                direction[index] = 9.0 * sign
                limited, _ = soft_limit(sweep(face, pose=direction), face, own)
                points = face.landmarks(torch.zeros(80), torch.zeros(64), own.pose + limited.pose[-1], 1.0)[:, :2]
                assert points.min() >= 0 and points.max() <= 1


def test_absurd_values_stay_finite(face):
    clip = MotionClip(torch.full((3, 64), 1e30), torch.full((3, 6), -1e30), 25.0, face.hash)
    limited, note = soft_limit(clip, face, look(face))
    assert torch.isfinite(limited.expression).all() and torch.isfinite(limited.pose).all()
    for region, limit in EXPRESSION_LIMITS.items():
        assert region_size(face, limited.expression, region).max() <= limit * 1.001
    assert limited.pose.abs().max() < 2
    assert "3 of 3 frames (gaze, eyelids, brows, mouth, cheeks, nod, head turn" in note
