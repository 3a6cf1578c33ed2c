"""Pure edits of motion clips: each takes a clip and returns a new one of the same length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.signal import savgol_filter

from ..errors import UserError
from .clip import MotionClip

SMOOTHING_SECONDS = 0.6
SMOOTHING_METHODS = ("savgol", "one_euro")
ONE_EURO_REST = (10.0, 0.5)  # Hz: cutoff of motion at rest for strengths 0 and 1
ONE_EURO_SLOPE = 1.0  # Hz that the cutoff rises per typical deviation per second
ONE_EURO_BLUR, ONE_EURO_REACH = 0.04, 0.08  # seconds: blur before speed is measured, and to either side of it
BLINK_CLOSE_SECONDS = 0.12
BLINK_OPEN_SECONDS = 0.20
MIN_BLINK_INTERVAL = 0.6
MAX_BLINKS_PER_MINUTE = 60.0
SHUT = 0.5  # value of the blink controls from which lids count as closing


def _known(name: str, names, what: str) -> None:
    if name not in names:
        raise UserError(f"The face model has no {what} called '{name}'. Use one of: {', '.join(sorted(names))}.")


def _finite(value: float, what: str) -> float:
    value = float(value)
    if not np.isfinite(value):
        raise UserError(f"The {what} is not a finite number. Enter an ordinary number.")
    return value


def scale_regions(clip: MotionClip, face_model, gains: Mapping[str, float]) -> MotionClip:
    """Scale how far face regions move away from neutral.

    gains: region name (a key of `face_model.slices`) -> factor; 0 mutes the region, 1 keeps it.
    """
    clip.check(face_model.hash)
    expression = clip.expression.clone()
    for region, gain in gains.items():
        _known(region, face_model.slices, "region")
        expression[:, face_model.slices[region]] *= _finite(gain, f"gain of {region}")
    return clip.with_changes(expression=expression)


def apply_controls(clip: MotionClip, face_model, values: Mapping[str, float | np.ndarray]) -> MotionClip:
    """Add named controls to the expression.

    values: control name (a key of `face_model.controls`) -> amount, constant or one per frame (T,);
        0 adds nothing, 1 is fully on, negative values go the other way.
    """
    clip.check(face_model.hash)
    expression = clip.expression.clone()
    for name, value in values.items():
        _known(name, face_model.controls, "control")
        amount = torch.as_tensor(value, dtype=torch.float32).cpu()
        if amount.ndim and amount.shape != (len(clip),):
            raise UserError(
                f"The control '{name}' has {amount.numel()} values, but the clip has {len(clip)} frames. "
                "Give one value, or one per frame."
            )
        if not torch.isfinite(amount).all():
            raise UserError(f"The control '{name}' contains values that are not numbers. Enter ordinary numbers.")
        expression += amount.expand(len(clip))[:, None] * face_model.controls[name].float().cpu()
    return clip.with_changes(expression=expression)


def smooth(clip: MotionClip, strength: float, method: str = "savgol") -> MotionClip:
    """Smooth expression and pose over time. Nothing lags behind.

    strength: 0 (nothing) .. 1.
    method: "savgol", a second-order fit over up to 0.6 seconds, which treats all motion alike; or "one_euro", which
        calms what moves slowly (jitter of tracking) and leaves fast motion, such as blinks and lips, nearly alone.
    """
    strength = _finite(strength, "smoothing strength")
    if not 0 <= strength <= 1:
        raise UserError(f"The smoothing strength is {strength:g}. Use a value from 0 to 1.")
    if method not in SMOOTHING_METHODS:
        raise UserError(f"There is no smoothing called '{method}'. Use one of: {', '.join(SMOOTHING_METHODS)}.")
    if method == "one_euro":
        if strength == 0 or len(clip) < 3:
            return clip
        return clip.with_changes(
            expression=one_euro(clip.expression.double().numpy(), clip.fps, strength),
            pose=one_euro(clip.pose.double().numpy(), clip.fps, strength),
        )
    longest = len(clip) if len(clip) % 2 else len(clip) - 1
    window = min(1 + 2 * round(strength * SMOOTHING_SECONDS * clip.fps / 2), longest)
    if window < 3:
        return clip
    order = min(2, window - 2)
    return clip.with_changes(
        expression=savgol_filter(clip.expression.numpy(), window, order, axis=0),
        pose=savgol_filter(clip.pose.numpy(), window, order, axis=0),
    )


def one_euro(values: np.ndarray, fps: float, strength: float) -> np.ndarray:
    """One-Euro filter (Casiez, Roussel, Vogel 2012) of (T, C): a low-pass whose cutoff rises with speed. For recordings.

    As the whole recording is known, the speed is a centred, smoothed difference, and the filter runs forwards and
    backwards, so that there is no lag. Speeds count in the typical deviation of each channel from its own mean, which
    makes radians, distances and coefficients alike. strength: 0..1, cutoff of what rests from 10 down to 0.5 Hz.
    """
    spread = values.std(0)
    calm = gaussian_filter1d(values / np.where(spread > 1e-9, spread, 1.0), ONE_EURO_BLUR * fps, axis=0, mode="nearest")
    speed = np.abs(np.gradient(calm, 1 / fps, axis=0))
    # The fastest within a short while, else lips would be held back wherever they turn round.
    speed = maximum_filter1d(speed, 2 * round(ONE_EURO_REACH * fps) + 1, axis=0, mode="nearest")
    cutoff = ONE_EURO_REST[0] * (ONE_EURO_REST[1] / ONE_EURO_REST[0]) ** strength + ONE_EURO_SLOPE * speed
    keep = np.exp(-2 * np.pi * cutoff / fps)
    for _ in range(2):  # forwards, then backwards
        gain = (1 - keep) * values
        rows = [values[0]]
        for kept, new in zip(keep[1:], gain[1:], strict=True):
            rows.append(kept * rows[-1] + new)
        values, keep = np.stack(rows)[::-1], keep[::-1]
    return values.copy()


def scale_pose(clip: MotionClip, rotation: float = 1.0, translation: float = 1.0) -> MotionClip:
    """Scale the head's rotation, and its translation with the log scale, around the rest pose; 0 holds it still."""
    pose = clip.pose.clone()
    pose[:, :3] *= _finite(rotation, "rotation gain")
    pose[:, 3:] *= _finite(translation, "translation gain")
    return clip.with_changes(pose=pose)


