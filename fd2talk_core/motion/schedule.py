"""How strong motion is over time, how far it may go, and head pose from another clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from ..errors import UserError
from .blinks import blink_directions
from .clip import N_POSE, MotionClip

MAX_STRENGTH = 10.0
DRIVING_MODES = ("replace", "add")
DRIVING_ENDS = ("generated", "loop", "hold")
DRIVING_FADE = 1.0  # seconds
# How far regions may leave rest: length of the deviation in usual deviations of its coefficients. Real talkers stay
# below the knee (0.7 of it) in 99 % of their frames.
REGION_LIMITS = {"gaze": 7.0, "eyelids": 11.0, "brows": 11.0, "mouth": 14.0, "rest": 10.0}
# Pitch, yaw, roll in radians, tx, ty in inter-ocular distances, log scale.
POSE_LIMITS = (0.5, 0.6, 0.5, 0.8, 0.6, 0.2)
KNEE = 0.7
# Eyelids that opened ten times wider, or half blinks, would be no expression but a defect.
MAX_EYELID_GAIN, BLINK_GAIN = 1.5, 4.0

Schedule = Sequence[tuple[float, float]] | np.ndarray | Tensor


def check_strength(value: float, what: str) -> float:
    """A strength as a float; UserError outside 0..10."""
    value = float(value)
    if not 0 <= value <= MAX_STRENGTH:  # also catches NaN
        raise UserError(f"The {what} is {value:g}. Use a value from 0 to {MAX_STRENGTH:g}; 1 is as generated.")
    return value


def strength_curve(schedule: Schedule | None, frames: int, fps: float, own_fps: float, what: str) -> np.ndarray | None:
    """Values of a strength schedule at `frames` frames of `fps`, float32 (frames,); None stays None.

    schedule: pairs (seconds, value), in any order, interpolated by monotone cubics (smooth, no overshoot), the first
        and last held; or (T,) values at `own_fps`, the last held, what is too long cut. Values lie in 0..10.

    Raises UserError for an empty or malformed schedule, times that repeat and values outside the range.
    """
    if schedule is None:
        return None
    try:
        values = np.asarray(schedule, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"The {what} cannot be read ({error}). Give pairs of seconds and value.") from error
    if values.size == 0 or values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2):
        raise UserError(
            f"The {what} has shape {values.shape}. Give pairs of seconds and value, or one value per frame."
        )
    if not np.isfinite(values).all():
        raise UserError(f"The {what} contains values that are not numbers. Enter ordinary numbers.")
    if values.ndim == 1:
        times, values = np.arange(len(values)) / own_fps, values
    else:
        values = values[np.argsort(values[:, 0], kind="stable")]
        times, values = values[:, 0], values[:, 1]
        if (np.diff(times) <= 0).any():
            raise UserError(f"The {what} has two values for the same instant. Give every time once.")
    for value in (values.min(), values.max()):
        check_strength(value, f"value in the {what}")
    at = np.clip(np.arange(frames) / fps, times[0], times[-1])
    curve = PchipInterpolator(times, values)(at) if len(times) > 1 else np.full(frames, values[0])
    return curve.astype(np.float32)


def soft_limit(size: Tensor, most: float | Tensor) -> Tensor:
    """Sizes >= 0, unchanged up to 0.7 of `most`, which they approach smoothly and never pass."""
    knee = KNEE * most
    return torch.where(size <= knee, size, knee + (most - knee) * torch.tanh((size - knee) / (most - knee)))


def scale_expression(expression: Tensor, rest: Tensor, std: Tensor, strength: Tensor, face_model) -> None:
    """Scale expression (T, 64) around rest (64,) by strength (T,), in place, within what a face can do.

    std: (64,) usual deviation of the coefficients. The deviation of each region keeps its direction; its length is
    soft-limited to REGION_LIMITS, so that a strength of 10 gives a grimace and not an exploded face. Lids keep whole
    blinks down to a strength of 1/4, below which these fade, and are opened or squeezed at most 1.5 times.
    """
    _, reader = blink_directions(face_model)
    start = (rest @ reader.to(rest)).mean().clamp(max=0.7)
    closure = ((expression @ reader.to(expression)).mean(1) - start) / (1 - start)
    blinking = ((closure - 0.15) / 0.35).clamp(0, 1)
    blinking = blinking**2 * (3 - 2 * blinking)
    for name, part in face_model.slices.items():
        gain = strength
        if name == "eyelids":
            gain = strength.clamp(max=MAX_EYELID_GAIN)
            gain = gain + ((BLINK_GAIN * strength).clamp(max=1) - gain) * blinking
        deviation = (expression[:, part] - rest[part]) * gain[:, None]
        size = (deviation / std[part]).norm(dim=1, keepdim=True)
        deviation *= soft_limit(size, REGION_LIMITS[name]) / size.clamp(min=1e-6)
        expression[:, part] = rest[part] + deviation


def scale_pose_softly(pose: Tensor, strength: Tensor) -> None:
    """Scale pose offsets (T, 6), in place, by strength (T,), soft-limited to POSE_LIMITS (about 30 degrees)."""
    pose *= strength[:, None]
    pose.copy_(pose.sign() * soft_limit(pose.abs(), torch.tensor(POSE_LIMITS)))


def check_driving(driving: MotionClip, mode: str, end: str) -> None:
    """Raise UserError for what `drive_pose` cannot use."""
    if not isinstance(driving, MotionClip):
        raise UserError("The driving pose is not a motion clip. Load one, or track it from a video.")
    if not driving.valid.any():
        raise UserError("The driving pose has no frame with a face. Track a video in which a face is seen.")
    for value, known, what in ((mode, DRIVING_MODES, "mode"), (end, DRIVING_ENDS, "end")):
        if value not in known:
            raise UserError(f"There is no driving {what} called '{value}'. Choose one of: {', '.join(known)}.")


def _bridged(driving: MotionClip) -> MotionClip:
    """Poses of frames without a face come from the frames around them."""
    valid = driving.valid.numpy()
    if valid.all():
        return driving
    frames, known = np.arange(len(driving)), np.flatnonzero(valid)
    pose = driving.pose.numpy()
    return driving.with_changes(
        pose=np.stack([np.interp(frames, known, pose[known, i]) for i in range(N_POSE)], 1), valid=None
    )


def drive_pose(clip: MotionClip, driving: MotionClip, mode: str = "replace", end: str = "generated") -> MotionClip:
    """The clip with the head pose of another, from the same instant 0 on; what is longer is cut.

    Pose is in radians and inter-ocular distances, so a clip of any face model will do; only its pose is used.

    Args:
        mode: "replace" the clip's own head motion, or "add" to it.
        end: what follows where `driving` is shorter. "generated": it fades out over its last second, into the clip's
            own motion. "loop": it is played back and forth. "hold": its last pose stays. A driving clip of one frame
            is always held.

    Raises UserError for another mode or end, and for a driving clip without a valid frame.
    """
    check_driving(driving, mode, end)
    frames = len(clip)
    pose = _bridged(driving).resampled(clip.fps).pose
    count = len(pose)
    weight = torch.ones(frames, 1)
    index = torch.arange(frames)
    if count < frames and count > 1:
        if end == "loop":
            index = count - 1 - (index % (2 * count - 2) - (count - 1)).abs()
        elif end == "generated":
            fade = min(count - 1, max(1, round(DRIVING_FADE * clip.fps)))
            progress = ((index - (count - 1 - fade)) / fade).clamp(0, 1)[:, None]
            weight = (1 + torch.cos(torch.pi * progress)) / 2
    driven = weight * pose[index.clamp(max=count - 1)]
    own = clip.pose * (1 - weight) if mode == "replace" else clip.pose
    return clip.with_changes(pose=own + driven)
