from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import eye_opening
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.edit import add_blinks, apply_controls, ensure_blinks, scale_pose, scale_regions, smooth

SLICES = {
    "gaze": slice(0, 4),
    "eyelids": slice(4, 12),
    "brows": slice(12, 24),
    "mouth": slice(24, 48),
    "rest": slice(48, 64),
}


def direction(region, seed):
    vector = torch.zeros(64)
    span = SLICES[region]
    vector[span] = torch.randn(span.stop - span.start, generator=torch.Generator().manual_seed(seed))
    return vector


FACE_MODEL = SimpleNamespace(
    hash="h",
    slices=SLICES,
    controls={
        "blink_left": direction("eyelids", 1),
        "blink_right": direction("eyelids", 2),
        "jaw_open": direction("mouth", 3),
    },
)


def make_clip(frames=100, fps=25.0, noise=1.0):
    generator = torch.Generator().manual_seed(0)
    expression = noise * torch.randn(frames, 64, generator=generator)
    return MotionClip(expression, 0.1 * torch.randn(frames, 6, generator=generator), fps, "h")


def closure(clip):
    directions = torch.stack([FACE_MODEL.controls["blink_left"], FACE_MODEL.controls["blink_right"]], 1)
    return clip.expression @ torch.linalg.pinv(directions).T


def test_region_gain_moves_its_region_only():
    clip = make_clip()
    edited = scale_regions(clip, FACE_MODEL, {"mouth": 0.5, "gaze": 0.0})
    assert torch.allclose(edited.expression[:, SLICES["mouth"]], clip.expression[:, SLICES["mouth"]] * 0.5)
    assert (edited.expression[:, SLICES["gaze"]] == 0).all()
    assert torch.equal(edited.expression[:, 4:24], clip.expression[:, 4:24])
    assert torch.equal(edited.pose, clip.pose)
    with pytest.raises(UserError, match="no region called 'nose'.*mouth"):
        scale_regions(clip, FACE_MODEL, {"nose": 1.0})
    with pytest.raises(UserError, match="not a finite number"):
        scale_regions(clip, FACE_MODEL, {"mouth": float("nan")})


def test_controls_add_constant_or_per_frame():
    clip = make_clip()
    ramp = np.linspace(0, 1, 100)
    edited = apply_controls(clip, FACE_MODEL, {"jaw_open": ramp, "blink_left": 0.5})
    difference = edited.expression - clip.expression
    assert torch.allclose(difference[-1, 24:48], FACE_MODEL.controls["jaw_open"][24:48], atol=1e-5)
    assert torch.allclose(difference[0, 4:12], 0.5 * FACE_MODEL.controls["blink_left"][4:12], atol=1e-5)
    assert difference[:, 48:].abs().max() == 0
    with pytest.raises(UserError, match="99 values.*100 frames"):
        apply_controls(clip, FACE_MODEL, {"jaw_open": ramp[1:]})
    with pytest.raises(UserError, match="no control called"):
        apply_controls(clip, FACE_MODEL, {"wink": 1.0})
    with pytest.raises(UserError, match="not numbers"):
        apply_controls(clip, FACE_MODEL, {"jaw_open": float("inf")})


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 100])
def test_smoothing_keeps_length(frames):
    clip = make_clip(frames)
    for strength in (0.0, 0.1, 0.5, 1.0):
        assert len(smooth(clip, strength)) == frames


def test_smoothing_grows_with_strength_and_keeps_slow_motion():
    clip = make_clip()
    roughness = [smooth(clip, s).expression.diff(dim=0).square().mean().item() for s in (0, 0.3, 0.6, 1)]
    assert roughness == sorted(roughness, reverse=True) and roughness[-1] < 0.1 * roughness[0]
    slow = clip.with_changes(expression=torch.linspace(0, 1, 100)[:, None].expand(100, 64))
    assert torch.allclose(smooth(slow, 1.0).expression, slow.expression, atol=1e-5)
    with pytest.raises(UserError, match="from 0 to 1"):
        smooth(clip, 1.5)


def test_pose_gains():
    clip = make_clip()
    still = scale_pose(clip, 0.0, 2.0)
    assert (still.pose[:, :3] == 0).all() and torch.allclose(still.pose[:, 3:], clip.pose[:, 3:] * 2)


