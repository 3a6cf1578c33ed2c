"""Motion tools on the shipped face model: what an animator would notice."""

import math

import numpy as np
import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.edit import apply_controls, smooth
from fd2talk_core.motion.tools import (
    POSE_PRESETS,
    blend,
    concatenate,
    crop,
    limit_pose,
    loop,
    mirror,
    mirror_matrix,
    pose_preset,
    retime,
    soft_limit,
)

FLIP = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


def lively(face, seconds=4.0, fps=25.0, seed=0, offset=0.0):
    """Smooth motion as a talking head has it: lips of 3 Hz, a head of 0.5 Hz and a drift."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * fps)) / fps
    phases, rates = rng.uniform(0, 6, 64), rng.uniform(0.5, 3, 64)
    expression = np.sin(2 * np.pi * rates * t[:, None] + phases) * face.exp_std.numpy()
    pose = 0.05 * np.sin(2 * np.pi * 0.5 * t[:, None] + rng.uniform(0, 6, 6)) + 0.06 * t[:, None] / seconds + offset
    return MotionClip(expression, pose, fps, face.hash)


def motion_of(clip, face):
    """Everything in comparable units, (T, 70)."""
    return torch.cat([clip.expression / face.exp_std, clip.pose / 0.05], 1)


def speeds(motion):
    return motion.diff(dim=0).norm(dim=1)


def test_joined_clips_keep_their_own_motion_and_meet_smoothly(face):
    a, b = lively(face), lively(face, seed=1, offset=0.2)
    joined = concatenate([a, b])
    assert len(joined) == 195 and joined.valid.all()
    assert torch.equal(joined.expression[:95], a.expression[:95])
    assert torch.equal(joined.expression[100:], b.expression[5:])
    assert torch.equal(joined.pose[:80], a.pose[:80]) and torch.equal(joined.pose[-80:], b.pose[-80:])
    motion = motion_of(joined, face)
    fastest = torch.cat([speeds(motion_of(a, face)), speeds(motion_of(b, face))]).max()
    assert speeds(motion)[85:110].max() < 1.3 * fastest
    # A head that jumps by 0.2 radians takes about as long as heads do: below 30 degrees per second.
    assert joined.pose[:, 1].diff().abs().max() * 25 < math.radians(30)
    jerky = concatenate([a, b], pose_crossfade=0)
    assert jerky.pose[:, 1].diff().abs().max() > 2 * joined.pose[:, 1].diff().abs().max()
    # The velocity is continuous: no acceleration stands out at the seam.
    bends = motion.diff(n=2, dim=0).norm(dim=1)
    assert bends[85:110].max() < 2 * bends[:85].max()


def test_joining_cuts_retimes_and_shortens_fades(face):
    a, b = lively(face), lively(face, 1.0, 50.0, seed=1)
    assert len(concatenate([a, b], 0)) == 125 and concatenate([a, b], 0).fps == 25
    assert torch.equal(concatenate([a, a], 0).pose[100:], a.pose)
    assert len(concatenate([a, b, a], 30)) == 100 + 25 + 100 - 12 - 12
    one = crop(a, 0, 0.04)
    assert len(concatenate([one, one, one])) == 3 and len(concatenate([a, one])) == 101
    assert torch.equal(concatenate([a]).expression, a.expression)
    lost = a.with_changes(valid=torch.arange(100) < 98)
    assert concatenate([lost, a]).valid.logical_not().nonzero()[:, 0].tolist() == [98, 99]
    with pytest.raises(UserError, match="at least one"):
        concatenate([])
    with pytest.raises(UserError, match="face model"):
        concatenate([a, a.with_changes(face_model="another")])
    for bad in (-1, float("nan"), 1e9):
        with pytest.raises(UserError, match="cross-fade"):
            concatenate([a, a], bad)


def test_a_seam_cannot_be_told_from_the_rest(face):
    clip = lively(face, 6.0, seed=3)
    for fps in (25.0, 240.0, 1.0):
        base = clip.resampled(fps)
        round_ = loop(base)
        motion = motion_of(loop(base, times=3), face)
        period = len(round_)
        assert len(motion) == 3 * period and torch.equal(motion[:period], motion[period : 2 * period])
        if fps == 1:
            continue
        inside = motion_of(base, face)
        reach = round(0.4 * fps)
        seam = motion[period - reach : period + 2 * reach]
        assert speeds(seam).max() <= 1.05 * speeds(inside).max()
        bends = inside.diff(n=2, dim=0).norm(dim=1).max()
        assert seam.diff(n=2, dim=0).norm(dim=1).max() <= 1.5 * bends
        assert seam.abs().max() <= 1.1 * inside.abs().max()
    assert torch.equal(round_.expression, loop(base, times=1).expression)


def test_loops_of_any_length(face):
    clip = lively(face, 2.0)
    assert len(loop(clip)) == 40 and len(loop(clip, seconds=7.3)) == 183 and len(loop(clip, seconds=0.5)) == 13
    assert len(loop(clip, crossfade=60)) == 25 and len(loop(clip, times=2, crossfade=0)) == 100
    one = crop(clip, 0, 0.04)
    assert len(loop(one)) == 1 and len(loop(one, seconds=1)) == 25
    for bad in ({"times": 0}, {"times": 10**9}, {"seconds": -1}, {"seconds": float("nan")}, {"seconds": 1, "times": 2}):
        with pytest.raises(UserError):
            loop(clip, **bad)


def test_blending_regions_leaves_the_others_to_the_bit(face):
    a, b = lively(face), lively(face, seed=1)
    mixed = blend(a, b, 0.5, {"mouth": 1.0, "pose": 0.5}, face)
    mouth = face.slices["mouth"]
    others = torch.ones(64, dtype=torch.bool)
    others[mouth] = False
    assert torch.equal(mixed.expression[:, others], a.expression[:, others])
    assert torch.allclose(mixed.expression[:, mouth], (a.expression + b.expression)[:, mouth] / 2, atol=1e-6)
    assert torch.allclose(mixed.pose, 0.75 * a.pose + 0.25 * b.pose, atol=1e-6)
    assert torch.equal(blend(a, b, 0).expression, a.expression) and torch.equal(blend(a, b, 1).pose, b.pose)
    assert torch.equal(blend(a, b, 1, {"mouth": 1}).expression, blend(a, b, 1, {"mouth": 1}, face).expression)
    ramp = blend(a, b, np.linspace(0, 1, 100))
    assert torch.equal(ramp.pose[0], a.pose[0]) and torch.equal(ramp.pose[-1], b.pose[-1])


def test_blending_holds_the_shorter_clip_and_minds_lost_frames(face):
    a, b = lively(face), lively(face, 1.0, 50.0, seed=1)
    b = b.with_changes(valid=torch.zeros(50, dtype=torch.bool))
    mixed = blend(a, b, 1)
    assert len(mixed) == 100 and mixed.fps == 25 and not mixed.valid.any()
    assert (mixed.expression[25:] == mixed.expression[25]).all()
    assert blend(a, b, 0).valid.all() and blend(a, crop(b, 0, 0.02), 0.5).expression.isfinite().all()


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), np.zeros(99), np.zeros((100, 2))])
def test_weights_that_make_no_sense_are_refused(face, weight):
    with pytest.raises(UserError, match="weight"):
        blend(lively(face), lively(face, seed=1), weight)


def test_regions_and_face_models_are_checked(face):
    a = lively(face)
    with pytest.raises(UserError, match="no region called 'nose'.*mouth"):
        blend(a, a, 0.5, {"nose": 1}, face)
    with pytest.raises(UserError, match="weight of mouth"):
        blend(a, a, 0.5, {"mouth": 2}, face)
    other = a.with_changes(face_model="another")
    for edit in (lambda: blend(a, other), lambda: mirror(other, face)):
        with pytest.raises(UserError, match="face model"):
            edit()


def test_mirroring_swaps_the_sides(face):
    clip = lively(face)
    twice = mirror(mirror(clip, face), face)
    assert torch.equal(twice.pose, clip.pose)
    alpha = torch.zeros(100, 80)
    shape = face.vertices(alpha, clip.expression)
    assert (face.vertices(alpha, twice.expression) - shape).norm(dim=2).max() < 1e-4  # inter-ocular distances
    mirrored = face.vertices(alpha, mirror(clip, face).expression)
    truth = shape[:, face.mirror] * FLIP
    still = face.vertices(alpha[:1], torch.zeros(1, 64))
    assert (mirrored - truth).norm() < 0.1 * (truth - still).norm()
    assert (mirrored - truth).norm(dim=2).max() < 0.06
    assert torch.allclose(mirror(clip, face).pose[:, [1, 2, 3]], -clip.pose[:, [1, 2, 3]])
    assert torch.equal(mirror(clip, face).pose[:, [0, 4, 5]], clip.pose[:, [0, 4, 5]])
    matrix = mirror_matrix(face)
    for name, span in face.slices.items():
        outside = matrix[span].clone()
        outside[:, span] = 0
        assert not outside.any(), name


@pytest.mark.parametrize(("one", "other"), [("blink_left", "blink_right"), ("smile_left", "smile_right")])
def test_mirrored_controls_are_those_of_the_other_side(face, one, other):
    still = MotionClip(torch.zeros(1, 64), torch.zeros(1, 6), 25, face.hash)
    wanted = apply_controls(still, face, {other: 1.0})
    got = mirror(apply_controls(still, face, {one: 1.0}), face)
    moved = face.vertices(torch.zeros(1, 80), wanted.expression) - face.mean
    error = face.vertices(torch.zeros(1, 80), got.expression) - face.mean - moved
    assert error.norm() < 0.22 * moved.norm()  # what the learnt controls themselves differ by
    assert torch.cosine_similarity(got.expression, wanted.expression).item() > 0.97


def test_pose_limits_are_soft_and_never_passed():
    x = torch.linspace(-5, 5, 4001)
    y = soft_limit(x, 1.0)
    inside = x.abs() < 0.69
    assert torch.equal(y[inside], x[inside]) and y.abs().max() <= 1
    assert (y.diff() >= 0).all() and torch.allclose(y, -y.flip(0), atol=1e-5)
    slope = y.diff() / x.diff()
    assert slope.diff().abs().max() < 0.02  # bends, never a corner
    assert (soft_limit(x, 0.0) == 0).all()


def test_pose_limits_by_channel(face):
    clip = lively(face)
    wild = clip.with_changes(pose=clip.pose * 100)
    limited = limit_pose(wild, (10, 20, 5), 0.1, 0.05)
    most = limited.pose.abs().max(0).values
    limit = torch.tensor([*np.radians((10, 20, 5)), 0.1, 0.1, 0.05], dtype=torch.float32)
    assert (most <= limit).all() and (most > 0.9 * limit).all()
    assert torch.equal(limit_pose(clip, (90, 90, 90), 9, 9).pose, clip.pose)
    assert torch.equal(limit_pose(wild, (math.inf,) * 3, math.inf, math.inf).pose, wild.pose)
    for bad in ((-1, 1, 1), (float("nan"), 1, 1), (1, 1)):
        with pytest.raises(UserError, match="limit"):
            limit_pose(clip, bad)


@pytest.mark.parametrize("name", POSE_PRESETS)
def test_pose_presets_start_where_the_clip_does_and_grow_with_strength(face, name):
    clip = MotionClip(torch.zeros(300, 64), torch.zeros(300, 6), 25, face.hash)
    one, two = (pose_preset(clip, name, strength).pose for strength in (1, 2))
    assert torch.allclose(two, 2 * one, atol=1e-6) and not one[0].any() and not one[:, 3:].any()
    assert pose_preset(clip, name, 0) is clip
    assert one.diff(dim=0).abs().max() * 25 < math.radians(110)
    assert len(pose_preset(crop(clip, 0, 0.04), name)) == 1
    moving = lively(face)
    assert torch.equal(pose_preset(moving, name).expression, moving.expression)


def test_pose_presets_do_what_they_say(face):
    clip = MotionClip(torch.zeros(250, 64), torch.zeros(250, 6), 25, face.hash)
    nose = {}
    for name in ("look_left", "look_up", "tilt_left"):
        pose = pose_preset(clip, name).pose[-1:]
        nose[name] = face.project(face.mean[None], pose, 1.0)[0, [1, 10]] - face.mean[[1, 10]] - 0.5
    assert nose["look_left"][0, 0] > 0.05  # the person's left is the picture's right
    assert nose["look_up"][0, 1] < -0.05
    assert nose["tilt_left"][1, 0] > 0.05  # the forehead leans there
    nod = pose_preset(clip, "nod").pose[:, 0]
    assert nod.abs().max() > math.radians(4) and not pose_preset(clip, "nod").pose[:, 1:].any()
    assert torch.equal(pose_preset(lively(face), "still").pose, torch.zeros(100, 6))
    with pytest.raises(UserError, match="no pose preset called 'dance'.*nod"):
        pose_preset(clip, "dance")
    for bad in (-1, 3, float("nan")):
        with pytest.raises(UserError, match="strength"):
            pose_preset(clip, "nod", bad)


def test_retiming(face):
    clip = lively(face)
    assert retime(clip).duration == clip.duration
    fast = retime(clip, speed=2)
    assert len(fast) == 50 and torch.allclose(fast.expression, clip.expression[::2], atol=1e-5)
    slow = retime(clip, fps=50, speed=0.5)
    assert len(slow) == 400 and torch.allclose(slow.pose[::4], clip.pose, atol=1e-5)
    assert retime(clip, duration=6).duration == 6 and retime(clip, 30, duration=2).duration == 2
    for fps in (1, 240):
        assert retime(clip, fps).fps == fps and retime(retime(clip, fps), speed=2).fps == fps
    for bad in ({"fps": 0}, {"fps": 1000}, {"fps": float("nan")}, {"speed": 0}, {"speed": 100}, {"duration": 0}):
        with pytest.raises(UserError):
            retime(clip, **bad)
    with pytest.raises(UserError, match="both a speed and a duration"):
        retime(clip, speed=2, duration=1)
    assert len(retime(crop(clip, 0, 0.04), 50)) == 2


def test_cropping(face):
    clip = lively(face)
    assert torch.equal(crop(clip, 1, 2).pose, clip.pose[25:50]) and len(crop(clip)) == 100
    assert len(crop(clip, 3.99)) == 1 and len(crop(clip, 3, 99)) == 25
    for start, end in ((4, None), (2, 1), (-1, 2), (float("nan"), None), (1, 1)):
        with pytest.raises(UserError):
            crop(clip, start, end)


@pytest.mark.parametrize("fps", [25.0, 60.0])
def test_one_euro_calms_rest_and_spares_fast_motion(fps):
    t = np.arange(int(12 * fps)) / fps
    fast = np.abs(np.sin(2 * np.pi * 2.5 * t)) * (t > 6)
    clean = np.repeat(fast[:, None], 64, 1)
    noise = np.random.default_rng(0).normal(0, 0.03, clean.shape)
    slow = np.sin(2 * np.pi * 0.3 * t[:, None]) * np.ones((1, 6))
    slow[:, 0] = 0  # a head that rests, as far as tracking can tell
    clip = MotionClip(clean + noise, slow + noise[:, :6], fps, "h")
    calm = smooth(clip, 0.7, "one_euro").expression.numpy()
    head = smooth(clip, 0.7, "one_euro").pose.numpy()
    assert head[:, 0].std() < 0.5 * noise[:, 0].std()
    assert np.abs(head - slow)[:, 1:].mean() < np.abs(noise[:, :6]).mean()
    rest, moving = (t > 0.5) & (t < 5.5), t > 6.5
    assert calm[rest].std() < 0.5 * noise[rest].std()
    assert calm[moving].std() > 0.9 * clean[moving].std()
    linear = smooth(clip, 0.7).expression.numpy()
    assert linear[moving].std() < 0.5 * clean[moving].std()  # what the other method makes of these lips
    matches = [np.corrcoef(calm[moving, 0], np.roll(fast, lag)[moving])[0, 1] for lag in (-1, 0, 1)]
    assert np.argmax(matches) == 1  # nothing lags
    assert smooth(clip, 0, "one_euro") is clip


def test_one_euro_on_short_and_still_clips():
    for frames in (1, 2, 3, 5):
        clip = MotionClip(torch.ones(frames, 64), torch.zeros(frames, 6), 25, "h")
        assert torch.allclose(smooth(clip, 1, "one_euro").expression, clip.expression)
    with pytest.raises(UserError, match="no smoothing called 'median'"):
        smooth(clip, 0.5, "median")
