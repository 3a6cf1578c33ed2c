"""How far sound and picture of the clips of one source lie apart, so that training need not learn their recorders' lag.

Videos that are called in sync often are not, to the frame: recorders, editors and the models that made generated
clips shift the sound by a constant. A lip expert trained on the one talker who was recorded for hours tells by how
much the others differ from him.
"""

from __future__ import annotations

import csv
import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..audio.features import PER_FRAME
from ..motion.lip_expert import LipExpert
from .data import SPLIT_BY_CLIP_FROM, list_clips

if TYPE_CHECKING:
    from .speech_data import SpeechClip

log = logging.getLogger(__name__)

OFFSETS_FILE = "offsets.csv"
FARTHEST = 8
PLAUSIBLE = 4.0
LONG, SHORTEST = 150, 70
# Peak of the mean similarity over the mean of all shifts, in standard deviations of the latter.
CLEAR_PEAK = 1.8


def peak(scores: np.ndarray) -> tuple[float, float]:
    """(position in frames from the middle, to a quarter; height in standard deviations) of a curve (2 K + 1,)."""
    middle, best = len(scores) // 2, int(np.argmax(scores))
    position = float(best)
    if 0 < best < len(scores) - 1:
        left, top, right = scores[best - 1 : best + 2]
        position += 0.5 * (left - right) / min(left - 2 * top + right, -1e-9)
    clear = (scores[best] - scores.mean()) / max(float(scores.std()), 1e-9)
    return round((position - middle) * PER_FRAME) / PER_FRAME, float(clear)


@torch.no_grad()
def measure_offsets(expert: LipExpert, clips: list[SpeechClip]) -> dict[str, float]:
    """Offset of each clip in frames: the sound that belongs to frame t lies at t + offset.

    Clips shorter than LONG share the offset of their identity. Without enough frames or a clear peak the median of
    the others is used. A talker with very many clips is the reference, and has 0.
    """
    from .lip_expert import offset_scores

    counts = Counter(clip.identity for clip in clips)
    few = [clip for clip in clips if counts[clip.identity] < SPLIT_BY_CLIP_FROM]
    keys = {clip.name: clip.name if len(clip) >= LONG else clip.identity for clip in few}
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2 * FARTHEST + 1))
    frames: Counter[str] = Counter()
    for clip in few:
        if len(clip) > 2 * FARTHEST + 12:
            sums[keys[clip.name]] += offset_scores(expert, clip, FARTHEST).numpy() * len(clip)
            frames[keys[clip.name]] += len(clip)
    found = {}
    for key, scores in sums.items():
        offset, clear = peak(scores)
        if frames[key] >= SHORTEST and clear > CLEAR_PEAK and abs(offset) <= PLAUSIBLE:
            found[key] = offset
    usual = round(float(np.median(list(found.values()))) * PER_FRAME) / PER_FRAME if found else 0.0
    for key in sorted(set(keys.values())):
        log.info("%s: offset %+.2f frames%s", key, found.get(key, usual), "" if key in found else " (of the others)")
    return {clip.name: found.get(keys[clip.name], usual) if clip.name in keys else 0.0 for clip in clips}


def write_offsets(folder: Path, offsets: dict[str, float]) -> Path:
    """offsets.csv beside a prepared folder's manifest: clip, offset in frames. `load_speech` reads it."""
    path = folder / OFFSETS_FILE
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "offset"])
        writer.writerows(sorted(offsets.items()))
    return path


def read_offsets(folder: Path) -> dict[str, float]:
    """Offset in frames by clip name; empty where none were measured."""
    path = Path(folder) / OFFSETS_FILE
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["clip"]: float(row["offset"]) for row in csv.DictReader(file)}


def align(folders: list[Path], expert: LipExpert, cache: Path | None = None) -> dict[str, float]:
    """Measure the offsets of all synced clips of prepared folders, write them there, return them by clip name."""
    from .speech_data import load_speech

    offsets = measure_offsets(expert, load_speech(folders, cache, aligned=False))
    for folder in folders:
        names = {clip.name for clip in list_clips(folder)}
        own = {name: offset for name, offset in offsets.items() if name in names}
        if own:
            write_offsets(Path(folder), own)
    return offsets
