"""What steers stage 1, and what it makes of odd sounds; with the shipped weights, and pure functions without them."""

import numpy as np
import pytest
import torch

from fd2talk_core.audio.loading import frame_count, load_mono_16k, open_mono_16k, to_mono_16k
from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import mouth_opening
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.blinks import find_blinks, lid_closure, natural_blinks, set_blink_rate
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.sampling import MOUTH_TEMPERATURE, POSE_TEMPERATURE, generate_motion, noise_scale
from fd2talk_core.motion.schedule import REGION_LIMITS, drive_pose, soft_limit, strength_curve

FACE = FaceModel.load()
FAST = {"steps": 4, "guidance": 1.0}


@pytest.fixture(scope="module")
def minute(voice) -> np.ndarray:
    return np.resize(voice, 60 * 16000)


def opening(expression) -> np.ndarray:
    return mouth_opening(FACE.vertices(torch.zeros(80), expression)).numpy()


def reach(clip) -> float:
    """How far any vertex is from the resting face at most, in inter-ocular distances."""
    return float((FACE.vertices(torch.zeros(80), clip.expression) - FACE.mean).norm(dim=-1).max())


def blinking(fps=25.0, seconds=60.0, every=2.0, seed=0):
    """A clip whose lids close fully for some 0.2 s at every so many seconds, with a little noise."""
    times = np.arange(int(seconds * fps)) / fps
    phase = np.abs((times + every / 2) % every - every / 2)
    curve = torch.from_numpy(np.clip(1.2 - phase / 0.1, 0, 1)).float()
    both = FACE.controls["blink_left"] + FACE.controls["blink_right"]
    noise = 0.003 * torch.randn(len(times), 64, generator=torch.Generator().manual_seed(seed))
    return MotionClip(curve[:, None] * both + noise, torch.zeros(len(times), 6), fps, FACE.hash)


# Blinks.


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0])
def test_blinks_are_found(fps):
    found = find_blinks(blinking(fps), FACE, torch.zeros(64))
    assert np.allclose([np.mean(b) for b in found], np.arange(2, 60, 2), atol=0.03)  # that at 0 is cut off
    assert all(0.1 < end - start < 0.2 for start, end in found)


def test_what_is_no_blink_is_not_counted():
    both = FACE.controls["blink_left"] + FACE.controls["blink_right"]
    for frames, closure in ((25, 1.0), (1, 0.55), (4, 0.4)):  # asleep, a twitch, a half-hearted one
        expression = torch.zeros(100, 64)
        expression[40 : 40 + frames] = closure * both
        assert find_blinks(MotionClip(expression, torch.zeros(100, 6), 25, FACE.hash), FACE) == []


@pytest.mark.parametrize("rate", [0, 1, 6, 15, 30])
@pytest.mark.parametrize("every", [1.5, 2.0, 1000.0])
def test_blink_rate_is_reached_from_above_and_below(rate, every):
    clip = blinking(every=every)
    changed = set_blink_rate(clip, FACE, rate, torch.zeros(64), seed=3)
    assert len(find_blinks(changed, FACE, torch.zeros(64))) == rate
    others = torch.ones(64, dtype=torch.bool)
    others[FACE.slices["eyelids"]] = False
    assert torch.equal(changed.expression[:, others], clip.expression[:, others])
    assert changed.expression.diff(dim=0).abs().max() <= 1.5 * blinking().expression.diff(dim=0).abs().max()
    again = set_blink_rate(clip, FACE, rate, torch.zeros(64), seed=3)
    assert torch.equal(again.expression, changed.expression)


def test_no_blinks_means_open_lids():
    closure = lid_closure(set_blink_rate(blinking(), FACE, 0, torch.zeros(64)), FACE, torch.zeros(64))
    assert closure.max() < 0.4


def test_short_clips_blink_at_the_rate_on_average():
    clip = MotionClip(torch.zeros(50, 64), torch.zeros(50, 6), 25, FACE.hash)
    counts = [len(find_blinks(set_blink_rate(clip, FACE, 15, torch.zeros(64), s), FACE)) for s in range(100)]
    assert 30 <= sum(counts) <= 70  # half a blink each; one that a clip's end cuts off is not counted


def test_natural_blinks_thin_out_a_flutter():
    clip = natural_blinks(blinking(every=0.8), FACE, torch.zeros(64))
    found = find_blinks(clip, FACE, torch.zeros(64))
    assert 25 <= len(found) <= 30
    assert np.diff([start for start, _ in found]).max() <= 6


