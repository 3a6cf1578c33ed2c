"""Pure edits of motion clips: each takes a clip and returns a new one of the same length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.signal import savgol_filter

from ..errors import UserError
from .blinks import add_blinks, blink_curve, ensure_blinks  # noqa: F401 - edits, too
from .clip import MotionClip

SMOOTHING_SECONDS = 0.6
SMOOTHING_METHODS = ("savgol", "one_euro")
ONE_EURO_REST = (10.0, 0.5)  # Hz: cutoff of motion at rest for strengths 0 and 1
ONE_EURO_SLOPE = 1.0  # Hz that the cutoff rises per typical deviation per second
ONE_EURO_BLUR, ONE_EURO_REACH = 0.04, 0.08  # seconds: blur before speed is measured, and to either side of it


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


def _speed(values: np.ndarray, fps: float) -> np.ndarray:
    """Change per second of slightly blurred values (T, C), T at least 2."""
    blurred = gaussian_filter1d(values, ONE_EURO_BLUR * fps, axis=0, mode="nearest")
    return np.gradient(blurred, 1 / fps, axis=0)


def one_euro(values: np.ndarray, fps: float, strength: float) -> np.ndarray:
    """One-Euro filter (Casiez, Roussel, Vogel 2012) of recorded values (T, C): a low-pass that opens with speed.

    As the whole recording is known, the speed is a centred, smoothed difference, and the filter runs forwards and
    backwards, so that there is no lag. Speeds count in the typical deviation of each channel from its own mean, which
    makes radians, distances and coefficients alike. strength: 0..1, cutoff of what rests from 10 down to 0.5 Hz.
    """
    spread = values.std(0)
    calm = values / np.where(spread > 1e-9, spread, 1.0)
    # The fastest within a short while, else lips would be held back wherever they turn round.
    speed = maximum_filter1d(np.abs(_speed(calm, fps)), 2 * round(ONE_EURO_REACH * fps) + 1, axis=0, mode="nearest")
    if len(values) >= 5:
        # What jitter alone would look like in `speed`; fourth differences contain little else than jitter.
        fourth = np.diff(calm, 4, axis=0)
        noise = np.median(np.abs(fourth), axis=0) / (0.6745 * np.sqrt(70))
        impulse = np.zeros((2 * round(fps) + 1, 1))
        impulse[round(fps)] = 1
        speed = (speed - 2.5 * noise * np.linalg.norm(_speed(impulse, fps))).clip(0)
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
