"""Motion from video: known movements of a picture come back as motion of the head."""

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.motion.blinks import blink_directions
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.edit import apply_controls
from fd2talk_core.motion.tracking import complete_blinks, track_motion, track_video
from fd2talk_core.video.reading import read_picture

ASSETS = Path(__file__).parents[1] / "assets"
SIDE = 256


@pytest.fixture(scope="module")
def models():
    return FaceTracker.load(), FaceModel.load()


@pytest.fixture(scope="module")
def portrait(models):
    """The demo face at SIDE pixels, its centre and its size in pixels per inter-ocular distance."""
    picture = Image.fromarray(read_picture(ASSETS / "portrait.png")).convert("RGB")
    shortest = min(picture.size)
    picture = picture.resize((round(picture.width * SIDE / shortest), round(picture.height * SIDE / shortest)))
    face = models[0].track(np.asarray(picture))[0]
    landmarks = face.landmarks
    return picture, face.box.centre, float(np.linalg.norm(landmarks[33] - landmarks[263]))


def moved(picture, centre, shift=(0.0, 0.0), zoom=1.0, roll=0.0):
    """The picture with its content shifted (px), enlarged and turned clockwise (radians) around `centre`."""
    c, s = math.cos(roll) / zoom, math.sin(roll) / zoom
    cx, cy = centre
    x, y = cx + shift[0], cy + shift[1]
    matrix = (c, s, cx - c * x - s * y, -s, c, cy + s * x - c * y)
    return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))


def track(frames, models, **options):
    return track_motion(frames, 25, *models, **({"smoothing": 0.0} | options))


def test_known_head_motion_comes_back(models, portrait):
    picture, centre, unit = portrait
    moves = [
        {}, {"shift": (8, 0)}, {"shift": (8, 6)}, {"shift": (0, 6), "zoom": 1.08}, {"zoom": 1.08},
        {"roll": 0.12}, {"roll": -0.12},
    ]  # fmt: skip
    clip = track((moved(picture, centre, **move) for move in moves), models, reference="first")
    assert len(clip) == len(moves) and clip.valid.all() and clip.fps == 25 and clip.face_model == models[1].hash
    assert not clip.pose[0].any()
    for pose, move in zip(clip.pose.tolist(), moves, strict=True):
        dx, dy = move.get("shift", (0, 0))
        zoom = move.get("zoom", 1.0)
        # The head turns around its own origin, the picture around the middle of the face, a little below.
        assert pose[3] == pytest.approx(dx / unit / zoom, abs=0.05 if "roll" in move else 0.025)
        assert pose[4] == pytest.approx(dy / unit / zoom, abs=0.025)
        assert pose[5] == pytest.approx(math.log(zoom), abs=0.025)
        assert pose[2] == pytest.approx(move.get("roll", 0.0), abs=math.radians(2))
        assert pose[:2] == pytest.approx([0, 0], abs=math.radians(4))


def test_median_is_the_rest_pose_and_smoothing_calms(models, portrait):
    picture, centre, unit = portrait
    shake = np.random.default_rng(0).normal(0, 0.7, 11)
    frames = [moved(picture, centre, (1.2 * n, shift)) for n, shift in enumerate(shake)]
    clip = track(frames, models)
    assert clip.pose[5, 3].abs() < 0.02 and (clip.pose.median(0).values.abs() < 1e-6).all()
    assert np.ptp(clip.pose[:, 3].numpy()) == pytest.approx(12 / unit, abs=0.03)
    calm = track(frames, models, smoothing=1.0)
    assert calm.pose[:, 4].diff().abs().mean() < 0.6 * clip.pose[:, 4].diff().abs().mean()


def test_half_seen_blinks_are_completed_eye_by_eye(models):
    face = models[1]
    still = MotionClip(torch.zeros(40, 64), torch.zeros(40, 6), 25, face.hash)
    seen = np.zeros(40)
    seen[10:14] = (0.2, 0.55, 0.45, 0.2)
    seen[25:28] = 0.06  # jitter
    seen[33] = 0.9
    clip = apply_controls(still, face, {"blink_left": seen, "jaw_open": 0.3, "blink_right": 0.1})
    whole = complete_blinks(clip, face)
    left, right = (whole.expression @ blink_directions(face)[1]).numpy().T
    assert left[11] == pytest.approx(0.93, abs=0.02) and left[33] == pytest.approx(1, abs=1e-3)
    assert left[25:28] == pytest.approx(0.06, abs=0.005) and right == pytest.approx(0.1, abs=1e-3)
    lids = face.slices["eyelids"]
    for part in (slice(0, lids.start), slice(lids.stop, None)):
        assert torch.equal(whole.expression[:, part], clip.expression[:, part])
    assert torch.allclose(complete_blinks(clip, face, 1.0).expression, clip.expression, atol=1e-6)
    one = apply_controls(
        still.with_changes(expression=torch.zeros(1, 64), pose=torch.zeros(1, 6), valid=None), face, {}
    )
    assert len(complete_blinks(one, face)) == 1


