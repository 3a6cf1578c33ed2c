"""Portraits that are hard to animate give finite, unexploded frames and a word to the user, or one clear error."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import bad_portraits as bad
import numpy as np
import pytest
import torch
from PIL import Image

from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.frames.appearance import encode_portrait, remarks
from fd2talk_core.frames.composite import Compositor, feather_mask
from fd2talk_core.frames.detail import DetailLayer
from fd2talk_core.frames.limits import soft_limit
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.frames.sampling import sample_frames
from fd2talk_core.motion.clip import MotionClip

pytestmark = pytest.mark.weights
NAMES = ("portrait", "portrait_stylised")


@lru_cache
def parts():
    return FrameModel.load(), FaceModel.load(), FaceTracker.load()


@lru_cache
def plain(name):
    _, face_model, tracker = parts()
    return encode_portrait(bad.portrait(name), tracker, face_model)


def encoded(picture, size=256):
    _, face_model, tracker = parts()
    return encode_portrait(picture, tracker, face_model, size=size)


def drawn(name, **controls):
    """The portrait with another expression, as stage 2 draws it."""
    model, face_model, _ = parts()
    return bad.rendered(model, face_model, plain(name), **controls)


def turned(name, step, times):
    _, face_model, tracker = parts()
    return bad.turned(tracker, face_model, bad.portrait(name), step, times)


def performance(face_model):
    """At rest, jaw open in a turned head, eyes shut, and everything far outside the training range."""
    controls = ({}, {"jaw_open": 1.0}, {"blink_left": 1.0, "blink_right": 1.0},
                {"smile_left": 5.0, "smile_right": 5.0, "jaw_open": 6.0, "eye_wide": 5.0, "gaze_x": 9.0})  # fmt: skip
    pose = torch.zeros(4, 6)
    pose[1, 1] = 0.2
    pose[3] = torch.tensor([2.0, -3.0, 2.0, 4.0, -4.0, 2.0])
    return MotionClip(torch.stack([face_model.control_vector(c) for c in controls]), pose, 25.0, face_model.hash)


def roughness(picture):
    """Mean difference of neighbours in (H, W, 3)."""
    return float((picture[:, 1:] - picture[:, :-1]).abs().mean() + (picture[1:] - picture[:-1]).abs().mean())


def check_frames(look):
    """The performance is finite, in range, no rougher than the portrait allows, and steady outside the crop."""
    model, face_model, _ = parts()
    motion, note = soft_limit(performance(face_model), face_model, look)
    assert re.search("[12] of 4 frames", note)
    frames = next(sample_frames(model, face_model, look, motion))
    crop = look.crop.movedim(0, -1)
    assert torch.isfinite(frames).all() and frames.min() >= 0 and frames.max() <= 1
    assert (frames[0] - crop).abs().mean() < 0.06, "at rest it is the portrait"
    assert all(roughness(frame) < 2 * roughness(crop) for frame in frames[:3])
    assert roughness(frames[3]) < 3 * roughness(crop)
    x0, y0, side = look.crop_box
    height, width = look.picture.shape[:2]
    inside = np.zeros((height, width), bool)
    rows, columns = slice(max(y0, 0), min(y0 + side, height)), slice(max(x0, 0), min(x0 + side, width))
    inside[rows, columns] = feather_mask(side).numpy()[rows.start - y0 : rows.stop - y0,
                                                      columns.start - x0 : columns.stop - x0] > 0  # fmt: skip
    for picture in Compositor(look).stream(frames, DetailLayer(face_model, look)(motion, 0, 4)):
        assert picture.dtype == torch.uint8
        assert np.array_equal(picture[0].numpy()[~inside], look.picture[~inside]), "bit-identical outside the mask"
    return frames


@pytest.mark.parametrize("name", NAMES)
def test_our_own_portraits_need_no_remark(name):
    assert plain(name).notes == []
    check_frames(plain(name))


OTHERS = {
    "glasses": lambda name: bad.glasses(plain(name), dark=False),
    "beard": lambda name: bad.beard(plain(name)),
    "hand": lambda name: bad.hand(plain(name)),
    "wide": lambda name: bad.on_canvas(bad.portrait(name), 8000, 300, 300),
    "tall": lambda name: bad.on_canvas(bad.portrait(name), 300, 8000, 300),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", OTHERS)
def test_what_covers_the_face_and_odd_shapes_do_no_harm(name, case):
    look = encoded(OTHERS[case](name))
    assert look.notes == []
    check_frames(look)


REMARKED = {
    "shut eyes": (lambda name: drawn(name, blink_left=1.0, blink_right=1.0), "eyes seem to be shut"),
    "dark glasses": (lambda name: bad.glasses(plain(name), dark=True), "eyes seem to be shut or hidden"),
    "open mouth": (lambda name: drawn(name, jaw_open=1.2), "mouth is wide open"),
    "half profile": (lambda name: turned(name, 0.25, 6), r"turned far .*\(about [34]"),
    "tilted": (
        lambda name: np.asarray(Image.fromarray(bad.portrait(name)).rotate(50, fillcolor=(120, 120, 120))),
        "tilted by about (49|50|51) degrees. Turn the picture upright",
    ),
    "cut off": (lambda name: bad.cut_at_edge(plain(name), 0.15), "cut off at the picture's edge"),
    "small": (lambda name: bad.scaled(bad.portrait(name), 150), r"face is small \(.* pixels\)"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", REMARKED)
def test_the_user_is_told_what_is_hard_about_a_portrait(name, case):
    make, message = REMARKED[case]
    look = encoded(make(name))
    assert [note for note in look.notes if re.search(message, note)], look.notes
    check_frames(look)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ((0.0, 0.87, 0.0), r"turned far to the side \(about 50 degrees\).*Choose a more frontal picture"),
        ((0.0, -0.87, 0.0), r"turned far to the side \(about 50 degrees\).*Choose a more frontal picture"),
        ((0.6, 0.0, 0.0), r"looks far down \(about 34 degrees\)"),
        ((-0.6, 0.0, 0.0), r"looks far up \(about 34 degrees\)"),
    ],
)
def test_profiles_are_remarked_on_and_not_driven_further(pose, message):
    model, face_model, _ = parts()
    look = plain("portrait")
    pose = torch.cat([torch.tensor(pose), look.pose[3:]])
    look = replace(look, pose=pose, landmarks=face_model.landmarks(look.alpha, look.beta, pose, 256), notes=[])
    [note] = [note for note in remarks(look, face_model) if "head" in note]
    assert re.search(message, note)
    motion, _ = soft_limit(performance(face_model), face_model, look)
    frames = next(sample_frames(model, face_model, look, motion))
    assert torch.isfinite(frames).all() and frames.min() >= 0 and frames.max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda name: bad.scaled(bad.portrait(name), 64), r"face is only \d+ pixels wide. Use a larger|No face"),
        (lambda name: bad.portrait(name)[::-1], "stands on its head in the picture. Turn the picture upright"),
        (lambda name: bad.portrait(name)[::-1, ::-1], "stands on its head in the picture. Turn the picture upright"),
        (lambda name: bad.portrait(name)[:60], "No face was found in the picture. Use a picture"),
    ],
)
def test_what_cannot_be_animated_is_one_clear_error(name, make, message):
    with pytest.raises(UserError, match=message):
        encoded(np.ascontiguousarray(make(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_grey_portrait_gives_a_grey_video(name):
    look = encoded(bad.grey(bad.portrait(name)))
    assert look.notes == []
    frames = check_frames(look)
    pasted = Compositor(look).paste(frames)
    assert (pasted.amax(-1) - pasted.amin(-1)).max() < 1e-6


# In a process of its own, because the peak is one of a process.
HUGE = """
import sys
sys.path.insert(0, {tests!r})
import bad_portraits as bad
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.frames.appearance import encode_portrait
from fd2talk_core.frames.composite import Compositor
from fd2talk_core.frames.detail import DetailLayer
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.pipeline import peak_memory_mb
import torch
face_model = FaceModel.load()
look = encode_portrait(bad.scaled(bad.portrait(), 8000), FaceTracker.load(), face_model)
clip = MotionClip(face_model.controls["jaw_open"][None], torch.zeros(1, 6), 25.0, face_model.hash)
[picture] = Compositor(look).stream(look.crop.movedim(0, -1)[None], DetailLayer(face_model, look)(clip, 0, 1))
assert picture.shape == (1, 8000, 8000, 3)
corner = picture[0, :200, :200].numpy()
assert (corner == look.picture[:200, :200]).all()
sys.stdout.write(str(peak_memory_mb()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a child process is read from /proc")
def test_a_portrait_of_8000_pixels_stays_below_three_gigabytes():
    code = HUGE.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3000
