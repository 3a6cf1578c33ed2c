"""Measures of faces over time: lips, blinks, head pose, jitter. Every course has one row per frame."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.ndimage import percentile_filter
from scipy.signal import butter, sosfiltfilt

JITTER_HZ = 8.0
SHORTEST = 20
# A lid counts as shut below the first share of its usual opening, and as open again above the second.
SHUT, OPEN = 0.55, 0.75
USUAL_SECONDS = 6.0
LONGEST_BLINK = 0.8


def jitter(values: np.ndarray, fps: float) -> float:
    """Root mean square of what moves faster than 8 Hz, in the unit of `values` (T, ...); nan below 20 frames.

    Neither speech nor heads move so fast; frame rates up to 16 hold no such motion and give 0.
    """
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    if len(values) < SHORTEST:
        return float("nan")
    if fps <= 2 * JITTER_HZ:
        return 0.0
    fast = sosfiltfilt(butter(4, JITTER_HZ, "highpass", fs=fps, output="sos"), values, axis=0)
    return float(np.sqrt((fast**2).mean()))


def lip_scores(made: np.ndarray, real: np.ndarray, fps: float) -> dict[str, float]:
    """Compare lips (T, L, 3), in inter-ocular distances.

    Returns lip_distance (mean distance of the points), first_distance and mean_distance (that of a still mouth: the
    real one's first frame, which the model was given, and the real one's mean, which no model can know),
    vs_first and vs_mean (ratios to these), lip_jitter and real_lip_jitter.
    """
    made, real = np.asarray(made, np.float64), np.asarray(real, np.float64)

    def distance(points: np.ndarray) -> float:
        return float(np.linalg.norm(points - real, axis=-1).mean())

    scores = {
        "lip_distance": distance(made),
        "first_distance": distance(real[:1]),
        "mean_distance": distance(real.mean(0, keepdims=True)),
    }
    scores["vs_first"] = scores["lip_distance"] / max(scores["first_distance"], 1e-9)
    scores["vs_mean"] = scores["lip_distance"] / max(scores["mean_distance"], 1e-9)
    return scores | {"lip_jitter": jitter(made, fps), "real_lip_jitter": jitter(real, fps)}


def find_blinks(eyes: np.ndarray, fps: float) -> np.ndarray:
    """Frames at which blinks begin, of a course of eye opening (T,).

    The lids must fall below 55 % of their usual opening (80th percentile of 6 s) and rise above 75 % within 0.8 s; a
    closure that lasts longer, or is cut off by an end, is no blink.
    """
    eyes = np.asarray(eyes, np.float64)
    if len(eyes) < 3:
        return np.zeros(0, int)
    width = min(2 * int(USUAL_SECONDS * fps / 2) + 1, 2 * len(eyes) - 1)
    share = eyes / np.maximum(percentile_filter(eyes, 80, size=width, mode="nearest"), 1e-6)
    found, start = [], None
    for frame, value in enumerate(share):
        if start is None and value < SHUT:
            start = frame
        elif start is not None and value > OPEN:
            if start > 0 and frame - start <= LONGEST_BLINK * fps:
                found.append(start)
            start = None
    return np.array(found, int)


def longest_stare(blinks: np.ndarray, frames: int, fps: float) -> float:
    """Longest time without a blink in s, ends of the clip included."""
    edges = np.r_[0, np.asarray(blinks, int), frames]
    return float(np.diff(edges).max() / fps)


def _spread(pose: np.ndarray) -> np.ndarray:
    """Standard deviation over time of pitch, yaw, roll in degrees (3,) of a pose (T, 6)."""
    return np.degrees(np.asarray(pose, np.float64)[:, :3].std(0))


def _speed(pose: np.ndarray, fps: float) -> float:
    """Mean turning speed of a pose (T, 6) in degrees per second."""
    turns = np.degrees(np.diff(np.asarray(pose, np.float64)[:, :3], axis=0)) * fps
    return float(np.linalg.norm(turns, axis=1).mean()) if len(turns) else 0.0


def pose_scores(poses: list[np.ndarray], real: np.ndarray | None, fps: float) -> dict[str, float]:
    """Head motion of several seeds (T, 6) each, and of the real clip.

    Returns, each with its `real_` partner if there is a real clip: pitch_std, yaw_std, roll_std and pose_spread (root
    mean square of the three) in degrees, pose_speed in degrees per second, pose_jitter in degrees. And with two or
    more seeds seed_difference: root mean square of the difference of two seeds' angles at the same instant, in
    degrees per angle, each about its own mean; two independent heads of spread s have sqrt(2) s.
    """
    scores: dict[str, float] = {}
    for prefix, group in (("", poses), ("real_", [] if real is None else [real])):
        if not group:
            continue
        spreads = np.array([_spread(pose) for pose in group])
        for name, value in zip(("pitch", "yaw", "roll"), spreads.mean(0), strict=True):
            scores[f"{prefix}{name}_std"] = float(value)
        scores[f"{prefix}pose_spread"] = float(np.sqrt((spreads**2).mean()))
        scores[f"{prefix}pose_speed"] = float(np.mean([_speed(pose, fps) for pose in group]))
        scores[f"{prefix}pose_jitter"] = float(np.mean([jitter(np.degrees(pose[:, :3]), fps) for pose in group]))
    if len(poses) > 1:
        angles = [np.degrees(np.asarray(pose, np.float64)[:, :3]) for pose in poses]
        angles = [a - a.mean(0) for a in angles]
        differences = [((a - b) ** 2).mean() for a, b in itertools.combinations(angles, 2)]
        scores["seed_difference"] = float(np.sqrt(np.mean(differences)))
    return scores


def smoothed(values: np.ndarray, fps: float, seconds: float = 0.2) -> np.ndarray:
    """Running mean over `seconds` of (T,), ends held."""
    width = max(1, 2 * int(seconds * fps / 2) + 1)
    padded = np.pad(np.asarray(values, np.float64), width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), "valid")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of (T,), 0 where one of them does not move."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 2 or min(a.std(), b.std()) < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