@pytest.mark.parametrize("rate", [-1, 61, float("nan")])
def test_blink_rates_that_do_not_exist(rate):
    with pytest.raises(UserError, match="blink rate"):
        set_blink_rate(blinking(seconds=4), FACE, rate)


# Schedules, limits and driving pose.


def test_schedule_is_smooth_and_stays_between_its_keys():
    curve = strength_curve([(2.0, 0.0), (1.0, 2.0)], 100, 25, 25, "schedule")
    assert (curve[:26] == 2).all() and (curve[50:] == 0).all()
    assert (np.diff(curve) <= 0).all() and np.abs(np.diff(curve)).max() < 0.15
    per_frame = strength_curve(np.r_[np.zeros(30), np.ones(30)], 100, 25, 60, "schedule")  # at 60 per second
    assert per_frame[0] == 0 and (per_frame[25:] == 1).all() and len(per_frame) == 100
    assert strength_curve(None, 10, 25, 25, "schedule") is None
    assert (strength_curve([(3, 0.5)], 10, 25, 25, "schedule") == 0.5).all()


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ([], "shape"),
        ([(0, 1, 2)], "shape"),
        ("often", "cannot be read"),
        ([(0, 1), (0, 2)], "same instant"),
        ([(0, -1)], "value in the schedule is -1"),
        ([(0, 11)], "from 0 to 10"),
        ([(0, float("nan"))], "not numbers"),
    ],
)
def test_schedules_that_cannot_be_used(schedule, words):
    with pytest.raises(UserError, match=words):
        strength_curve(schedule, 10, 25, 25, "schedule")


def test_soft_limit_is_smooth_and_never_passed():
    size = torch.linspace(0, 100, 10001)
    limited = soft_limit(size, 5.0)
    assert torch.equal(limited[:300], size[:300]) and limited.max() <= 5 and (limited.diff() >= 0).all()
    assert limited.diff().diff().abs().max() < 1e-4


def pose_clip(frames, fps=25.0, value=1.0, face_model="other"):
    return MotionClip(torch.zeros(frames, 64), torch.full((frames, 6), value), fps, face_model)


def test_driving_pose_replaces_or_adds():
    own = pose_clip(100, value=0.1, face_model=FACE.hash)
    assert torch.allclose(drive_pose(own, pose_clip(100)).pose, torch.ones(100, 6))
    assert torch.allclose(drive_pose(own, pose_clip(100), "add").pose, torch.full((100, 6), 1.1))
    assert torch.allclose(drive_pose(own, pose_clip(500)).pose, torch.ones(100, 6))  # cut
    half = pose_clip(100, 50.0)  # 2 s at another rate
    assert torch.allclose(drive_pose(own, half, end="hold").pose, torch.ones(100, 6))


def test_what_follows_a_short_driving_pose():
    own = pose_clip(200, value=0.0)
    ramp = pose_clip(60).with_changes(pose=torch.linspace(0, 1, 60)[:, None].expand(60, 6))
    faded = drive_pose(own, ramp).pose[:, 0]
    assert torch.allclose(faded[:34], ramp.pose[:34, 0]) and (faded[60:] == 0).all()
    looped = drive_pose(own, ramp, end="loop").pose[:, 0]
    held = drive_pose(own, ramp, end="hold").pose[:, 0]
    assert (held[59:] == 1).all() and looped[118] == 0 and looped[150] == pytest.approx(ramp.pose[32, 0])
    for pose in (faded, looped, held):
        assert pose.diff().abs().max() < 0.06  # nothing jumps
    one = drive_pose(own, pose_clip(1)).pose
    assert (one == 1).all()


def test_lost_frames_of_a_driving_pose_are_bridged():
    valid = torch.ones(100, dtype=torch.bool)
    valid[20:40] = False
    clip = pose_clip(100).with_changes(valid=valid)
    clip.pose[20:40] = 77.0
    assert torch.allclose(drive_pose(pose_clip(100), clip).pose, torch.ones(100, 6))
    with pytest.raises(UserError, match="no frame with a face"):
        drive_pose(pose_clip(100), clip.with_changes(valid=torch.zeros(100, dtype=torch.bool)))


