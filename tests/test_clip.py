import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fd2talk_core.errors import UserError
from fd2talk_core.motion.clip import MotionClip


def make_clip(frames=50, fps=25.0):
    t = torch.arange(frames) / fps
    expression = torch.sin(t[:, None] * torch.linspace(1, 8, 64))
    pose = 0.1 * torch.cos(t[:, None] * torch.linspace(1, 3, 6))
    valid = torch.ones(frames, dtype=torch.bool)
    valid[3] = False
    return MotionClip(expression, pose, fps, "abc123", valid)


def test_round_trip_keeps_every_value(tmp_path):
    clip = make_clip(fps=30000 / 1001)
    path = clip.save(tmp_path / "deep" / "clip")
    again = MotionClip.load(path)
    assert path.name == "clip.safetensors" and not list(path.parent.glob("*.partial"))
    assert torch.equal(again.expression, clip.expression) and torch.equal(again.pose, clip.pose)
    assert torch.equal(again.valid, clip.valid)
    assert again.fps == clip.fps and again.face_model == "abc123"
    assert again.duration == pytest.approx(50 * 1001 / 30000)


def test_arrays_are_accepted_and_valid_defaults_to_true():
    clip = MotionClip(np.zeros((4, 64)), np.zeros((4, 6)), 25, "x")
    assert clip.expression.dtype == torch.float32 and clip.valid.all() and len(clip) == 4


@pytest.mark.parametrize("fps", [12.5, 23.976, 30, 50, 60])
def test_resampling_keeps_duration_and_motion(fps):
    clip = make_clip(100)
    other = clip.resampled(fps)
    assert abs(other.duration - clip.duration) <= 0.5 / fps + 1e-9
    assert other.fps == fps and other.valid.shape == (len(other),)
    times = torch.arange(len(other)) / fps
    inside = times < 3.9
    truth = torch.sin(times[:, None] * torch.linspace(1, 8, 64))
    assert (other.expression - truth)[inside].abs().max() < 0.03
    assert clip.resampled(25.0) is clip


def test_resampling_never_overshoots():
    steps = torch.zeros(20, 64)
    steps[10:] = 1
    other = MotionClip(steps, torch.zeros(20, 6), 25, "x").resampled(60)
    assert other.expression.min() >= 0 and other.expression.max() <= 1


def test_one_frame_can_be_resampled():
    assert len(MotionClip(torch.ones(1, 64), torch.zeros(1, 6), 25, "x").resampled(50)) == 2


def test_other_face_model_is_a_clear_error():
    make_clip().check("abc123")
    with pytest.raises(UserError, match="face model abc123.*use fffff"):
        make_clip().check("fffff")


@pytest.mark.parametrize(
    "change",
    [
        {"expression": torch.full((50, 64), float("nan"))},
        {"pose": torch.full((50, 6), float("inf"))},
        {"expression": torch.zeros(50, 63)},
        {"pose": torch.zeros(49, 6)},
        {"valid": torch.ones(3, dtype=torch.bool)},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"expression": torch.zeros(0, 64), "pose": torch.zeros(0, 6), "valid": torch.zeros(0)},
    ],
)
def test_bad_values_are_refused(change):
    with pytest.raises(UserError):
        make_clip().with_changes(**change)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        MotionClip.load(tmp_path / "nothing.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("this is no clip")
    with pytest.raises(UserError, match="cannot be read"):
        MotionClip.load(text)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(UserError, match="not an FD2Talk motion clip"):
        MotionClip.load(other)
    good = make_clip().save(tmp_path / "good.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        MotionClip.load(cut)
    base = {"kind": "fd2talk.motion_clip", "version": "1", "face_model": "x"}
    tensors = {"expression": torch.zeros(2, 64), "pose": torch.zeros(2, 6), "valid": torch.ones(2, dtype=torch.bool)}
    for name, content, metadata in (
        ("nan", tensors | {"pose": torch.full((2, 6), float("nan"))}, base | {"fps": "25.0"}),
        ("nofps", tensors, base),
        ("newer", tensors, base | {"fps": "25.0", "version": "9"}),
        ("lacking", {"pose": tensors["pose"]}, base | {"fps": "25.0"}),
    ):
        save_file(content, tmp_path / f"{name}.safetensors", metadata)
        with pytest.raises(UserError):
            MotionClip.load(tmp_path / f"{name}.safetensors")


def test_unwritable_place_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make_clip().save(tmp_path / "file" / "clip.safetensors")
