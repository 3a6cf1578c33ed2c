"""Plot and wire-frame of motion clips."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import LIP_GAP
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.edit import apply_controls
from fd2talk_core.motion.preview import (
    FACE_HEIGHT,
    LIPS,
    LOST,
    VIDEO_PLOT_HEIGHT,
    VIDEO_WIDTH,
    _Wireframe,
    curves_of,
    plot_area,
    plot_motion,
    preview_frames,
    read_controls,
    wireframe_frames,
    write_preview,
)


@pytest.fixture(scope="module")
def face_model() -> FaceModel:
    return FaceModel.load()


def still(face_model: FaceModel, frames: int = 50, fps: float = 25.0) -> MotionClip:
    return MotionClip(torch.zeros(frames, 64), torch.zeros(frames, 6), fps, face_model.hash)


def moving(face_model: FaceModel, frames: int = 50, fps: float = 25.0) -> MotionClip:
    wave = np.sin(np.arange(frames) / 5)
    clip = apply_controls(still(face_model, frames, fps), face_model, {"jaw_open": 0.4 + 0.4 * wave})
    pose = torch.zeros(frames, 6)
    pose[:, 1] = torch.from_numpy(0.2 * wave)
    return clip.with_changes(pose=pose)


@pytest.mark.parametrize("name", ["jaw_open", "mouth_wide", "gaze_x", "brow_raise_left", "blink_left"])
def test_a_control_is_read_back_as_it_was_put_in(face_model, name):
    amount = np.linspace(-0.5, 1, 50)
    clip = apply_controls(still(face_model), face_model, {name: amount})
    assert read_controls(clip, face_model, [name])[:, 0] == pytest.approx(amount, abs=1e-3)


def test_curves_show_controls_and_pose_in_degrees(face_model):
    curves = {
        name: values for _, _, panel in curves_of(moving(face_model), face_model) for name, values in panel.items()
    }
    assert np.ptp(curves["jaw_open"]) == pytest.approx(0.8, abs=0.02)
    assert np.ptp(curves["yaw"]) == pytest.approx(np.degrees(0.4), rel=0.02)
    assert np.ptp(curves["mouth_wide"]) < 0.05 and np.ptp(curves["blink"]) < 1e-3 and np.ptp(curves["roll"]) == 0


def test_plot_has_the_size_asked_for_and_shows_movement(face_model):
    quiet = plot_motion(still(face_model), face_model, (400, 300))
    busy = plot_motion(moving(face_model), face_model, (400, 300))
    assert quiet.shape == (300, 400, 3) and quiet.dtype == np.uint8
    assert (np.abs(quiet.astype(int) - busy).max(-1) > 40).sum() > 300


def test_plot_shades_lost_frames_where_they_are(face_model):
    valid = torch.ones(50, dtype=torch.bool)
    valid[25:] = False
    picture = plot_motion(still(face_model).with_changes(valid=valid), face_model, (400, 300))
    left, right = plot_area((400, 300))
    shaded = (np.abs(picture.astype(int) - LOST).max(-1) < 3).any(0)
    middle = (left + right) // 2
    assert shaded[middle + 3 : right - 3].all() and not shaded[: middle - 3].any()


def test_waveform_is_drawn_where_the_sound_is(face_model):
    sound = np.zeros(32000, np.float32)
    sound[16000:] = np.sin(np.arange(16000) * 0.3)
    with_sound = plot_motion(still(face_model), face_model, (400, 300), sound, 16000)
    silent = plot_motion(still(face_model), face_model, (400, 300), np.zeros(32000, np.float32), 16000)
    changed = (with_sound != silent).any((0, 2))
    left, right = plot_area((400, 300))
    middle = (left + right) // 2
    assert changed[middle + 3 : right - 3].mean() > 0.9 and not changed[: middle - 3].any()


@pytest.mark.parametrize(("frames", "fps"), [(1, 25.0), (2, 1.0), (240, 240.0), (45000, 25.0)])
def test_any_length_and_rate_can_be_plotted(face_model, frames, fps):
    assert plot_motion(still(face_model, frames, fps), face_model, (200, 160)).shape == (160, 200, 3)


def test_wireframe_has_one_picture_per_frame_and_opens_its_mouth(face_model):
    clip = apply_controls(still(face_model, 2), face_model, {"jaw_open": np.array([0.0, 1.0])})
    shut, wide = wireframe_frames(clip, face_model, 128)
    assert shut.shape == (128, 128, 3) and shut.dtype == np.uint8
    lips = [np.argwhere(np.abs(frame.astype(int) - LIPS).max(-1) < 60) for frame in (shut, wide)]
    heights = [np.ptp(rows[:, 0]) for rows in lips]
    assert heights[1] > heights[0] + 5


def test_wireframe_turns_with_the_head(face_model):
    pose = torch.zeros(2, 6)
    pose[1, 3] = 0.3
    clip = still(face_model, 2).with_changes(pose=pose)
    centre = [np.argwhere((f != f[0, 0]).any(-1))[:, 1].mean() for f in wireframe_frames(clip, face_model, 128)]
    assert centre[1] > centre[0] + 5  # x counts to the right of the picture


def test_wireframe_shows_a_portraits_own_shape(face_model):
    alpha = torch.zeros(80)
    alpha[0] = 3 * face_model.id_std[0]
    points = [
        _Wireframe(face_model, 128, 128, a).points(torch.zeros(1, 64), torch.zeros(1, 6))[0] for a in (None, alpha)
    ]
    assert np.abs(points[0] - points[1]).max() > 2
    [mean], [own] = (list(wireframe_frames(still(face_model, 1), face_model, 128, a)) for a in (None, alpha))
    assert (mean != own).any()


def test_face_stays_in_the_picture(face_model):
    points, opening = _Wireframe(face_model, 200, 100, None).points(torch.zeros(1, 64), torch.zeros(1, 6))
    assert (points[..., :2].min() > 0) and points[..., 0].max() < 400 and points[..., 1].max() < 200
    assert points[0, LIP_GAP[0], 0] == pytest.approx(200, abs=8) and opening[0] > 0.1


def test_frames_come_one_by_one(face_model):
    endless = wireframe_frames(still(face_model, 45000), face_model, 64)
    assert len(list(itertools.islice(endless, 3))) == 3


def test_playhead_moves_over_the_plot(face_model):
    clip = still(face_model, 10)
    frames = list(preview_frames(clip, face_model))
    assert len(frames) == 10 and frames[0].shape == (FACE_HEIGHT + VIDEO_PLOT_HEIGHT, VIDEO_WIDTH, 3)
    moved = (frames[2] != frames[7]).any(-1)[FACE_HEIGHT:]
    columns = np.flatnonzero(moved.any(0))
    assert len(columns) == 4  # two pixels where it was, two where it is


@pytest.mark.parametrize(("fps", "expected"), [(25.0, 25.0), (120.0, 30.0)])
def test_preview_video_plays_with_sound(face_model, tmp_path, fps, expected):
    clip = moving(face_model, round(fps), fps)
    calls = []
    path = write_preview(
        clip, face_model, tmp_path / "p.mp4", np.ones((2, 8000), np.float32) * 0.1, 16000,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    with av.open(str(path)) as file:
        assert float(file.streams.video[0].average_rate) == expected
        assert sum(1 for _ in file.decode(video=0)) == round(expected)
    with av.open(str(path)) as file:
        heard = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
    assert heard == pytest.approx(1.0, abs=0.1)
    assert calls[-1] == (round(expected), round(expected))
    assert [p.name for p in tmp_path.iterdir()] == ["p.mp4"]


def test_cancelled_preview_leaves_nothing(face_model, tmp_path):
    def cancel(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_preview(still(face_model), face_model, tmp_path / "p.mp4", progress=cancel)
    assert list(tmp_path.iterdir()) == []


def test_unusable_input_is_explained(face_model):
    foreign = still(face_model).with_changes(face_model="f" * 16)
    with pytest.raises(UserError, match="was made for face model ffff"):
        plot_motion(foreign, face_model)
    with pytest.raises(UserError, match="was made for face model ffff"):
        wireframe_frames(foreign, face_model)
    with pytest.raises(UserError, match="Use at least 64"):
        plot_motion(still(face_model), face_model, (300, 20))
    with pytest.raises(UserError, match="no expression control called 'jaw'.*jaw_open"):
        read_controls(still(face_model), face_model, ["jaw"])