@pytest.mark.parametrize("change", [{"driving_mode": "swap"}, {"driving_end": "stop"}, {"driving_pose": "x.mp4"}])
def test_driving_settings_are_checked_before_the_work(shipped, change):
    arguments = {"driving_pose": pose_clip(5), "progress": lambda *_: pytest.fail("work began")} | change
    with pytest.raises(UserError, match="no driving|not a motion clip"):
        generate_motion(shipped, np.zeros(16000, np.float32), **arguments)


# The controls, on the shipped weights.


@pytest.mark.weights
def test_temperature_is_the_difference_between_seeds(shipped, voice):
    spread = []
    for temperature in (0.0, 0.5, 1.0):
        clips = [generate_motion(shipped, voice, seed=s, temperature=temperature, blink_rate=0, **FAST) for s in (1, 2)]
        spread.append((clips[0].pose - clips[1].pose).std().item())
    assert spread[0] == 0 and 0 < spread[1] < spread[2]


def test_noise_is_quieter_for_the_mouth():
    scale = noise_scale(FACE.slices, 0.8)
    assert scale.shape == (70,)
    assert torch.allclose(scale[FACE.slices["mouth"]], torch.tensor(0.8 * MOUTH_TEMPERATURE))
    assert torch.allclose(scale[64:], torch.tensor(0.8 * POSE_TEMPERATURE))
    assert scale[FACE.slices["gaze"]][0] == pytest.approx(0.8)


@pytest.mark.weights
def test_energy_makes_livelier(shipped, minute):
    speeds = [
        generate_motion(shipped, minute[: 20 * 16000], energy=energy, **FAST).pose[:, :3].diff(dim=0).norm(dim=1).mean()
        for energy in (-2.0, 0.0, 2.0)
    ]
    assert speeds[0] < speeds[1] < speeds[2]


@pytest.mark.weights
def test_blink_rates_on_speech(shipped, minute):
    rest = shipped.expression_mean
    for rate in (0, 12, 25):
        clip = generate_motion(shipped, minute, blink_rate=rate, **FAST)
        assert abs(len(find_blinks(clip, FACE, rest)) - rate) <= 1, rate
    for seed in (0, 1):
        found = find_blinks(generate_motion(shipped, minute, seed=seed, **FAST), FACE, rest)
        assert 8 <= len(found) <= 31
        assert np.diff([0, *[start for start, _ in found], 60]).max() < 20


@pytest.mark.weights
def test_strengths_from_none_to_ten(shipped, voice):
    clips = [
        generate_motion(shipped, voice, expression_strength=s, pose_strength=s, close_in_silence=False, **FAST)
        for s in (0, 0.5, 1, 2, 10)
    ]
    assert (clips[0].expression == shipped.expression_mean).all() and (clips[0].pose == 0).all()
    spreads = [opening(clip.expression).std() for clip in clips]
    assert spreads == sorted(spreads)
    assert spreads[1] == pytest.approx(0.5 * spreads[2], rel=0.1)
    assert reach(clips[4]) < 1.0 and opening(clips[4].expression).max() < 0.9
    assert clips[4].pose[:, :3].abs().max() <= np.radians(35)
    z = (clips[4].expression - shipped.expression_mean) / shipped.expression_std
    for name, part in FACE.slices.items():
        assert z[:, part].norm(dim=1).max() <= REGION_LIMITS[name] + 1e-3
    for clip in clips[1:]:  # lids close whole, or not at all
        assert len(find_blinks(clip, FACE, shipped.expression_mean)) == len(
            find_blinks(clips[2], FACE, shipped.expression_mean)
        )


@pytest.mark.weights
def test_strength_over_time(shipped, voice):
    plain = generate_motion(shipped, voice, close_in_silence=False, **FAST)
    keys = [(2.0, 1.0), (3.0, 0.0)]
    faded = generate_motion(shipped, voice, strength_schedule=keys, pose_schedule=keys, close_in_silence=False, **FAST)
    assert torch.allclose(faded.expression[:50], plain.expression[:50], atol=1e-5)
    assert torch.allclose(faded.expression[76:], shipped.expression_mean.expand(len(faded) - 76, -1), atol=1e-5)
    assert torch.allclose(faded.pose[:50], plain.pose[:50], atol=1e-6) and faded.pose[76:].abs().max() == 0
    per_frame = generate_motion(shipped, voice, fps=30, strength_schedule=np.full(400, 0.5), blink_rate=0, **FAST)
    constant = generate_motion(shipped, voice, fps=30, expression_strength=0.5, blink_rate=0, **FAST)
    assert torch.allclose(per_frame.expression, constant.expression, atol=1e-5)


