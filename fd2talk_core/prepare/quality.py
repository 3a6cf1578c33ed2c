"""Quality flags that tell which prepared clips are fit for training what."""

from __future__ import annotations

import numpy as np

from ..audio.loading import SAMPLE_RATE
from ..face.landmarks import face_box, inter_ocular_distance, mouth_opening
from .labels import FrameLabels

MIN_FACE_PIXELS = 48
CUT_JUMP = 0.6
MIN_SYNC = 0.15
MAX_LAG = 3


def audio_envelope(samples: np.ndarray, n_frames: int, fps: float) -> np.ndarray:
    """Loudness per video frame: log RMS of the samples under each frame. float32 (n_frames,)."""
    edges = (np.arange(n_frames + 1) * SAMPLE_RATE / fps).astype(int)
    padded = np.pad(samples, (0, max(0, edges[-1] - len(samples))))
    power = np.array([np.mean(padded[a:b] ** 2) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    return np.log(power + 1e-6).astype(np.float32)


def lagged_correlation(a: np.ndarray, b: np.ndarray, max_lag: int) -> tuple[float, int]:
    """Best Pearson correlation of a[t] and b[t + lag] over |lag| <= max_lag, and that lag in frames."""
    best, best_lag = -1.0, 0
    for lag in range(-max_lag, max_lag + 1):
        x, y = (a[: len(a) - lag], b[lag:]) if lag >= 0 else (a[-lag:], b[: len(b) + lag])
        if len(x) < 8 or x.std() < 1e-8 or y.std() < 1e-8:
            continue
        value = float(np.corrcoef(x, y)[0, 1])
        if value > best:
            best, best_lag = value, lag
    return best, best_lag


def quality_flags(labels: FrameLabels, samples: np.ndarray | None, fps: float) -> dict[str, float | bool]:
    """Judge one clip.

    Returns face_lost (share of frames without a face), face_px (median box width), too_small, cut (a jump of the
    face by more than 0.6 inter-ocular distances between neighbours), sync (correlation of loudness and mouth
    opening) with sync_lag in frames, and disagree (sound present, but sync below 0.15).
    """
    valid = labels.valid
    flags: dict[str, float | bool] = {"face_lost": float(1 - valid.mean()) if len(valid) else 1.0}
    if not valid.any():
        return flags | {"face_px": 0.0, "too_small": True, "cut": False, "sync": 0.0, "sync_lag": 0, "disagree": True}
    boxes = np.array([face_box(points) for points in labels.landmarks[valid]])
    flags["face_px"] = float(np.median(boxes[:, 2] - boxes[:, 0]))
    flags["too_small"] = flags["face_px"] < MIN_FACE_PIXELS
    points = labels.landmarks[valid]
    jumps = np.linalg.norm(np.diff(points[:, 1, :2], axis=0), axis=1) / inter_ocular_distance(points)[1:]
    flags["cut"] = bool((jumps > CUT_JUMP).any())
    sync, lag = -1.0, 0
    if samples is not None and len(valid) > 12:
        opening = np.where(valid, mouth_opening(labels.landmarks + 1e-6), 0)
        sync, lag = lagged_correlation(audio_envelope(samples, len(valid), fps), opening, MAX_LAG)
    flags |= {"sync": sync, "sync_lag": lag, "disagree": samples is not None and sync < MIN_SYNC}
    return flags