def test_blinks_repeat_with_the_seed():
    clip = make_clip(1500, noise=0.1)
    first, again, other = (add_blinks(clip, FACE_MODEL, 15, seed) for seed in (7, 7, 8))
    assert torch.equal(first.expression, again.expression)
    assert not torch.equal(first.expression, other.expression)
    rest = torch.cat([first.expression[:, :4], first.expression[:, 12:]], 1)
    assert torch.equal(rest, torch.cat([clip.expression[:, :4], clip.expression[:, 12:]], 1))


@pytest.mark.parametrize("fps", [25.0, 50.0])
def test_blinks_have_a_human_shape(fps):
    clip = MotionClip(torch.zeros(int(60 * fps), 64), torch.zeros(int(60 * fps), 6), fps, "h")
    curve = closure(add_blinks(clip, FACE_MODEL, 15, seed=1))[:, 0].numpy()
    assert curve.max() == pytest.approx(1, abs=1e-3) and curve.min() > -1e-4
    peaks = np.flatnonzero((curve[1:-1] >= curve[:-2]) & (curve[1:-1] > curve[2:])) + 1
    assert 8 <= len(peaks) <= 24
    assert (curve[peaks] > 0.97).all()
    assert (np.diff(peaks) >= 0.5 * fps).all()
    closing, opening = [], []
    for peak in peaks[1:-1]:
        start = peak - np.argmax(curve[peak::-1] < 1e-3)
        end = peak + np.argmax(curve[peak:] < 1e-3)
        closing.append((peak - start) / fps)
        opening.append((end - peak) / fps)
    assert 0.08 <= np.mean(closing) <= 0.17 and 0.16 <= np.mean(opening) <= 0.26


def test_blink_rate_follows_the_setting():
    clip = MotionClip(torch.zeros(25 * 600, 64), torch.zeros(25 * 600, 6), 25, "h")
    counts = []
    for rate in (6, 15, 30):
        curve = closure(add_blinks(clip, FACE_MODEL, rate, seed=3))[:, 1].numpy()
        counts.append(((curve[1:] > 0.5) & (curve[:-1] <= 0.5)).sum() / 10)
    assert np.allclose(counts, (6, 15, 30), rtol=0.25)
    assert add_blinks(clip, FACE_MODEL, 0) is clip
    with pytest.raises(UserError, match="blink rate"):
        add_blinks(clip, FACE_MODEL, -1)


def test_blink_starts_from_the_present_lids():
    half = 0.5 * (FACE_MODEL.controls["blink_left"] + FACE_MODEL.controls["blink_right"])
    clip = MotionClip(half.expand(1500, 64), torch.zeros(1500, 6), 25, "h")
    curve = closure(add_blinks(clip, FACE_MODEL, 15, seed=1))
    assert curve.max() == pytest.approx(1, abs=1e-3) and curve.min() == pytest.approx(0.5, abs=1e-3)


def test_other_face_model_is_refused():
    clip = MotionClip(torch.zeros(10, 64), torch.zeros(10, 6), 25, "another")
    for edit in (
        lambda: scale_regions(clip, FACE_MODEL, {"mouth": 1}),
        lambda: apply_controls(clip, FACE_MODEL, {"jaw_open": 1}),
        lambda: add_blinks(clip, FACE_MODEL),
    ):
        with pytest.raises(UserError, match="face model"):
            edit()


def test_lids_that_stay_open_too_long_get_a_blink():
    face = FaceModel.load()
    clip = MotionClip(torch.zeros(500, 64), torch.zeros(500, 6), 25.0, face.hash)
    blinking = ensure_blinks(clip, face, torch.zeros(64), longest_gap=5.0, seed=1)
    opening = eye_opening(face.vertices(torch.zeros(500, 80), blinking.expression))
    shut = (opening < 0.5 * opening.max()).nonzero()[:, 0] / 25
    gaps = torch.cat([torch.zeros(1), shut, torch.tensor([20.0])]).diff()
    assert gaps.max() <= 5.2
    assert torch.equal(blinking.expression, ensure_blinks(clip, face, torch.zeros(64), seed=1).expression)
    again = ensure_blinks(blinking, face, torch.zeros(64), longest_gap=5.2, seed=2)
    assert torch.equal(again.expression, blinking.expression)  # nothing is missing any more
