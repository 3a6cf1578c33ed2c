"""Stage 1 on the sound of real clips: lips, blinks and heads against what the labels say, and a plain regressor's."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..face.model import FaceModel
from ..prepare.run import FPS
from ..training.data import SPLIT_BY_CLIP_FROM, Clip
from . import metrics
from .motion_metrics import find_blinks, lip_scores, pose_scores
from .summary import summarise
from .tracked import TrackedClip, face_points, track_clip

log = logging.getLogger(__name__)

SEEDS = 3
# Groups of the tables; of the last one, the sound, but not the face, occurs in training.
DOMINANT, OTHERS, HEARD = "dominant voice", "other voices", "other faces, sound heard"
# Ratios of sums over all clips: a mean of ratios would be ruled by clips in which hardly anything happens.
POOLED = {
    "vs_first": ("lip_distance", "first_distance"),
    "vs_mean": ("lip_distance", "mean_distance"),
    "lip_jitter_ratio": ("lip_jitter", "real_lip_jitter"),
    "pose_jitter_ratio": ("pose_jitter", "real_pose_jitter"),
    "pose_spread_ratio": ("pose_spread", "real_pose_spread"),
    "seed_difference_ratio": ("seed_difference", "real_pose_spread"),
    "x_real_time": ("seconds", "computing_seconds"),
}


def voiced(clip: Clip) -> bool:
    """True for clips whose sound and lips belong together."""
    return not clip.still and clip.synced


def dominant_identities(clips: list[Clip]) -> set[str]:
    """Talkers with so many clips that some of their sentences are held back instead of the whole talker."""
    counts = Counter(clip.identity for clip in clips)
    return {identity for identity, count in counts.items() if count >= SPLIT_BY_CLIP_FROM}


def talker_group(clip: Clip, dominant: set[str], heard: Mapping[str, str] | None) -> str:
    """Row of the tables that a clip counts in. heard: names of clips whose sound occurs in training, and where."""
    if clip.identity in dominant:
        return DOMINANT
    return HEARD if clip.name in (heard or {}) else OTHERS


def _mean(rows: list[dict]) -> dict[str, float]:
    """Mean of every number of rows that have the same keys."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _mouth_row(lips: np.ndarray, opening: np.ndarray, real_lips: np.ndarray, real: TrackedClip) -> dict[str, float]:
    return metrics.opening_scores(opening, real.opening[: len(opening)]) | lip_scores(lips, real_lips, FPS)


def _blinks(eyes: list[np.ndarray]) -> float:
    return float(np.mean([len(find_blinks(course, FPS)) for course in eyes]))


def measure_clip(real: TrackedClip, model, face_model: FaceModel, seeds: int = SEEDS, **settings) -> dict[str, float]:
    """Stage 1 against one clip; mouth numbers are means over the seeds 0, 1, ... `seeds` - 1.

    Keys are those of `metrics.opening_scores`, `lip_scores` and `pose_scores`, and frames, seconds, blinks and
    real_blinks (counts), computing_seconds (of one seed). settings: passed to `generate_motion`.
    """
    from ..motion.sampling import generate_motion

    rows, eyes, poses, times = [], [], [], []
    for seed in range(seeds):
        start = time.perf_counter()
        motion = generate_motion(
            model, real.samples, float(FPS), seed=seed, reference_expression=real.expression[0],
            reference_pose=real.pose[0], **settings,
        )  # fmt: skip
        times.append(time.perf_counter() - start)
        count = min(len(motion), len(real))
        lips, opening, lids = face_points(face_model, real.alpha, motion.expression[:count])
        real_lips = face_points(face_model, real.alpha, real.expression[:count])[0]
        rows.append(_mouth_row(lips, opening, real_lips, real))
        eyes.append(lids)
        poses.append(motion.pose[:count].numpy())
    row = _mean(rows) | {"frames": count, "seconds": count / FPS, "computing_seconds": float(np.mean(times))}
    row |= {"blinks": _blinks(eyes), "real_blinks": _blinks([real.eyes[:count]])}
    return row | pose_scores(poses, real.pose[:count].numpy(), FPS)