def blink_curve(times: np.ndarray, starts: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """Lid closure 0..1 at `times` (T,) in seconds.

    starts: (K,) instants at which the lids begin to close. durations: (K,) factors on the usual 0.12 s closing
    and 0.20 s opening.
    """
    curve = np.zeros(len(times))
    for start, duration in zip(starts, durations, strict=True):
        closing = np.clip((times - start) / (BLINK_CLOSE_SECONDS * duration), 0, 1)
        opening = np.clip((times - start) / duration - BLINK_CLOSE_SECONDS, 0, BLINK_OPEN_SECONDS) / BLINK_OPEN_SECONDS
        # Lids fall fast and rise with a slow end.
        shape = (1 - np.cos(np.pi * closing)) / 2 * (1 + np.cos(np.pi * opening**0.75)) / 2
        curve = np.maximum(curve, shape)
    return curve


def add_blinks(clip: MotionClip, face_model, per_minute: float = 15.0, seed: int = 0) -> MotionClip:
    """Add blinks at random instants, reproducible from the seed and the same instants at any frame rate.

    per_minute: mean rate, 0..60. Intervals are gamma-distributed above a shortest interval of 0.6 s, as human ones
    are skewed to the right. A blink goes from the lids' present state to fully closed, never beyond.
    """
    clip.check(face_model.hash)
    per_minute = _finite(per_minute, "blink rate")
    if not 0 <= per_minute <= MAX_BLINKS_PER_MINUTE:
        raise UserError(f"The blink rate is {per_minute:g} per minute. Use 0 to {MAX_BLINKS_PER_MINUTE:g}.")
    if per_minute == 0:
        return clip
    rng = np.random.default_rng(seed)
    mean = 60.0 / per_minute
    starts, durations, time = [], [], rng.uniform(0, mean)
    while time < clip.duration:
        # A frame hits the fully closed instant, so a blink is never half a blink at low frame rates.
        closed = np.round((time + BLINK_CLOSE_SECONDS) * clip.fps) / clip.fps
        duration = rng.uniform(0.9, 1.15)
        starts.append(closed - BLINK_CLOSE_SECONDS * duration)
        durations.append(duration)
        time += MIN_BLINK_INTERVAL + rng.gamma(2.0, max(mean - MIN_BLINK_INTERVAL, 1e-3) / 2.0)
    return _blink_at(clip, face_model, starts, durations)


def _blink_directions(face_model) -> tuple[torch.Tensor, torch.Tensor]:
    """The two blink controls (64, 2), and the matrix (64, 2) that reads their present values from coefficients."""
    names = ("blink_left", "blink_right")
    for name in names:
        _known(name, face_model.controls, "control")
    directions = torch.stack([face_model.controls[name].float().cpu() for name in names], 1)
    reader = torch.zeros_like(directions)
    used = directions.abs().sum(1) > 0
    reader[used] = torch.linalg.pinv(directions[used]).T
    return directions, reader


def _blink_at(clip: MotionClip, face_model, starts: list[float], durations: list[float]) -> MotionClip:
    directions, reader = _blink_directions(face_model)
    curve = blink_curve(np.arange(len(clip)) / clip.fps, np.array(starts), np.array(durations))
    missing = torch.from_numpy(curve).float()[:, None] * (1 - clip.expression @ reader).clamp(min=0)
    return clip.with_changes(expression=clip.expression + missing @ directions.T)


def ensure_blinks(
    clip: MotionClip, face_model, rest: torch.Tensor, longest_gap: float = 5.0, seed: int = 0
) -> MotionClip:
    """Add a blink wherever the lids of a clip stay open for longer than a person's would.

    rest: (64,) expression from which lids close. longest_gap: seconds without a blink. Blinks that are there stay as
    they are; added ones fall at random instants in the second half of a gap, reproducible from the seed.
    """
    clip.check(face_model.hash)
    _, reader = _blink_directions(face_model)
    shut = ((clip.expression - rest.cpu()) @ reader).mean(1) > SHUT
    present = (shut.nonzero()[:, 0] / clip.fps).tolist()
    rng = np.random.default_rng(seed)
    starts, durations, last = [], [], 0.0
    for time in [*present, clip.duration]:
        while time - last > longest_gap:
            start = last + rng.uniform(0.5, 0.9) * longest_gap
            starts.append(np.round(start * clip.fps) / clip.fps)
            durations.append(rng.uniform(0.9, 1.15))
            last = start
        last = max(last, time)
    return _blink_at(clip, face_model, starts, durations) if starts else clip
