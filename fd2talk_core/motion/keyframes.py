"""Keyframes: a few values at a few instants become curves on named controls and on the head's pose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

from ..errors import UserError
from ..face.model import FaceModel
from .clip import MotionClip
from .interchange import strict_json

MODES = ("add", "replace")
INTERPOLATIONS = ("smooth", "linear", "hold")
# Pose channels as animators name them -> column of the pose. Angles in degrees; x and y in inter-ocular distances;
# zoom is how much larger the head is: 0.1 is a tenth.
POSE_NAMES = {"pitch": 0, "yaw": 1, "roll": 2, "x": 3, "y": 4, "zoom": 5}
MAX_VALUE = {"pitch": 90.0, "yaw": 90.0, "roll": 180.0, "x": 10.0, "y": 10.0, "zoom": 9.0}
MAX_CONTROL = 10.0


@dataclass(frozen=True)
class Keyframe:
    """A value at an instant. time: seconds from the clip's start, at least 0. value: 1.0 is a control fully on.

    interpolation: one of INTERPOLATIONS for the way from this key to the next, or None for what all keys have.
    """

    time: float
    value: float
    interpolation: str | None = None


Keyframes = dict[str, list[Keyframe]]


def curve(keys: Sequence[Keyframe], times: np.ndarray, interpolation: str = "smooth") -> np.ndarray:
    """Values of a track of keyframes at `times` (T,) in seconds.

    interpolation: of the keys that have none of their own. "smooth" passes through every key without overshoot, rests
    at the first and last one and beside held values, and goes on as straight lines beside it arrive; "linear" connects
    keys by straight lines; "hold" keeps a value until the next key. Before the first key and after the last one their
    values hold. Keys may come in any order and lie beyond `times`.
    """
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"There is no interpolation '{interpolation}'. Use one of: {', '.join(INTERPOLATIONS)}.")
    keys = sorted(keys, key=lambda key: key.time)
    at, values = np.array([key.time for key in keys]), np.array([key.value for key in keys])
    if len(keys) == 1:
        return np.full(len(times), values[0])
    kinds = np.array([key.interpolation or interpolation for key in keys])
    # A key counts from the frame nearest to it on, whatever the last bits of both times say.
    index = np.searchsorted(at, times + 1e-6, side="right").clip(1) - 1
    smooth = CubicHermiteSpline(at, values, _slopes(at, values, kinds))(times.clip(at[0], at[-1]))
    straight = np.where(kinds[index] == "linear", np.interp(times, at, values), smooth)
    return np.where(kinds[index] == "hold", values[index], straight)


def _slopes(at: np.ndarray, values: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Slope of the smooth curve at each key (K,); kinds (K,): how the way from each key to the next is."""
    slopes = PchipInterpolator(at, values).derivative()(at)
    rises = np.diff(values) / np.diff(at)
    slopes[[0, -1]] = 0
    for k in range(1, len(at) - 1):
        around = tuple(kinds[k - 1 : k + 1])
        if "hold" in around:
            slopes[k] = 0
        elif around in (("linear", "smooth"), ("smooth", "linear")):
            line, bend = rises[k - 1 : k + 1] if around[0] == "linear" else rises[k - 1 : k + 1][::-1]
            # The straight line's own slope, as far as the curve then does not overshoot (Fritsch and Carlson 1980).
            slopes[k] = np.clip(line, min(0, 3 * bend), max(0, 3 * bend))
    return slopes


def _check(keyframes: Mapping[str, Sequence[Keyframe]], known: Sequence[str] | None) -> None:
    for name, keys in keyframes.items():
        if known is not None and name not in known:
            raise UserError(f"There is nothing called '{name}' to animate. Use one of: {', '.join(known)}.")
        if not keys:
            raise UserError(f"The track '{name}' has no keyframes. Add one, or leave the track out.")
        most = MAX_VALUE.get(name, MAX_CONTROL)
        for key in keys:
            if not math.isfinite(key.time) or key.time < 0:
                raise UserError(f"A keyframe of '{name}' is at {key.time:g} seconds. Use a time of 0 or later.")
            least = -0.9 if name == "zoom" else -most
            if not least <= key.value <= most:
                raise UserError(f"A keyframe of '{name}' has the value {key.value:g}. Use {least:g} to {most:g}.")
            if key.interpolation is not None and key.interpolation not in INTERPOLATIONS:
                raise UserError(
                    f"A keyframe of '{name}' has the interpolation '{key.interpolation}'. "
                    f"Use one of: {', '.join(INTERPOLATIONS)}."
                )
        times = sorted(key.time for key in keys)
        for time, following in zip(times[:-1], times[1:], strict=True):
            if time == following:
                raise UserError(f"The track '{name}' has two keyframes at {time:g} seconds. Remove one of them.")


