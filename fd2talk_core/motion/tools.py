"""Cutting, joining and reshaping motion clips: pure functions from clips to a new clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..audio.loading import frame_count
from ..errors import UserError
from ..face.model import REGIONS, FaceModel
from .clip import N_EXPRESSION, MotionClip, checked_fps
from .edit import _finite, _known

POSE_FADE = 4.0  # heads are slower than lips: their difference fades over so many times the cross-fade
MIN_SPEED, MAX_SPEED = 0.1, 10.0
MAX_SECONDS = 4 * 3600.0  # of a clip that a loop or a new duration makes
KNEE = 0.7  # share of a limit up to which a pose is left alone
HOLD_SECONDS = 0.6  # in which a head turns to a held pose
ROTATION = slice(0, 3)


def ease(share):
    """Smooth step from 0 to 1 with no velocity at either end (6s⁵ − 15s⁴ + 10s³); tensor or array, clamped to 0..1."""
    share = share.clip(0, 1)
    return share**3 * (share * (share * 6 - 15) + 10)


def _seconds(value: float, what: str, most: float = MAX_SECONDS) -> float:
    value = _finite(value, what)
    if not 0 <= value <= most:
        raise UserError(f"The {what} is {value:g} seconds. Use 0 to {most:g}.")
    return value


def _rows(clip: MotionClip, index) -> MotionClip:
    return clip.with_changes(expression=clip.expression[index], pose=clip.pose[index], valid=clip.valid[index])


def crop(clip: MotionClip, start: float = 0.0, end: float | None = None) -> MotionClip:
    """The part from `start` to `end`, in seconds; None is the clip's end, and a later end means the same.

    At least one frame is left. Raises UserError when the part lies outside of the clip or ends before it begins.
    """
    start = _seconds(start, "start of the part")
    end = clip.duration if end is None else min(_seconds(end, "end of the part"), clip.duration)
    if start >= clip.duration or end <= start:
        raise UserError(
            f"The part from {start:g} to {end:g} seconds is empty: the clip lasts {clip.duration:g} seconds. "
            "Choose a start before the end, both inside the clip."
        )
    first = min(round(start * clip.fps), len(clip) - 1)
    return _rows(clip, slice(first, max(first + 1, round(end * clip.fps))))


def fitted(clip: MotionClip, seconds: float) -> MotionClip:
    """The clip brought to a length by cutting its end or holding its last frame; at least one frame."""
    frames = max(1, frame_count(_seconds(seconds, "length"), clip.fps))
    return _rows(clip, torch.arange(frames).clamp(max=len(clip) - 1))


def retime(clip: MotionClip, fps: float | None = None, speed: float = 1.0, duration: float | None = None) -> MotionClip:
    """Another frame rate, another speed, or both.

    fps: 1..240, None keeps the clip's. speed: 0.1..10 times as fast. duration: length in seconds that the motion is
    stretched or squeezed to, instead of a speed. Raises UserError for values out of range.
    """
    fps = clip.fps if fps is None else checked_fps(fps)
    speed = _finite(speed, "speed")
    if duration is not None:
        if speed != 1.0:
            raise UserError("There is both a speed and a duration. Give one of them.")
        duration = _seconds(duration, "duration")
        speed = clip.duration / max(duration, 1e-9)
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise UserError(f"The motion would play at {speed:.3g} times its speed. Use {MIN_SPEED:g} to {MAX_SPEED:g}.")
    return clip.resampled(fps, speed)


def concatenate(clips: Sequence[MotionClip], crossfade: float = 0.2, pose_crossfade: float | None = None) -> MotionClip:
    """Play clips one after the other, all at the first one's frame rate.

    crossfade: seconds in which the end of a clip overlaps the start of the next, eased, continuous in velocity; the
        result is shorter by as much. 0 cuts. A fade longer than half of either clip is shortened to that.
    pose_crossfade: seconds around the seam over which the difference in head pose is spread, so that the head does not
        jerk; four times `crossfade` when left out.

    Raises UserError for no clips, or clips of different face models.
    """
    clips = list(clips)
    if not clips:
        raise UserError("There are no motion clips to join. Give at least one.")
    crossfade = _seconds(crossfade, "cross-fade", 60.0)
    spread = POSE_FADE * crossfade if pose_crossfade is None else _seconds(pose_crossfade, "cross-fade of the pose", 60)
    for clip in clips[1:]:
        clip.check(clips[0].face_model)
    clips = [clip.resampled(clips[0].fps) for clip in clips]
    fps = clips[0].fps
    parts = [torch.cat([clip.expression, clip.pose], 1) for clip in clips]
    valid = [clip.valid for clip in clips]
    overlaps = [
        min(round(crossfade * fps), len(a) // 2, len(b) // 2) for a, b in zip(parts[:-1], parts[1:], strict=True)
    ]
    for before, after, overlap in zip(parts[:-1], parts[1:], overlaps, strict=True):
        _meet(before[:, N_EXPRESSION:], after[:, N_EXPRESSION:], overlap, spread * fps)
    motion, marks = parts[0], valid[0]
    for part, mark, overlap in zip(parts[1:], valid[1:], overlaps, strict=True):
        keep = len(motion) - overlap
        motion = torch.cat([motion[:keep], _faded(motion[keep:], part[:overlap]), part[overlap:]])
        marks = torch.cat([marks[:keep], marks[keep:] & mark[:overlap], mark[overlap:]])
    return MotionClip(motion[:, :N_EXPRESSION], motion[:, N_EXPRESSION:], fps, clips[0].face_model, marks)


def _faded(before: Tensor, after: Tensor) -> Tensor:
    """Cross-fade two overlapping stretches (n, C); the frames around them belong wholly to one side."""
    weight = ease(torch.arange(1, len(before) + 1) / (len(before) + 1))[:, None]
    return torch.lerp(before, after, weight)


def _meet(before: Tensor, after: Tensor, overlap: int, spread: float) -> None:
    """Bend two stretches (N, C), (M, C) towards each other, in place, so that they agree on average in the overlap.

    spread: frames over which they bend, shortened to what half of either has, so that two seams never meet.
    """
    spread = min(spread, float(len(before)), float(len(after)))
    if overlap == 0 or spread <= overlap:
        return
    gap = (after[:overlap] - before[-overlap:]).mean(0)
    middle = len(before) - (overlap + 1) / 2
    share = ease((torch.arange(len(before)) - middle) / spread + 0.5)
    before += gap * share[:, None]
    middle -= len(before) - overlap
    share = ease((torch.arange(len(after)) - middle) / spread + 0.5)
    after -= gap * (1 - share)[:, None]


def loop(
    clip: MotionClip, seconds: float | None = None, times: int | None = None, crossfade: float = 0.4
) -> MotionClip:
    """Repeat a clip without a visible seam.

    One round is the clip less `crossfade` seconds, in which its end fades into its start; a drift of the head from
    start to end is taken out over the whole round.

    seconds: length of the result, cut where it ends. times: number of rounds instead, 1 when both are left out; then
        the result itself plays in a circle without a seam.
    crossfade: seconds, shortened to half of the clip.

    Raises UserError when both lengths are given or one is out of range.
    """
    if seconds is not None and times is not None:
        raise UserError("There are both a length and a number of rounds. Give one of them.")
    wanted = round(_seconds(crossfade, "cross-fade", 60.0) * clip.fps)
    overlap = min(wanted, len(clip) // 2)
    period = len(clip) - overlap
    if seconds is not None:
        frames = frame_count(_seconds(seconds, "length of the loop"), clip.fps)
    else:
        rounds = 1 if times is None else times
        if not 1 <= rounds or rounds * period / clip.fps > MAX_SECONDS:
            raise UserError(
                f"The number of rounds is {rounds}. Use 1 or more, and at most {MAX_SECONDS / 3600:g} hours in all."
            )
        frames = int(rounds) * period
    motion = torch.cat([clip.expression, clip.pose], 1)
    if overlap:
        pose = motion[:, N_EXPRESSION:]
        drift = (pose[period:] - pose[:overlap]).mean(0)
        pose -= drift * (torch.arange(len(clip)) / period - 0.5)[:, None]
        motion[:overlap] = _faded(motion[period:], motion[:overlap])
    valid = clip.valid.clone()
    valid[:overlap] &= clip.valid[period:]
    index = torch.arange(frames) % period
    return clip.with_changes(
        expression=motion[index, :N_EXPRESSION], pose=motion[index, N_EXPRESSION:], valid=valid[index]
    )


def blend(
    a: MotionClip,
    b: MotionClip,
    weight: float | np.ndarray | Tensor = 0.5,
    regions: Mapping[str, float] | None = None,
    face_model: FaceModel | None = None,
) -> MotionClip:
    """Mix two clips: `a` where the weight is 0, `b` where it is 1. As long and as fast as `a`.

    weight: 0..1, constant or one per frame of `a`.
    regions: share of the weight, 0..1, of gaze, eyelids, brows, mouth, rest and pose; those left out stay exactly `a`.
        None mixes everything.
    face_model: the one the clips were made for, needed for regions of the face; the shipped one when left out.

    `b` is resampled; when it is shorter, its last frame is held. Raises UserError for clips of different face models,
    unknown regions and weights out of range.
    """
    b.check(a.face_model)
    weight = torch.as_tensor(weight, dtype=torch.float32).cpu()
    if weight.ndim > 1 or weight.ndim == 1 and len(weight) != len(a):
        raise UserError(
            f"The weight has {weight.numel()} values, but the clip has {len(a)} frames. "
            "Give one value, or one per frame."
        )
    _check_share(weight, "weight")
    shares = torch.zeros(N_EXPRESSION + a.pose.shape[1])
    if regions is None:
        shares += 1
    elif set(regions) - {"pose"}:
        face_model = face_model or FaceModel.load()
        a.check(face_model.hash)
    for region, share in (regions or {}).items():
        _known(region, (*REGIONS, "pose"), "region")
        _check_share(torch.tensor(float(share)), f"weight of {region}")
        columns = slice(N_EXPRESSION, None) if region == "pose" else face_model.slices[region]
        shares[columns] = share
    b = b.resampled(a.fps)
    b = _rows(b, torch.arange(len(a)).clamp(max=len(b) - 1))
    total = weight.expand(len(a))[:, None] * shares
    # lerp gives a and b themselves, to the bit, at the weights 0 and 1.
    mixed = torch.lerp(torch.cat([a.expression, a.pose], 1), torch.cat([b.expression, b.pose], 1), total)
    used_a, used_b = (total < 1).any(1), (total > 0).any(1)
    valid = (a.valid | ~used_a) & (b.valid | ~used_b)
    return a.with_changes(expression=mixed[:, :N_EXPRESSION], pose=mixed[:, N_EXPRESSION:], valid=valid)


def _check_share(value: Tensor, what: str) -> None:
    if not ((value >= 0) & (value <= 1)).all():  # also refuses NaN
        raise UserError(f"The {what} is outside of 0 to 1. Use 0 for the first clip, 1 for the second.")


def mirror_matrix(face_model: FaceModel) -> Tensor:
    """The matrix M (64, 64) for which expression coefficients M β are those of the face seen in a mirror.

    Regressing mirrored displacements on the basis gives a symmetric matrix that is nearly its own inverse, but not
    quite, because the basis was not learnt from mirrored faces. Setting its eigenvalues to ±1 gives the nearest matrix
    that is one. Regions stay apart.
    """
    basis = face_model.exp_basis
    flipped = basis[:, face_model.mirror] * basis.new_tensor([-1.0, 1.0, 1.0])
    regressed = torch.einsum("avc,bvc->ab", basis, flipped).double()
    matrix = torch.zeros_like(regressed)
    for columns in face_model.slices.values():
        block = regressed[columns, columns]
        values, vectors = torch.linalg.eigh((block + block.T) / 2)
        matrix[columns, columns] = vectors @ torch.diag(torch.where(values < 0, -1.0, 1.0).double()) @ vectors.T
    return matrix.float()


def mirror(clip: MotionClip, face_model: FaceModel) -> MotionClip:
    """Swap left and right: expression, yaw, roll and sideways position. Twice gives the clip back."""
    clip.check(face_model.hash)
    return clip.with_changes(
        expression=clip.expression @ mirror_matrix(face_model).T,
        pose=clip.pose * torch.tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0]),
    )


def soft_limit(values: Tensor, limit: Tensor | float) -> Tensor:
    """Clamp to ± limit: untouched up to 70 % of it, then bent smoothly (twice differentiable), never beyond it."""
    limit = torch.as_tensor(limit, dtype=values.dtype)
    start = KNEE * limit
    room = (limit - start).clamp(min=1e-12)
    beyond = (values.abs() - start).clamp(min=0)
    bent = torch.minimum(start + room * torch.tanh(beyond / room), limit)
    return torch.where(values.abs() <= start, values, values.sign() * bent)


def limit_pose(
    clip: MotionClip,
    rotation_degrees: tuple[float, float, float] = (20.0, 30.0, 20.0),
    translation: float = 0.3,
    log_scale: float = 0.15,
) -> MotionClip:
    """Keep the head within limits around the portrait's own pose, without stopping it abruptly (`soft_limit`).

    rotation_degrees: most of pitch, yaw and roll. translation: most of x and y, in inter-ocular distances.
    log_scale: most of the logarithm of the size. All at least 0; infinity does not limit.
    """
    if len(rotation_degrees) != 3:
        raise UserError("The rotation limits are not three numbers. Give degrees of pitch, yaw and roll.")
    limits = [*np.radians(rotation_degrees), translation, translation, log_scale]
    if not all(value >= 0 for value in limits):
        raise UserError("A pose limit is negative or not a number. Use 0 or more.")
    pose = clip.pose.clone()
    for column, value in enumerate(limits):
        if np.isfinite(value):
            pose[:, column] = soft_limit(pose[:, column], value)
    return clip.with_changes(pose=pose)


@dataclass(frozen=True)
class PosePreset:
    """How a preset changes head motion at strength 1.

    gain: factor on the clip's own pose. hold: pitch, yaw, roll in degrees that the head turns to within 0.6 s and
    keeps. swing: pitch, yaw, roll in degrees of a gesture of `swings` back-and-forths at `rate` per second, repeated
    every `every` seconds. about: for the user.
    """

    about: str
    gain: float = 1.0
    hold: tuple[float, float, float] = (0.0, 0.0, 0.0)
    swing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    swings: float = 2.0
    rate: float = 1.4
    every: float = 5.0


# Positive pitch is down, positive yaw the person's right, positive roll clockwise in the picture. Left and right are
# the person's own sides, as in the names of the controls.
POSE_PRESETS: dict[str, PosePreset] = {
    "still": PosePreset("The head does not move.", gain=0.0),
    "subtle": PosePreset("Less than half of the head's motion.", gain=0.4),
    "natural": PosePreset("The head's motion as it is."),
    "lively": PosePreset("More of the head's motion.", gain=1.6),
    "nod": PosePreset("Nods twice, every five seconds.", gain=0.7, swing=(7.0, 0.0, 0.0)),
    "shake": PosePreset("Shakes twice, every five seconds.", gain=0.7, swing=(0.0, 9.0, 0.0)),
    "look_left": PosePreset("Turns to the person's left and stays there.", hold=(0.0, -15.0, 0.0)),
    "look_right": PosePreset("Turns to the person's right and stays there.", hold=(0.0, 15.0, 0.0)),
    "look_up": PosePreset("Lifts the head.", hold=(-10.0, 0.0, 0.0)),
    "look_down": PosePreset("Lowers the head.", hold=(10.0, 0.0, 0.0)),
    "tilt_left": PosePreset("Leans the head to the person's left.", hold=(0.0, 0.0, 8.0)),
    "tilt_right": PosePreset("Leans the head to the person's right.", hold=(0.0, 0.0, -8.0)),
}


def pose_preset(clip: MotionClip, name: str, strength: float = 1.0) -> MotionClip:
    """Change the head's motion by one of `POSE_PRESETS`; strength 0 (nothing) .. 1 (fully) .. 2."""
    if name not in POSE_PRESETS:
        raise UserError(f"There is no pose preset called '{name}'. Use one of: {', '.join(POSE_PRESETS)}.")
    strength = _finite(strength, "strength of the pose preset")
    if not 0 <= strength <= 2:
        raise UserError(f"The strength of the pose preset is {strength:g}. Use 0 to 2.")
    if strength == 0:
        return clip
    preset = POSE_PRESETS[name]
    times = np.arange(len(clip)) / clip.fps
    turn = min(HOLD_SECONDS, (len(clip) - 1) / clip.fps)
    held = ease(times / turn) if turn else np.ones(1)  # a single frame is a still of the held pose
    added = held[:, None] * np.radians(preset.hold) + _gesture(times, preset)[:, None] * np.radians(preset.swing)
    pose = clip.pose * max(0.0, 1 + strength * (preset.gain - 1))
    pose[:, ROTATION] += strength * torch.from_numpy(added).float()
    return clip.with_changes(pose=pose)


def _gesture(times: np.ndarray, preset: PosePreset) -> np.ndarray:
    """Swings of ±1 that begin and end at rest, from half a second into the clip on, cut off where a clip ends."""
    length = preset.swings / preset.rate
    since = (times - 0.5) % preset.every
    window = np.sin(np.pi * np.clip(since / length, 0, 1)) ** 2
    return np.where(times >= 0.5, window * np.sin(2 * np.pi * preset.rate * since), 0.0)