@torch.no_grad()
def measure_baseline(real: TrackedClip, baseline, face_model: FaceModel) -> dict[str, float]:
    """The calibration regressor against one clip: its mouth on an otherwise still face."""
    start = time.perf_counter()
    expression = baseline.predict(real.samples, len(real))
    seconds = time.perf_counter() - start
    lips, opening, lids = face_points(face_model, real.alpha, expression)
    real_lips = face_points(face_model, real.alpha, real.expression)[0]
    row = _mouth_row(lips, opening, real_lips, real)
    row |= {"frames": len(real), "seconds": len(real) / FPS, "computing_seconds": seconds}
    return row | {"blinks": _blinks([lids]), "real_blinks": _blinks([real.eyes])}


def evaluate_motion(
    clips: list[Clip], model, face_model: FaceModel, *, seeds: int = SEEDS, baseline=None,
    dominant: set[str] | None = None, heard: Mapping[str, str] | None = None, **settings,
) -> list[dict]:  # fmt: skip
    """One row per clip with confirmed lip sync, and with `baseline` a second one for the regressor.

    Mouth opening is the inner-lip gap over the inter-ocular distance, of landmarks rendered from the generated
    coefficients on the clip's own identity, and of the labels. Lip distances are between points of generated and
    tracked coefficients on that identity, head pose removed. The lip expert takes no part: it was trained against.

    dominant: identities of the group `dominant voice`, default: those with 50 of the clips given. heard: names of
    clips whose sound occurs in training, and where. settings: passed to `generate_motion`.
    """
    dominant = dominant_identities(clips) if dominant is None else dominant
    rows = []
    for clip in tqdm([c for c in clips if voiced(c)], desc="motion", unit="clip"):
        real = track_clip(clip, face_model)
        if real is None:
            log.warning("%s has no sound or too few labels; it is left out", clip.name)
            continue
        facts = {"clip": clip.name, "identity": clip.identity, "talker": talker_group(clip, dominant, heard)}
        if clip.name in (heard or {}):
            facts["sound_heard_in"] = heard[clip.name]
        rows.append(facts | {"model": "stage 1"} | measure_clip(real, model, face_model, seeds, **settings))
        if baseline is not None:
            rows.append(facts | {"model": "baseline"} | measure_baseline(real, baseline, face_model))
    return rows


def pooled(rows: list[dict]) -> dict[str, float]:
    """Numbers of a group that are not means of its rows' numbers: blinks per minute and the ratios of POOLED."""
    result: dict[str, float] = {}
    for key in ("blinks", "asked_blinks", "real_blinks"):
        values = [(row[key], row["seconds"]) for row in rows if key in row]
        if values:
            counts, seconds = np.sum(values, axis=0)
            result[f"{key}_per_minute"] = float(60 * counts / max(seconds, 1e-9))
    for key, (above, below) in POOLED.items():
        pairs = [(row[above], row[below]) for row in rows if above in row and below in row]
        # Very short clips have no jitter to speak of.
        pairs = [pair for pair in pairs if not any(math.isnan(v) for v in pair)]
        if pairs:
            a, b = np.sum(pairs, axis=0)
            result[key] = float(a / max(b, 1e-9))
    return result


def summarise_motion(rows: list[dict]) -> dict[str, dict]:
    """Summary by talkers and model: names like `other voices`, and `baseline: other voices`."""
    names = ("all", *dict.fromkeys(row["talker"] for row in rows))
    summary = {}
    for name in names:
        for kind in ("stage 1", "baseline"):
            members = [r for r in rows if r["model"] == kind and name in ("all", r["talker"])]
            if members:
                title = name if kind == "stage 1" else f"{kind}: {name}"
                summary[title] = summarise(members, None)["all"] | pooled(members)
    return summary


def load_baseline(path: str | Path | None):
    """The regressor that `fd2talk train baseline` wrote, None without a path. Raises UserError when it is unusable."""
    if path is None:
        return None
    from ..training.baseline import Baseline

    return Baseline.load(path)
