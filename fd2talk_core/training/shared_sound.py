"""Which clips share a sound track: generated clips often show several faces saying the same recording."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.signal import fftconvolve

from .data import SPLIT_BY_CLIP_FROM, Clip

HOP = 160
PROBE = 200
PROBES = 8
# Envelopes find where a recording may lie; only its own waveform, also after a codec, confirms it.
LIKELY, SAME = 0.85, 0.6
MIN_VARIETY = 0.5
GAP = 200


def envelope(samples: np.ndarray) -> np.ndarray:
    """Log power at 100 Hz, float64 (N / 160,)."""
    frames = len(samples) // HOP
    return np.log((samples[: frames * HOP].reshape(frames, HOP).astype(np.float64) ** 2).mean(1) + 1e-5)


def _matches(probe: np.ndarray, tape: np.ndarray) -> np.ndarray:
    """Pearson correlation of a probe (n,) with every stretch of a tape (m,), (m - n + 1,)."""
    n = len(probe)
    probe = probe - probe.mean()
    product = fftconvolve(tape, probe[::-1], "valid")
    sums, squares = np.cumsum(np.r_[0, tape]), np.cumsum(np.r_[0, tape**2])
    variance = squares[n:] - squares[:-n] - (sums[n:] - sums[:-n]) ** 2 / n
    return product / np.sqrt(np.maximum(variance, 0.01 * n) * (probe**2).sum())


def _confirmed(probe: np.ndarray, samples: np.ndarray) -> bool:
    """True when the waveform of a probe occurs in `samples`, whichever way round its polarity is."""
    if len(samples) < len(probe):
        return False
    power = np.maximum(fftconvolve(samples**2, np.ones(len(probe)), "valid"), 1e-6)
    match = np.abs(fftconvolve(samples, probe[::-1], "valid")) / np.sqrt(power * (probe**2).sum())
    return bool(match.max() > SAME)


def shared_sound(clips: list[Clip], training: list[Clip]) -> dict[str, str]:
    """Clips whose sound, or two seconds of it, occurs in a clip of `training` of another identity.

    Sentences of one talker are not compared with each other: they are recordings of their own. Returns the clip's
    name -> the name of one training clip with the same sound.
    """
    samples = {clip.name: clip.samples() for clip in training}
    tracks = [(clip, samples[clip.name].astype(np.float64)) for clip in training if samples[clip.name] is not None]
    tracks = [(clip, track) for clip, track in tracks if len(track) >= PROBE * HOP]
    if not tracks:
        return {}
    parts = [np.r_[envelope(track), np.zeros(GAP)] for _, track in tracks]
    starts = np.cumsum([0, *(len(part) for part in parts)])
    tape = np.concatenate(parts)
    found = {}
    for clip in clips:
        own = clip.samples()
        if own is None or len(own) < PROBE * HOP:
            continue
        own, course = own.astype(np.float64), envelope(own)
        firsts = np.unique(np.linspace(0, len(course) - PROBE, PROBES).astype(int))
        for first in firsts:
            probe = course[first : first + PROBE]
            if probe.std() < MIN_VARIETY:
                continue
            match = _matches(probe, tape)
            hits = np.flatnonzero(match > LIKELY)
            owners = np.unique(np.searchsorted(starts, hits, "right") - 1)
            wave = own[first * HOP : (first + PROBE) * HOP]
            for index in owners:
                other, track = tracks[index]
                if other.identity != clip.identity and _confirmed(wave - wave.mean(), track):
                    found[clip.name] = other.name
                    break
            if clip.name in found:
                break
    return found


def heard_when_held_back(clips: list[Clip]) -> dict[str, str]:
    """Training clips whose sound also occurs in a held-back clip, and in which; training leaves them out.

    So held-back means unheard, too. Talkers with very many clips are left alone: theirs are recordings of their own.
    """
    counts = Counter(clip.identity for clip in clips)
    few = [clip for clip in clips if not clip.still and clip.synced and counts[clip.identity] < SPLIT_BY_CLIP_FROM]
    return shared_sound([c for c in few if not c.held_back], [c for c in few if c.held_back])