def apply_keyframes(
    clip: MotionClip,
    face_model: FaceModel,
    keyframes: Mapping[str, Sequence[Keyframe]],
    mode: str = "add",
    interpolation: str = "smooth",
) -> MotionClip:
    """Animate named controls and the pose by keyframes.

    Args:
        keyframes: control name, or pitch, yaw, roll (degrees), x, y (inter-ocular distances), zoom (0.1 is a tenth
            larger) -> keyframes.
        mode: "add" puts the curves on top of the clip's motion. "replace" drives what the track names to the curve's
            absolute value, over the whole clip, and leaves everything else as it is: controls by least squares over
            all replaced ones, so that afterwards they read exactly the curves' values.
        interpolation: of keys that have none of their own; see `curve`.

    Keys after the clip's end shape the curve up to the end. Raises UserError for another face model's clip, unknown
    names and interpolations, empty tracks, two keys at one time, and values or times out of range.
    """
    clip.check(face_model.hash)
    if mode not in MODES:
        raise UserError(f"There is no keyframe mode '{mode}'. Use one of: {', '.join(MODES)}.")
    _check(keyframes, [*sorted(face_model.controls), *POSE_NAMES])
    times = np.arange(len(clip)) / clip.fps
    curves = {name: curve(keys, times, interpolation) for name, keys in keyframes.items()}
    expression, pose = clip.expression.double(), clip.pose.double()
    controls = [name for name in curves if name in face_model.controls]
    if controls:
        directions = torch.stack([face_model.controls[name].double().cpu() for name in controls], 1)  # (64, K)
        change = torch.from_numpy(np.stack([curves[name] for name in controls], 1))  # (T, K)
        if mode == "replace":
            change = change - expression @ torch.linalg.pinv(directions).T
        # One sum per control: coefficients that no control moves stay the same to the bit.
        expression = expression + change @ directions.T
    for name, column in POSE_NAMES.items():
        if name not in curves:
            continue
        values = torch.from_numpy(_in_pose_units(name, curves[name]))
        pose[:, column] = values if mode == "replace" else pose[:, column] + values
    return clip.with_changes(expression=expression, pose=pose)


def _in_pose_units(name: str, values: np.ndarray) -> np.ndarray:
    if name == "zoom":
        return np.log1p(values)
    return np.radians(values) if POSE_NAMES[name] < 3 else values


def pose_in_units(clip: MotionClip) -> np.ndarray:
    """The clip's pose (T, 6) in the units of keyframes: degrees, inter-ocular distances, and zoom."""
    pose = clip.pose.double().numpy()
    return np.concatenate([np.degrees(pose[:, :3]), pose[:, 3:5], np.expm1(pose[:, 5:])], 1)


def parse_keyframes(text: str) -> Keyframes:
    """Read keyframes from JSON, which looks like {"jaw_open": [[0, 0], [1.5, 0.8]], "yaw": [{"time": 2, "value": 10}]}.

    A third element, or "interpolation", says how it goes on from a key: [1.5, 0.8, "hold"], {"time": 2, "value": 10,
    "interpolation": "linear"}.

    Names are checked by `apply_keyframes`, which knows the face model. Raises UserError for anything else.
    """
    content = strict_json(text, "keyframes")
    if not isinstance(content, dict):
        raise UserError('The keyframes are not a list per name. Write, say, {"jaw_open": [[0, 0], [1, 0.5]]}.')
    result: Keyframes = {}
    for name, keys in content.items():
        if not isinstance(keys, list):
            raise UserError(f"The track '{name}' is not a list. Write, say, {{\"{name}\": [[0, 0], [1, 0.5]]}}.")
        result[name] = [_keyframe(name, key) for key in keys]
    _check(result, None)
    return result


def _keyframe(name: str, key) -> Keyframe:
    if isinstance(key, dict) and {"time", "value"} <= set(key) <= {"time", "value", "interpolation"}:
        key = [key[part] for part in ("time", "value", "interpolation") if part in key]
    if not isinstance(key, list) or len(key) not in (2, 3) or not all(map(_is_number, key[:2])):
        raise UserError(f"A keyframe of '{name}' is not a pair of time and value. Write [seconds, value].")
    if len(key) == 3 and not isinstance(key[2], str):
        raise UserError(
            f"The third entry of a keyframe of '{name}' is no interpolation. Write it as [seconds, value, \"hold\"], "
            f"with one of: {', '.join(INTERPOLATIONS)}; or leave it out."
        )
    return Keyframe(float(key[0]), float(key[1]), *key[2:])


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > 1e300


def load_keyframes(path: str | Path) -> Keyframes:
    """Read keyframes from a JSON file; see `parse_keyframes`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"The keyframes {path} cannot be read ({error}). Check the path.") from error
    return parse_keyframes(text)