@pytest.mark.weights
def test_driving_pose_shorter_than_the_audio(shipped, voice):
    plain = generate_motion(shipped, voice, fps=30, **FAST)
    driven = generate_motion(shipped, voice, fps=30, driving_pose=pose_clip(50, value=0.2), **FAST)
    assert torch.allclose(driven.pose[:20], torch.full((20, 6), 0.2), atol=1e-6)
    assert torch.equal(driven.pose[61:], plain.pose[61:]) and torch.equal(driven.expression, plain.expression)
    one = pose_clip(1, value=0.2)
    added = generate_motion(shipped, voice, fps=30, driving_pose=one, driving_mode="add", **FAST)
    assert torch.allclose(added.pose, plain.pose + 0.2, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"guidance": -1.0}, "guidance scale is -1. Use a value from 0 to 10"),
        ({"guidance": float("nan")}, "guidance scale"),
        ({"steps": 2000}, "motion steps"),
        ({"temperature": 1.6}, "temperature is 1.6"),
        ({"temperature": float("nan")}, "temperature"),
        ({"energy": 3}, "energy is 3"),
        ({"blink_rate": -1}, "blink rate"),
        ({"expression_strength": -0.1}, "expression strength"),
        ({"pose_strength": 11}, "pose strength"),
        ({"expression_strength": float("nan")}, "expression strength"),
        ({"fps": float("inf")}, "frame rate"),
        ({"reference_expression": torch.zeros(3)}, "reference expression"),
        ({"reference_pose": torch.full((6,), float("nan"))}, "reference pose"),
        ({"style": torch.zeros(4)}, "style"),
    ],
)
def test_settings_outside_their_range(shipped, arguments, words):
    with pytest.raises(UserError, match=words):
        generate_motion(shipped, np.zeros(16000, np.float32), **arguments)


# Odd sounds. Whatever comes in, a face comes out.


def music(seconds=6.0):
    time = np.arange(int(seconds * 16000)) / 16000
    notes = np.array([220, 277, 330, 440, 554, 660])[(time * 4).astype(int) % 6]
    phase = 2 * np.pi * np.cumsum(notes) / 16000
    beat = np.exp(-8 * (time * 2 % 1)) * np.random.default_rng(0).standard_normal(len(time))
    return (0.2 * np.sin(phase) + 0.1 * np.sin(2 * phase) + 0.1 * beat).astype(np.float32)


def white(seconds=6.0):
    return (0.1 * np.random.default_rng(0).standard_normal(int(seconds * 16000))).astype(np.float32)


def assert_human(clip, seconds, fps=25.0):
    assert len(clip) == frame_count(seconds, fps)
    assert torch.isfinite(clip.expression).all() and torch.isfinite(clip.pose).all()
    assert reach(clip) < 0.6 and opening(clip.expression).max() < 0.6
    assert clip.pose[:, :3].abs().max() < np.radians(35)


@pytest.mark.weights
@pytest.mark.parametrize("sound", [music, white])
def test_music_and_noise_give_a_sane_face(shipped, sound):
    clip = generate_motion(shipped, sound(), **FAST)
    assert_human(clip, 6)
    if sound is white:
        assert np.median(opening(clip.expression)) < 0.05  # steady noise is no speech


@pytest.mark.weights
@pytest.mark.parametrize("samples", [1, 2, 399, 641])
@pytest.mark.parametrize("fps", [1, 25, 240])
def test_clips_of_a_few_samples(shipped, voice, samples, fps):
    clip = generate_motion(shipped, voice[16000 : 16000 + samples], fps, **FAST)
    assert_human(clip, samples / 16000, fps)


@pytest.mark.weights
def test_offset_and_level_do_not_matter(shipped, voice):
    plain = generate_motion(shipped, voice, blink_rate=0, **FAST)
    for samples in (voice + np.float32(0.3), voice * np.float32(0.25)):
        other = generate_motion(shipped, samples, blink_rate=0, **FAST)
        assert (other.expression - plain.expression).abs().max() < 0.02
        assert np.corrcoef(opening(other.expression), opening(plain.expression))[0, 1] > 0.99


@pytest.mark.weights
def test_clipped_audio_moves_the_same_mouth(shipped, voice):
    plain = opening(generate_motion(shipped, voice, blink_rate=0, temperature=0.3, steps=6).expression)
    clipped = np.clip(voice * 0.9 / np.abs(voice).max() * 8, -1, 1)
    other = generate_motion(shipped, clipped, blink_rate=0, temperature=0.3, steps=6)
    assert_human(other, len(voice) / 16000)
    assert np.corrcoef(opening(other.expression), plain)[0, 1] > 0.6


