"""Audio features and coefficients of prepared clips, kept ready for the stage-1 parts, and windows drawn from them."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from ..audio.features import BINS, PER_FRAME, measure_loudness, mel_power
from ..errors import UserError
from ..face.landmarks import LIP_GAP, OUTER_EYE_CORNERS
from ..face.model import FaceModel
from .data import SPLIT_BY_CLIP_FROM, Clip, list_clips
from .shared_sound import heard_when_held_back
from .sync import read_offsets

log = logging.getLogger(__name__)

FADE = 6
QUIET_POWER = 1.0
CLOSED = 0.045
SILENT = 1e-7
VERSION = "3"


@dataclass
class SpeechClip:
    """One clip: coefficients at 25 fps and mel power relative to the clip's speech level.

    expression: float32 (T, 64). pose: float32 (T, 6), offset from the clip's median pose. power: float32 (T, 4, 80).
    rest_pose: float32 (6,), the median pose itself. quiet: bool (T,), frames without speech.
    shift: frames of the source's sound between the start of its valid stretch and the clip's first frame.
    features: (T, F) of a speech model, None without one.
    """

    name: str
    identity: str
    held_back: bool
    expression: np.ndarray
    pose: np.ndarray
    power: np.ndarray
    rest_pose: np.ndarray
    quiet: np.ndarray
    opening: np.ndarray
    shift: float = 0.0
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.expression)


def valid_run(valid: np.ndarray) -> tuple[int, int]:
    """Longest run of valid frames, as (start, stop)."""
    edges = np.flatnonzero(np.diff(np.r_[0, valid.astype(np.int8), 0]))
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])


def log_power(samples: np.ndarray, start: int, frames: int) -> np.ndarray:
    """log10 of the mel power of a recording's frames, relative to its speech level; float16 (frames, 4, 80).

    Half precision holds logarithms well and powers badly.
    """
    level = measure_loudness(samples).speech
    power = np.log10(mel_power(samples, start, frames) / level**2 + SILENT)
    return power.reshape(frames, PER_FRAME, BINS).astype(np.float16)


def _measure(clip: Clip, face_model: FaceModel) -> dict[str, np.ndarray] | None:
    samples, labels = clip.samples(), clip.labels()
    if samples is None or labels.valid.sum() < 25:
        return None
    start, stop = valid_run(labels.valid)
    fit = face_model.fit(torch.from_numpy(labels.landmarks[start:stop]), clip.size)
    power = log_power(samples, start, stop - start)
    return {"expression": fit.beta.numpy(), "pose": fit.pose.numpy(), "power": power}


def synced_clips(folders: list[Path]) -> list[Clip]:
    """Moving clips of prepared folders whose sound and lips belong together."""
    return [clip for folder in folders for clip in list_clips(folder) if not clip.still and clip.synced]


def shifted(power: np.ndarray, offset: float) -> np.ndarray:
    """Mel power (T, 4, 80) moved `offset` frames forward, to 10 ms; what is not known is silence."""
    rows = round(offset * PER_FRAME)
    flat = power.reshape(-1, power.shape[-1])
    moved = np.full_like(flat, SILENT)
    if rows >= 0:
        moved[: len(flat) - rows] = flat[rows:]
    else:
        moved[-rows:] = flat[:rows]
    return moved.reshape(power.shape)


def load_speech(folders: list[Path], cache: Path | None = None, aligned: bool = True) -> list[SpeechClip]:
    """All synced clips of prepared folders, with coefficients fitted by the shipped face model.

    cache: folder for the measured clips, so that this is slow only once; default `cache/motion` beside the data.
    aligned: shift the sound by the offsets that `training.sync` measured.
    """
    face_model = FaceModel.load()
    clips = synced_clips(folders)
    if not clips:
        raise UserError("No clip with confirmed lip sync was found. Prepare videos with speech, or state lip_sync=yes.")
    offsets = {name: value for folder in folders for name, value in read_offsets(folder).items()} if aligned else {}
    cache = cache or Path(folders[0]).parent / "cache" / "motion"
    cache.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("\n".join([VERSION, face_model.hash, *(c.name for c in clips)]).encode()).hexdigest()[:16]
    path = cache / f"{key}.safetensors"
    if not path.is_file():
        tensors = {}
        for clip in tqdm(clips, desc="coefficients", unit="clip"):
            for name, value in (_measure(clip, face_model) or {}).items():
                tensors[f"{clip.name}|{name}"] = value
        # safetensors writes the buffer as it lies in memory, whatever the strides.
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    tensors = load_file(path)
    heard = heard_when_held_back(clips)
    if heard:
        log.info("left out, their sound occurs in held-back clips: %s", ", ".join(sorted(heard)))
    speech = []
    few = [*LIP_GAP, *OUTER_EYE_CORNERS]
    mean, basis = face_model.mean[few].numpy(), face_model.exp_basis[:, few].numpy()
    for clip in clips:
        if f"{clip.name}|pose" not in tensors or clip.name in heard:
            continue
        expression, pose, logs = (tensors[f"{clip.name}|{name}"] for name in ("expression", "pose", "power"))
        power = 10.0 ** logs.astype(np.float32)
        shift = offset = offsets.get(clip.name, 0.0)
        if offset:
            # The end that has lost its sound, or the start, is cut off.
            power = shifted(power, offset)
            kept = slice(max(0, int(np.ceil(-offset))), len(power) - max(0, int(np.ceil(offset))))
            power, expression, pose, shift = power[kept], expression[kept], pose[kept], offset + kept.start
        rest = np.median(pose, axis=0)
        # A frame is quiet when it and its neighbours are far below the speech level.
        loud = power.mean((1, 2))
        loud = np.maximum(loud, np.maximum(np.r_[loud[1:], 0], np.r_[0, loud[:-1]]))
        quiet = loud < QUIET_POWER
        points = mean + np.tensordot(expression, basis, 1)  # (T, 4, 3)
        eyes = np.linalg.norm(points[:, 2] - points[:, 3], axis=-1)
        opening = np.linalg.norm(points[:, 0] - points[:, 1], axis=-1) / eyes
        speech.append(
            SpeechClip(
                clip.name, clip.identity, clip.held_back, expression, pose - rest, power, rest, quiet, opening, shift
            )
        )
    return speech


def _fade(first: list[np.ndarray], second: list[np.ndarray]) -> list[np.ndarray]:
    """Join two lists of per-frame arrays with a cross-fade."""
    length = min(FADE, len(first[0]) - 1, len(second[0]) - 1)
    weight = (np.arange(length, dtype=np.float32) + 0.5) / length
    joined = []
    for a, b in zip(first, second, strict=True):
        w = weight.reshape(-1, *[1] * (a.ndim - 1))
        joined.append(np.concatenate([a[:-length], a[-length:] * (1 - w) + b[:length] * w, b[length:]]))
    return joined


class WindowSampler:
    """Draws windows of any length: crops of long clips; short ones of one identity joined by cross-fades and pauses.

    dominant_share: share of the windows from identities with so many clips that they would drown the others.
    """

    def __init__(self, clips: list[SpeechClip], length: int, seed: int = 0, dominant_share: float = 0.6):
        self.length, self.rng = length, np.random.default_rng(seed)
        self.clips = clips
        self.by_identity: dict[str, list[int]] = {}
        for index, clip in enumerate(clips):
            self.by_identity.setdefault(clip.identity, []).append(index)
        frames = np.array([len(clip) for clip in clips], float)
        dominant = np.array([self.is_dominant(clip) for clip in clips])
        # The square root keeps a long clip of one person from outweighing many short ones.
        weights = np.where(dominant, frames, np.sqrt(frames))
        if dominant.any() and not dominant.all():
            weights[dominant] *= dominant_share / weights[dominant].sum()
            weights[~dominant] *= (1 - dominant_share) / weights[~dominant].sum()
        self.weights = weights / weights.sum()

    def is_dominant(self, clip: SpeechClip) -> bool:
        """True for talkers with so many clips for training that they would drown the others."""
        return len(self.by_identity.get(clip.identity, ())) >= SPLIT_BY_CLIP_FROM

    def held_back_groups(self, clips: list[SpeechClip], most: int) -> tuple[list[SpeechClip], list[SpeechClip]]:
        """Held-back clips: up to `most` of dominant talkers, and all of identities that training never sees."""
        held = [clip for clip in clips if clip.held_back]
        others = [clip for clip in held if clip.identity not in self.by_identity]
        return [clip for clip in held if self.is_dominant(clip)][:most], others

    def _arrays(self, index: int) -> list[np.ndarray]:
        clip = self.clips[index]
        features = [] if clip.features is None else [clip.features.astype(np.float32)]
        return [clip.expression, clip.pose, clip.power, *features]

    def _pause(self, index: int, frames: int) -> list[np.ndarray] | None:
        """`frames` of a quiet stretch with closed mouth at the clip's end or start, played back and forth."""
        quiet = self.clips[index].quiet & (self.clips[index].opening < CLOSED)
        tail = int(np.argmin(quiet[::-1])) if not quiet.all() else len(quiet)
        head = int(np.argmin(quiet)) if not quiet.all() else len(quiet)
        if max(tail, head) < 5:
            return None
        order = np.arange(len(quiet) - tail, len(quiet)) if tail >= head else np.arange(head)
        there_and_back = np.concatenate([order, order[-2:0:-1]])
        chosen = np.resize(there_and_back, frames)
        arrays = [a[chosen] for a in self._arrays(index)]
        if self.rng.random() < 0.5:
            arrays[2] = arrays[2] * np.float32(10 ** self.rng.uniform(-6, 0))
        return arrays

    def window(self) -> tuple[int, list[np.ndarray]]:
        """(index of the clip, [expression (L, 64), pose (L, 6), power (L, 4, 80), and features (L, F) if known])."""
        rng, length = self.rng, self.length
        index = int(rng.choice(len(self.clips), p=self.weights))
        speed = float(np.exp(rng.uniform(-0.14, 0.14))) if rng.random() < 0.5 else 1.0
        need = int(np.ceil(length * speed)) + 1
        if rng.random() < 0.04:
            pause = self._pause(index, need)
            if pause:
                return index, self._retimed(pause, speed)
        tape = self._arrays(index)
        friends = self.by_identity[self.clips[index].identity]
        # A random part of the tape is skipped, so that a joined window does not always begin with a clip's start.
        skip = int(rng.integers(0, max(1, len(tape[0]) - need + 1 if len(tape[0]) >= need else len(tape[0]))))
        while len(tape[0]) < need + skip:
            other = int(rng.choice(friends))
            if rng.random() < 0.4:
                pause = self._pause(other, int(rng.integers(10, 60)))
                if pause:
                    tape = _fade(tape, pause)
            tape = _fade(tape, self._arrays(other))
        return index, self._retimed([a[skip : skip + need] for a in tape], speed)

    def _retimed(self, arrays: list[np.ndarray], speed: float) -> list[np.ndarray]:
        if speed == 1.0:
            return [a[: self.length] for a in arrays]
        retimed = []
        for array, per_frame in zip(arrays, (1, 1, PER_FRAME, 1)[: len(arrays)], strict=True):
            rows = array.reshape(len(array) * per_frame, -1)
            at = (np.arange(self.length * per_frame) + 0.5) * speed - 0.5
            at = at.clip(0, len(rows) - 1.001)
            low = at.astype(int)
            part = (at - low).astype(np.float32)[:, None]
            rows = rows[low] * (1 - part) + rows[low + 1] * part
            retimed.append(rows.reshape(self.length, *array.shape[1:]))
        return retimed