def test_frames_without_a_face(models, portrait):
    picture, centre, _ = portrait
    empty = np.full_like(np.asarray(picture), 128)
    frames = [empty, moved(picture, centre), empty, moved(picture, centre, (6, 0))]
    held = track(frames, models, no_face="hold")
    assert held.valid.tolist() == [False, True, False, True]
    assert (held.pose[0] == held.pose[1]).all() and (held.expression[2] == held.expression[1]).all()
    assert (held.pose[3] != held.pose[2]).any()
    assert track(frames, models, no_face="skip").valid.tolist() == [True, True]
    with pytest.raises(UserError, match="no face at 0.00 s"):
        track(frames, models)
    with pytest.raises(UserError, match="No face was found in the video"):
        track([empty, empty], models, no_face="skip")
    with pytest.raises(UserError, match="no frames"):
        track([], models)


def test_one_of_two_faces_is_followed(models, portrait):
    picture, centre, unit = portrait
    small = picture.resize((round(picture.width * 0.75), round(picture.height * 0.75)))
    scene = Image.new("RGB", (picture.width + small.width, picture.height), "grey")
    scene.paste(picture, (0, 0))
    frames = []
    for n in range(4):
        scene.paste("grey", (picture.width, 0, scene.width, scene.height))
        scene.paste(small, (picture.width, 4 * n))
        frames.append(np.asarray(scene))
    frames.insert(2, np.full_like(frames[0], 128))  # lost, and found again where it was
    clip = track(frames, models, face_index=1, no_face="hold", reference="first")
    wanted = np.array([0, 4, 4, 8, 12]) / (0.75 * unit)
    assert clip.pose[:, 4].numpy() == pytest.approx(wanted, abs=0.03)
    with pytest.raises(UserError, match="no face number 5"):
        track(frames, models, face_index=5)


def test_frames_are_a_stream_and_progress_may_cancel(models, portrait):
    picture, centre, _ = portrait
    seen, done = [], []

    def stream():
        for n in range(3):
            seen.append(n)
            yield moved(picture, centre)

    def stop(at, total):
        done.append((at, total))
        assert len(seen) == at  # no frame is read ahead
        if at == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(stream(), models, progress=stop, total=3)
    assert done == [(1, 3), (2, 3)]


@pytest.mark.parametrize(
    "options", [{"no_face": "guess"}, {"reference": "mean"}, {"smoothing": 2}, {"smoothing": float("nan")}]
)
def test_options_are_checked(models, portrait, options):
    with pytest.raises(UserError):
        track([np.asarray(portrait[0])], models, **options)
    with pytest.raises(UserError, match="frames per second"):
        track_motion([], 0, *models)


def test_video_files(tmp_path, models, portrait):
    picture, centre, unit = portrait
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = picture.width // 2 * 2, picture.height // 2 * 2, "yuv420p"
        for n in range(8):
            frame = moved(picture, centre, (2 * n, 0))[: stream.height, : stream.width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    totals = []
    clip = track_video(
        tmp_path / "clip.mp4", *models, start=0.2, seconds=0.5, progress=lambda done, total: totals.append(total)
    )
    assert len(clip) == 5 and clip.fps == 10 and set(totals) == {5}
    assert clip.pose[-1, 3] - clip.pose[0, 3] == pytest.approx(8 / unit, abs=0.04)
    assert track_video(tmp_path / "clip.mp4", *models, fps=5, seconds=0.4).fps == 5
    for bad in ({"start": -1}, {"seconds": 0}, {"start": float("nan")}, {"fps": 500}, {"start": 99}):
        with pytest.raises(UserError):
            track_video(tmp_path / "clip.mp4", *models, **bad)
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(UserError, match="cannot be read as a video"):
        track_video(tmp_path / "text.mp4", *models)
