"""Motion clips as JSON."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.interchange import control_readings, from_json, to_json


def noise(frames=5, fps=25.0, face_model="abc"):
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(frames, dtype=torch.bool)
    valid[-1] = False
    expression = torch.randn(frames, 64, generator=generator) * 10 ** torch.linspace(-20, 20, 64)
    return MotionClip(expression, torch.randn(frames, 6, generator=generator), fps, face_model, valid)


def same(a, b):
    tensors = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("expression", "pose", "valid"))
    return tensors and (a.fps, a.face_model) == (b.fps, b.face_model)


@pytest.mark.parametrize("fps", [1, 25, 30000 / 1001, 240])
def test_json_keeps_every_bit(tmp_path, fps):
    clip = noise(fps=fps)
    assert same(from_json(to_json(clip)), clip)
    assert to_json(clip, tmp_path / "deep" / "clip.json") is None
    assert same(MotionClip.load(tmp_path / "deep" / "clip.json"), clip)
    path = clip.save(tmp_path / "other.JSON")
    assert path.name == "other.JSON" and same(MotionClip.load(path), clip)
    assert not list(tmp_path.rglob("*.partial"))


def test_json_is_readable():
    face = FaceModel.load()
    clip = noise(3, face_model=face.hash).with_changes(expression=torch.stack([face.controls["jaw_open"]] * 3))
    content = json.loads(to_json(clip, face_model=face))
    assert content["kind"] == "fd2talk.motion_clip" and content["frame_count"] == 3 and content["fps"] == 25
    assert [frame["time"] for frame in content["frames"]] == [0, 0.04, 0.08]
    assert content["frames"][0]["controls"]["jaw_open"] == pytest.approx(1, abs=1e-3)
    assert content["pose_channels"][:3] == ["pitch", "yaw", "roll"]
    assert same(from_json(to_json(clip, face_model=face)), clip)
    assert len(to_json(clip).splitlines()[-5:]) == 5 and '"frames": [\n' in to_json(clip)
    with pytest.raises(UserError, match="face model"):
        control_readings(noise(), face)


def test_hand_written_json_needs_only_the_essentials():
    frame = {"pose": [0] * 6, "expression": [0] * 64}
    clip = from_json(json.dumps({"kind": "fd2talk.motion_clip", "version": 1, "fps": 12, "frames": [frame]}))
    assert len(clip) == 1 and clip.valid.all() and clip.face_model == ""


def edited(**changes):
    content = json.loads(to_json(noise(2)))
    content.update(changes)
    return json.dumps(content)


def frames_with(**changes):
    return edited(frames=[json.loads(to_json(noise(2)))["frames"][0] | changes] * 2)


@pytest.mark.parametrize(
    "text",
    [
        "{}", '{"kind": "fd2talk.motion_clip"}', "{" * 100_000, to_json(noise())[:-200], to_json(noise())[:40],
        edited(kind="other"), edited(version=2), edited(version=None), edited(fps=0), edited(fps=1000),
        edited(fps=float("nan")), edited(fps="25"), edited(fps=True), edited(fps=None), edited(fps=10**400),
        edited(face_model=3), edited(frames=[]), edited(frames=None), edited(frames=[1, 2]), edited(frame_count=3),
        frames_with(pose=[0] * 5), frames_with(pose=None), frames_with(expression=[0] * 65),
        frames_with(expression=["a"] * 64), frames_with(expression=[None] * 64), frames_with(pose=[True] * 6),
        frames_with(pose=[float("nan")] * 6), frames_with(pose=[float("inf")] * 6), frames_with(pose=[1e39] * 6),
        frames_with(pose=[10**400] * 6), frames_with(valid="yes"), frames_with(pose=[[0] * 6] * 6),
        '{"kind": "fd2talk.motion_clip", "kind": "fd2talk.motion_clip"}',
    ],
)  # fmt: skip
def test_json_that_is_no_clip_is_refused(text):
    with pytest.raises(UserError):
        from_json(text)


def test_files_that_are_no_clips_are_refused(tmp_path):
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "bytes.json").write_bytes(bytes(range(256)))
    (tmp_path / "folder.json").mkdir()
    for name in ("list", "empty", "bytes", "folder", "nothing"):
        with pytest.raises(UserError, match=f"{name}.json"):
            MotionClip.load(tmp_path / f"{name}.json")
    (tmp_path / "json.safetensors").write_text(to_json(noise()))
    save_file({"expression": torch.zeros(2, 64)}, tmp_path / "renamed.json")
    for name in ("json.safetensors", "renamed.json"):
        with pytest.raises(UserError, match="cannot be read"):
            MotionClip.load(tmp_path / name)
    for source in ("no\0such", "x" * 5000):
        with pytest.raises(UserError):
            from_json(source)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        to_json(noise(), tmp_path / "file" / "clip.json")


def test_numbers_are_short():
    line = to_json(noise(1).with_changes(pose=np.full((1, 6), 0.1, np.float32))).splitlines()[-3]
    assert '"pose": [0.1, 0.1, ' in line
