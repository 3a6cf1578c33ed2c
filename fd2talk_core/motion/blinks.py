"""Blinks: finding, adding and removing them.

A blink is a closure of both lids above one half for 80 to 500 ms. Closure is 0 at the rest the lids close from and 1
when they touch; it is read from the expression along the face model's blink controls, so a squint counts little.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .clip import MotionClip

BLINK_CLOSE_SECONDS = 0.12
BLINK_OPEN_SECONDS = 0.20
MIN_BLINK_INTERVAL = 0.6
MAX_BLINKS_PER_MINUTE = 60.0
SHUT = 0.5  # closure from which lids count as closing
SHORTEST, LONGEST = 0.08, 0.5  # seconds that a blink stays above it
NATURAL_MOST = 26.0  # with those that `ensure_blinks` adds, human rates end at 30
LONGEST_GAP = 5.0
# Lids that never blink may still narrow this far.
_HALF_OPEN = 0.35
_BEGUN = 0.15


def blink_directions(face_model) -> tuple[Tensor, Tensor]:
    """The two blink controls (64, 2), and the matrix (64, 2) that reads their present values from coefficients."""
    missing = {"blink_left", "blink_right"} - set(face_model.controls)
    if missing:
        raise UserError(
            f"The face model has no control called '{min(missing)}'. Use the face model that comes with FD2Talk."
        )
    directions = torch.stack([face_model.controls[name].float().cpu() for name in ("blink_left", "blink_right")], 1)
    reader = torch.zeros_like(directions)
    used = directions.abs().sum(1) > 0
    reader[used] = torch.linalg.pinv(directions[used]).T
    return directions, reader


def blink_curve(times: np.ndarray, starts: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """Lid closure 0..1 at `times` (T,) in seconds.

    starts: (K,) instants at which the lids begin to close. durations: (K,) factors on the usual 0.12 s closing
    and 0.20 s opening.
    """
    curve = np.zeros(len(times))
    for start, duration in zip(starts, durations, strict=True):
        whole = (BLINK_CLOSE_SECONDS + BLINK_OPEN_SECONDS) * duration
        part = slice(*np.searchsorted(times, [start, start + whole], side="right"))
        closing = np.clip((times[part] - start) / (BLINK_CLOSE_SECONDS * duration), 0, 1)
        opening = (times[part] - start) / duration - BLINK_CLOSE_SECONDS
        opening = np.clip(opening, 0, BLINK_OPEN_SECONDS) / BLINK_OPEN_SECONDS
        # Lids fall fast and rise with a slow end.
        shape = (1 - np.cos(np.pi * closing)) / 2 * (1 + np.cos(np.pi * opening**0.75)) / 2
        curve[part] = np.maximum(curve[part], shape)
    return curve


def _blink_at(clip: MotionClip, face_model, starts: list[float], durations: list[float]) -> MotionClip:
    directions, reader = blink_directions(face_model)
    curve = blink_curve(np.arange(len(clip)) / clip.fps, np.array(starts), np.array(durations))
    frames = torch.from_numpy(np.flatnonzero(curve))
    expression = clip.expression.clone()
    missing = torch.from_numpy(curve).float()[frames, None] * (1 - expression[frames] @ reader).clamp(min=0)
    expression[frames] += missing @ directions.T
    return clip.with_changes(expression=expression)


def _blinks_that_close_at(times: list[float], fps: float, rng: np.random.Generator) -> tuple[list, list]:
    """Starts and durations. A frame hits the fully closed instant, so a blink is never half one at low frame rates."""
    starts, durations = [], []
    for time in times:
        durations.append(rng.uniform(0.9, 1.15))
        starts.append(np.round(time * fps) / fps - BLINK_CLOSE_SECONDS * durations[-1])
    return starts, durations


def add_blinks(clip: MotionClip, face_model, per_minute: float = 15.0, seed: int = 0) -> MotionClip:
    """Add blinks at random instants, reproducible from the seed and the same instants at any frame rate.

    per_minute: mean rate, 0..60. Intervals are gamma-distributed above a shortest interval of 0.6 s, as human ones
    are skewed to the right. A blink goes from the lids' present state to fully closed, never beyond.
    """
    clip.check(face_model.hash)
    per_minute = check_rate(per_minute)
    if per_minute == 0:
        return clip
    rng = np.random.default_rng(seed)
    mean = 60.0 / per_minute
    starts, durations, time = [], [], rng.uniform(0, mean)
    while time < clip.duration:
        start, duration = _blinks_that_close_at([time + BLINK_CLOSE_SECONDS], clip.fps, rng)
        starts, durations = starts + start, durations + duration
        time += MIN_BLINK_INTERVAL + rng.gamma(2.0, max(mean - MIN_BLINK_INTERVAL, 1e-3) / 2.0)
    return _blink_at(clip, face_model, starts, durations)


def check_rate(per_minute: float) -> float:
    """The blink rate as a float; UserError outside 0..60 per minute."""
    per_minute = float(per_minute)
    if not 0 <= per_minute <= MAX_BLINKS_PER_MINUTE:  # also catches NaN
        raise UserError(f"The blink rate is {per_minute:g} per minute. Use 0 to {MAX_BLINKS_PER_MINUTE:g}.")
    return per_minute


def lid_closure(clip: MotionClip, face_model, rest: Tensor | None = None) -> np.ndarray:
    """Mean closure of both eyes over time, (T,): 0 at rest, 1 shut.

    rest: (64,) expression from which lids close; default: the clip's median, as lids are open most of the time.
    """
    _, reader = blink_directions(face_model)
    closure = (clip.expression @ reader).mean(1).numpy()
    # Sleepy lids have a shorter way to go.
    start = min(float(np.median(closure)) if rest is None else float((rest.float().cpu() @ reader).mean()), 0.7)
    return (closure - start) / (1 - start)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _blink_runs(closure: np.ndarray, fps: float) -> list[tuple[int, int, float, float]]:
    """First and last frame (exclusive) above one half of each blink, and the instants of crossing in seconds."""
    found = []
    # Between frames of more than 80 ms nothing more is known than that the lids were shut.
    shortest = SHORTEST if fps >= 12.5 else 0.0
    for first, last in _runs(closure > SHUT):
        start, end = float(first), float(last - 1)
        if first > 0:
            start -= (closure[first] - SHUT) / (closure[first] - closure[first - 1])
        if last < len(closure):
            end += (closure[last - 1] - SHUT) / (closure[last - 1] - closure[last])
        if shortest <= (end - start) / fps <= max(LONGEST, 2 / fps):
            found.append((first, last, start / fps, end / fps))
    return found


def find_blinks(clip: MotionClip, face_model, rest: Tensor | None = None) -> list[tuple[float, float]]:
    """Start and end of every blink in seconds: where closure (see `lid_closure`) exceeds one half for 80 to 500 ms.

    Crossings are interpolated between frames. rest: (64,) open lids, default the clip's median.
    """
    clip.check(face_model.hash)
    return [(start, end) for _, _, start, end in _blink_runs(lid_closure(clip, face_model, rest), clip.fps)]


def _opened(clip: MotionClip, face_model, closure: np.ndarray, runs: list[tuple[int, int]], rest: Tensor) -> MotionClip:
    """The clip with lids that stay open through the runs of frames: eyelids go straight from before to after."""
    expression, lids = clip.expression.clone(), face_model.slices["eyelids"]
    before, after = round(0.2 * clip.fps), round(0.4 * clip.fps)
    for first, last in runs:
        start, end = first - 1, last
        while start >= max(0, first - before) and closure[start] > _BEGUN:
            start -= 1
        while end < min(len(closure), last + after) and closure[end] > _BEGUN:
            end += 1
        a = expression[start, lids] if start >= 0 and closure[start] < SHUT else None
        b = expression[end, lids] if end < len(closure) and closure[end] < SHUT else None
        a, b = (b if a is None else a), (a if b is None else b)
        if a is None:
            a = b = rest[lids]
        weight = torch.linspace(0, 1, end - start + 1)[1:-1, None]
        expression[start + 1 : end, lids] = a * (1 - weight) + b * weight
    return clip.with_changes(expression=expression)


def _held_open(clip: MotionClip, face_model, rest: Tensor) -> MotionClip:
    directions, reader = blink_directions(face_model)
    start = (rest @ reader).clamp(max=0.7)
    excess = clip.expression @ reader - (start + _HALF_OPEN * (1 - start))
    return clip.with_changes(expression=clip.expression - excess.clamp(min=0) @ directions.T)


def _median(clip: MotionClip) -> Tensor:
    return clip.expression.median(dim=0).values


def _fewer(clip: MotionClip, face_model, wanted: int, rest: Tensor) -> MotionClip:
    """Remove blinks until `wanted` are left; of those that crowd most, first."""
    closure = lid_closure(clip, face_model, rest)
    runs = _blink_runs(closure, clip.fps)
    removed = []
    while len(runs) > wanted:
        middles = np.array([(start + end) / 2 for _, _, start, end in runs])
        gaps = np.diff(np.r_[-np.inf, middles, np.inf])
        crowded = int(np.argmin(np.minimum(gaps[:-1], gaps[1:])))
        removed.append(runs.pop(crowded)[:2])
    return _opened(clip, face_model, closure, removed, rest) if removed else clip


def set_blink_rate(
    clip: MotionClip, face_model, per_minute: float, rest: Tensor | None = None, seed: int = 0
) -> MotionClip:
    """Bring a clip to a blink rate by opening the lids over surplus blinks or adding missing ones.

    per_minute: 0..60; 0 also keeps the lids at least two thirds open all the time. A fraction of a blink that is left
    over in a short clip is drawn from the seed. rest: (64,) open lids, default the clip's median. Added blinks fall
    at irregular instants, at least 0.6 s from any other closure; rates that leave no such room stay somewhat lower.
    """
    clip.check(face_model.hash)
    per_minute = check_rate(per_minute)
    rest = (_median(clip) if rest is None else rest).float().cpu()
    rng = np.random.default_rng(seed)
    wanted = int(per_minute * clip.duration / 60 + rng.random())
    clip = _fewer(clip, face_model, wanted, rest)
    if per_minute == 0:
        return _held_open(clip, face_model, rest)
    closure = lid_closure(clip, face_model, rest)
    missing = wanted - len(_blink_runs(closure, clip.fps))
    busy = np.flatnonzero(closure > 0.3) / clip.fps
    added: list[float] = []
    for _ in range(max(missing, 0)):
        # The best of a few random instants: irregular, but without crowds and long stares.
        instants = rng.uniform(0, clip.duration, 12)
        taken = np.r_[busy, added]
        distance = np.abs(instants[:, None] - taken).min(1) if taken.size else np.full(12, np.inf)
        few = np.argsort(-distance[: 3 if distance[:3].max() >= MIN_BLINK_INTERVAL else None])
        if distance[few[0]] < MIN_BLINK_INTERVAL:
            continue
        added.append(float(instants[few[0]]))
    return _blink_at(clip, face_model, *_blinks_that_close_at(added, clip.fps, rng)) if added else clip


def ensure_blinks(
    clip: MotionClip, face_model, rest: Tensor, longest_gap: float = LONGEST_GAP, seed: int = 0
) -> MotionClip:
    """Add a blink wherever the lids of a clip stay open for longer than a person's would.

    rest: (64,) expression from which lids close. longest_gap: seconds without a blink. Blinks that are there stay as
    they are; added ones fall at random instants in the second half of a gap, reproducible from the seed.
    """
    clip.check(face_model.hash)
    present = (np.flatnonzero(lid_closure(clip, face_model, rest) > SHUT) / clip.fps).tolist()
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


def natural_blinks(clip: MotionClip, face_model, rest: Tensor, seed: int = 0) -> MotionClip:
    """The clip's own blinks, kept within human bounds: at most about 30 per minute, and no stare of more than 5 s."""
    clip.check(face_model.hash)
    most = max(1, int(NATURAL_MOST * clip.duration / 60))
    return ensure_blinks(_fewer(clip, face_model, most, rest.float().cpu()), face_model, rest, seed=seed)
