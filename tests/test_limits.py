"""Motion that no network saw is held back softly, and all other motion is left alone to the bit."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import FACE_OVAL
from fd2talk_core.face.model import FaceModel
from fd2talk_core.frames.limits import EXPRESSION_LIMITS, JAW_LIMIT, TURN_LIMITS, soft_limit, torso_share, turn_room
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.sampling import generate_motion
from fd2talk_core.pipeline import talk

ASSETS = Path(__file__).parents[1] / "assets"
PORTRAIT, VOICE = ASSETS / "portrait.png", ASSETS / "voice.wav"
STEPS = 400


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


def look(face, yaw=0.0, shift=0.0, log_scale=-1.3):
    pose = torch.tensor([0.07, yaw, 0.0, shift, 0.0, log_scale])
    return SimpleNamespace(pose=pose, alpha=torch.zeros(80), beta=torch.zeros(64))


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


@pytest.mark.parametrize(
    ("control", "region"), [("smile_left", "mouth"), ("blink_left", "eyelids"), ("gaze_x", "gaze")]
)
def test_expression_saturates_smoothly_and_in_order(face, control, region):
    clip = sweep(face, face.controls[control], most=40.0)
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


def test_the_jaw_opens_no_further_than_jaws_do(face):
    jaw = face.controls["jaw_open"]
    clip = sweep(face, jaw, most=8.0)
    limited, note = soft_limit(clip, face, look(face))
    opening = limited.expression @ jaw / (jaw @ jaw)
    asked = torch.linspace(0, 8, STEPS)
    inside = asked < 0.69 * JAW_LIMIT
    assert torch.equal(limited.expression[inside], clip.expression[inside])
    assert opening.diff().min() > -1e-4 and 0.95 * JAW_LIMIT < opening.max() <= JAW_LIMIT + 1e-4
    assert "(mouth)" in note


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("portrait", [{}, {"yaw": 0.3}, {"yaw": -0.9}, {"shift": 0.6}, {"log_scale": -0.9}])
def test_pose_saturates_smoothly_and_in_order(face, index, sign, portrait):
    direction = torch.zeros(6)
    direction[index] = sign
    clip, own = sweep(face, pose=direction, most=4.0), look(face, **portrait)
    limited, note = soft_limit(clip, face, own)
    after = limited.pose[:, index] * sign
    room = after.max()
    if index < 3:
        below, above = turn_room(own)
        assert abs(room - (below if sign < 0 else above)[index]) < 0.01
    assert 0.1 <= room <= 1.6
    inside = clip.pose[:, index].abs() < 0.69 * room
    assert torch.equal(limited.pose[inside], clip.pose[inside])
    steps = after.diff()
    assert steps.min() >= -1e-6 and steps.diff().abs().max() < 0.5 * steps.max(), "in order and without a kink"
    assert (limited.pose[0] == 0).all(), "no motion stays no motion"
    if index < 3 and portrait.get("yaw", 0) != -0.9:
        assert (own.pose[index] + limited.pose[:, index]).abs().max() <= TURN_LIMITS[index] + 1e-6
    assert note


@pytest.mark.parametrize("portrait", [{}, {"shift": 0.5}, {"log_scale": -1.6}, {"yaw": -0.3}])
def test_a_face_that_is_pushed_and_turned_hardly_leaves_the_crop(face, portrait):
    own = look(face, **portrait)
    signs = torch.cartesian_prod(*[torch.tensor([-5.0, 0.0, 5.0])] * 6)
    limited, _ = soft_limit(MotionClip(torch.zeros(len(signs), 64), signs, 25.0, face.hash), face, own)
    points = face.landmarks(own.alpha.expand(len(signs), -1), limited.expression, own.pose + limited.pose, 1.0)
    outline = points[:, list(FACE_OVAL), :2]
    assert outline.min() >= -0.05 and outline.max() <= 1.05


def test_absurd_values_stay_finite(face):
    clip = MotionClip(torch.full((3, 64), 1e30), torch.full((3, 6), -1e30), 25.0, face.hash)
    limited, note = soft_limit(clip, face, look(face))
    assert torch.isfinite(limited.expression).all() and torch.isfinite(limited.pose).all()
    for region, limit in EXPRESSION_LIMITS.items():
        assert region_size(face, limited.expression, region).max() <= limit * 1.001
    assert limited.pose.abs().max() < 2
    assert "3 of 3 frames (gaze, eyelids, brows, mouth, cheeks, nod, head turn" in note


def test_the_torso_follows_or_stays():
    assert torso_share("follow") == 1 and torso_share("stay") == 0
    with pytest.raises(UserError, match="no torso mode called 'dance'. Choose one of: follow, stay"):
        talk(PORTRAIT, VOICE, "a.mp4", torso="dance")


@pytest.mark.weights
def test_talk_tells_of_motion_that_is_held_back(face, tmp_path, short_voice):
    clip = sweep(face, face.controls["jaw_open"], most=6.0)
    # The file keeps the motion as it is, for portraits that can take more of it.
    report = talk(PORTRAIT, short_voice, tmp_path / "a.mp4", motion=MotionClip(
        clip.expression[::20], clip.pose[::20], 25.0, face.hash
    ), save_motion=tmp_path / "m", steps=1, torso="stay")  # fmt: skip
    assert [note for note in report.notes if "frames (mouth), and is held back there." in note]
    saved = MotionClip.load(tmp_path / "m.safetensors")
    assert torch.equal(saved.expression, clip.expression[::20][: len(saved)])
