"""The lip expert on its own: does it find the moment, and the recording, that belong to a mouth?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..audio.features import BINS, PER_FRAME, feature_frames, measure_loudness, mel_power, normalise
from ..face.model import FaceModel
from ..motion.lip_expert import WINDOW
from ..prepare.run import FPS
from ..training.data import Clip
from .motion import dominant_identities, talker_group, voiced
from .tracked import TrackedClip, track_clip

MAX_OFFSET = 15
# Judgements that an offset's score is averaged over at least.
MIN_OVERLAP = 8
SECOND = FPS - WINDOW + 1
STEP = 12
CROWD = 32
ROUNDS = 20


@dataclass
class Judged:
    """A clip's unit vectors, one per window of five frames: motion (N, E) and audio (N, E)."""

    name: str
    motion: Tensor
    audio: Tensor

    @property
    def similarity(self) -> np.ndarray:
        """-1..1, (N, N): motion window by audio window."""
        return (self.motion @ self.audio.T).numpy()


@torch.no_grad()
def judge(clip: TrackedClip, expert) -> Judged:
    """Embed a clip's tracked mouth and its sound; features as in training, without a gate."""
    frames = min(len(clip), feature_frames(len(clip.samples)))
    power = mel_power(clip.samples, 0, frames).reshape(frames, PER_FRAME, BINS)
    mel = torch.from_numpy(normalise(power, measure_loudness(clip.samples).speech))[None]
    return Judged(clip.name, expert.embed_motion(clip.expression[None, :frames])[0], expert.embed_audio(mel)[0])


def whole_clip_offset(similarity: np.ndarray) -> tuple[int, int]:
    """(best offset in frames, number of offsets tried) of a whole clip, similarity (N, N).

    An offset's score is the mean similarity of all motion windows with the audio windows that many frames later.
    Clips too short for +-15 frames are tried with as many as leave 8 windows.
    """
    reach = min(MAX_OFFSET, len(similarity) - MIN_OVERLAP)
    if reach < 1:
        return 0, 0
    offsets = np.arange(-reach, reach + 1)
    scores = [np.diagonal(similarity, k).mean() for k in offsets]
    return int(offsets[int(np.argmax(scores))]), len(offsets)


def second_offsets(similarity: np.ndarray) -> list[tuple[int, int]]:
    """(best offset, number of offsets tried) of windows of one second of motion, every half second.

    Windows around which +-15 frames of sound exist are used; in a clip too short for any, the middle one, with the
    offsets that fit.
    """
    count = len(similarity)
    if count <= SECOND:
        return []
    starts = list(range(MAX_OFFSET, count - SECOND - MAX_OFFSET + 1, STEP)) or [(count - SECOND) // 2]
    found = []
    for start in starts:
        offsets = np.arange(max(-MAX_OFFSET, -start), min(MAX_OFFSET, count - SECOND - start) + 1)
        rows = np.arange(start, start + SECOND)
        scores = [similarity[rows, rows + k].mean() for k in offsets]
        found.append((int(offsets[int(np.argmax(scores))]), len(offsets)))
    return found


def crowd_accuracy(judged: list[Judged], rng: np.random.Generator, crowd: int = CROWD) -> tuple[float, int]:
    """How often a second of motion finds its own sound among `crowd`: (share, size of the crowd).

    Crowds are random: seconds of different clips where there are enough, else also other seconds of the same clips.
    Fewer windows than a crowd give a smaller one; fewer than two (nan, 0).
    """
    seconds = [
        [(one.motion[i : i + SECOND], one.audio[i : i + SECOND]) for i in range(0, len(one.motion) - SECOND + 1, FPS)]
        for one in judged
    ]
    seconds = [windows for windows in seconds if windows]
    pool = [pair for windows in seconds for pair in windows]
    size = min(crowd, len(pool))
    if size < 2:
        return float("nan"), 0
    right = []
    for _ in range(ROUNDS):
        if len(seconds) >= size:
            chosen = [seconds[i][rng.integers(len(seconds[i]))] for i in rng.permutation(len(seconds))[:size]]
        else:
            chosen = [pool[i] for i in rng.permutation(len(pool))[:size]]
        motion, audio = (torch.stack(side) for side in zip(*chosen, strict=True))  # (size, SECOND, E)
        score = torch.einsum("ate,bte->ab", motion, audio)
        right.append(float((score.argmax(1) == torch.arange(size)).float().mean()))
    return float(np.mean(right)), size


def evaluate_lip_expert(
    clips: list[Clip], expert, face_model: FaceModel, *, dominant: set[str] | None = None,
    heard: Mapping[str, str] | None = None, seed: int = 0,
) -> dict:  # fmt: skip
    """Retrieval on tracked motion of clips of a second or more, by the groups of `talker_group`.

    Returns {"summary", "rows"}: per group the share of clips whose best offset lies within one frame (clip_offset_1),
    that of one-second windows (second_offset_1), the mean number of offsets tried for either, and the share of seconds
    that find their own sound among `crowd` (clip_of_32).
    """
    dominant = dominant_identities(clips) if dominant is None else dominant
    rng = np.random.default_rng(seed)
    rows, groups = [], {}
    for clip in tqdm([c for c in clips if voiced(c)], desc="lip expert", unit="clip"):
        real = track_clip(clip, face_model)
        if real is None or len(real) < FPS:
            continue
        judged = judge(real, expert)
        best, tried = whole_clip_offset(judged.similarity)
        windows = second_offsets(judged.similarity)
        row = {
            "clip": clip.name,
            "talker": talker_group(clip, dominant, heard),
            "frames": len(real),
            "offset": best,
            "clip_offset_1": float(abs(best) <= 1),
            "offsets_tried": tried,
            "windows": len(windows),
        }
        if windows:
            row["second_offset_1"] = float(np.mean([abs(offset) <= 1 for offset, _ in windows]))
            row["second_offsets_tried"] = float(np.mean([tried for _, tried in windows]))
        rows.append(row)
        groups.setdefault(row["talker"], []).append(judged)
    if not rows:
        return {"error": "no clip here is a second long and has confirmed lip sync"}
    return {"summary": _summary(rows, groups, rng), "rows": rows}


def _summary(rows: list[dict], groups: dict[str, list[Judged]], rng: np.random.Generator) -> dict[str, dict]:
    summary = {}
    for name in ("all", *groups):
        members = [row for row in rows if name in ("all", row["talker"])]
        with_windows = [row for row in members if row["windows"]]
        judged = [one for key, group in groups.items() if name in ("all", key) for one in group]
        share, crowd = crowd_accuracy(judged, rng)
        numbers = {
            "clips": len(members),
            "clip_offset_1": float(np.mean([row["clip_offset_1"] for row in members])),
            "offsets_tried": float(np.mean([row["offsets_tried"] for row in members])),
            "windows": sum(row["windows"] for row in members),
        }
        if with_windows:
            # Every second counts once, whichever clip it comes from.
            weights = [row["windows"] for row in with_windows]
            for key in ("second_offset_1", "second_offsets_tried"):
                numbers[key] = float(np.average([row[key] for row in with_windows], weights=weights))
        if crowd:
            numbers |= {"clip_of_32": share, "crowd": crowd}
        summary[name] = numbers
    return summary