@pytest.mark.weights
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_any_sample_rate(shipped, voice, rate):
    import librosa

    sound = librosa.resample(voice, orig_sr=16000, target_sr=rate)
    clip = generate_motion(shipped, to_mono_16k(np.stack([sound, sound]), rate), temperature=0.3, blink_rate=0, **FAST)
    plain = generate_motion(shipped, voice, temperature=0.3, blink_rate=0, **FAST)
    assert_human(clip, len(voice) / 16000)
    # A telephone's bandwidth costs some consonants.
    assert np.corrcoef(opening(clip.expression), opening(plain.expression))[0, 1] > (0.5 if rate == 8000 else 0.95)


@pytest.mark.weights
@pytest.mark.parametrize("fps", [1, 240])
def test_extreme_frame_rates_show_the_same_motion(shipped, voice, fps):
    usual = generate_motion(shipped, voice, **FAST)
    clip = generate_motion(shipped, voice, fps, **FAST)
    assert_human(clip, len(voice) / 16000, fps)
    step, own = (1, 25) if fps == 1 else (48, 5)  # the instants that both have
    count = min(len(clip.expression[::step]), len(usual.expression[::own]))
    assert torch.allclose(clip.expression[::step][:count], usual.expression[::own][:count], atol=1e-4)


@pytest.mark.weights
def test_any_whole_number_is_a_seed(shipped, voice):
    sound = voice[:32000]
    seeds = (-1, 0, 2**63 + 5, -(2**80), 10**30)
    clips = [generate_motion(shipped, sound, seed=seed, **FAST) for seed in seeds]
    for clip in clips:
        assert_human(clip, 2)
    assert not torch.allclose(clips[0].pose, clips[1].pose)
    assert torch.equal(clips[0].pose, generate_motion(shipped, sound, seed=-1, **FAST).pose)


@pytest.mark.weights
def test_guidance_zero_ignores_the_voice(shipped, voice):
    rng = np.random.default_rng(0)
    a, b = (
        generate_motion(shipped, x, guidance=0.0, steps=4, close_in_silence=False, blink_rate=0)
        for x in (voice[:64000], rng.permutation(voice)[:64000])
    )
    assert torch.allclose(a.expression, b.expression, atol=1e-4)


@pytest.mark.weights
def test_how_the_file_is_cut_changes_nothing(shipped, voice, tmp_path):
    """16-bit and float, mono and doubled stereo, WAV and FLAC, in memory and from a temporary file: bit for bit."""
    import soundfile

    whole = np.round(voice[:48000] * 32767).astype(np.int16)
    expected = generate_motion(shipped, to_mono_16k(whole, 16000), **FAST)
    soundfile.write(tmp_path / "a.wav", np.stack([whole, whole], 1), 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "b.wav", whole / np.float32(32768), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "c.flac", whole, 16000, subtype="PCM_16")
    for name in ("a.wav", "b.wav", "c.flac"):
        for load in (load_mono_16k, open_mono_16k):
            clip = generate_motion(shipped, load(tmp_path / name), **FAST)
            assert torch.equal(clip.expression, expected.expression) and torch.equal(clip.pose, expected.pose)


@pytest.mark.weights
def test_borders_of_windows_do_not_show(shipped, minute):
    """95th percentile of speed where a window begins, over that elsewhere, for every part of the motion."""
    regions = FACE.slices | {"pose": slice(64, 70)}
    at, elsewhere = ({name: [] for name in regions} for _ in range(2))
    for seed in range(3):
        clip = generate_motion(shipped, minute, seed=seed, close_in_silence=False, **FAST)
        motion = torch.cat([clip.expression / shipped.expression_std, clip.pose / shipped.pose_std], 1)
        window = shipped.config.window
        borders = np.arange(window - 1, len(motion) - 1, window)
        for name, part in regions.items():
            speed = motion[:, part].diff(dim=0).norm(dim=1).numpy()
            at[name].append(speed[borders])
            elsewhere[name].append(np.delete(speed, borders))
    for name in regions:
        ratio = np.percentile(np.concatenate(at[name]), 95) / np.percentile(np.concatenate(elsewhere[name]), 95)
        assert ratio <= 1.3, (name, ratio)
