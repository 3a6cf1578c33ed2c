"""Stage 1 on sound alone: does the mouth follow the voice, in every language, and rest when nobody speaks?"""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path

import numpy as np
import torch
from scipy.signal import butter, sosfilt
from tqdm import tqdm

from ..audio.loading import SAMPLE_RATE, load_audio, to_mono_16k
from ..errors import UserError
from ..face.model import FaceModel
from ..prepare.run import FPS
from .motion_metrics import correlation, find_blinks, longest_stare, pose_scores, smoothed
from .tracked import face_points

log = logging.getLogger(__name__)

SOUNDS = {".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a"}
FRAME = SAMPLE_RATE // FPS
BAND = (200, 3000)
# Voices repeat after 2.5 to 14 ms: 70 to 400 Hz.
PERIODS = (SAMPLE_RATE // 400, SAMPLE_RATE // 70)
PERIODIC = 0.4
SPEECH_DB = 35.0
PAUSE_SECONDS = 0.3
EDGE = 3
# A mouth is closed below a quarter of its mean opening in speech, or below this gap in inter-ocular distances.
CLOSED_SHARE, CLOSED = 0.25, 0.03
COLLAPSED = 0.4
TALKERS = 8


def find_sounds(folder: Path) -> list[Path]:
    """Sound files of a folder, by name. Raises UserError when there are none."""
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist. Give a folder of sound files.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS)
    if not files:
        raise UserError(f"The folder {folder} holds no sound files. Give one with {', '.join(sorted(SOUNDS))} files.")
    return files


def languages(folder: Path) -> dict[str, str]:
    """File name -> language, from the column `language` of manifest.csv, or of FOLDER_manifest.csv beside it."""
    for manifest in (folder / "manifest.csv", folder.parent / f"{folder.name}_manifest.csv"):
        if manifest.is_file():
            with open(manifest, newline="", encoding="utf-8") as file:
                return {row["file"]: row["language"] for row in csv.DictReader(file) if row.get("language")}
    return {}


def _frames(samples: np.ndarray, count: int, width: int = FRAME) -> np.ndarray:
    """Pieces of `width` samples centred on each 40-ms frame, float64 (count, width)."""
    lead = (width - FRAME) // 2
    padded = np.pad(samples.astype(np.float64), (lead, max(0, count * FRAME + width - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(padded, width)[: count * FRAME : FRAME]


def decibels(samples: np.ndarray, count: int) -> np.ndarray:
    """Level of every 40-ms frame in dB full scale, (count,)."""
    return 10 * np.log10((_frames(samples, count) ** 2).mean(1) + 1e-10)


def _periodicity(samples: np.ndarray, count: int) -> np.ndarray:
    """Highest normalised autocorrelation of each frame at the periods of a voice, (count,)."""
    width = 2 * FRAME
    pieces = _frames(samples, count, width)
    pieces = (pieces - pieces.mean(1, keepdims=True)) * np.hanning(width)
    power = np.abs(np.fft.rfft(pieces, 2 * width)) ** 2
    auto = np.fft.irfft(power)[:, : PERIODS[1] + 1]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(width), 2 * width)) ** 2)[: PERIODS[1] + 1]
    # The window's own autocorrelation falls with the lag; a steady tone must score 1 at any of them.
    ratio = auto / np.maximum(auto[:, :1], 1e-12) * (window[0] / window)
    return ratio[:, PERIODS[0] :].max(1)


def voice_activity(samples: np.ndarray, count: int) -> np.ndarray:
    """Voiced speech in 0..1 per 40-ms frame, (count,), of samples at 16 kHz; made without any network.

    Level between 200 and 3000 Hz, from 35 dB under the loud frames (0) to their level (1), where the sound repeats as
    a voice does (autocorrelation at 70 to 400 Hz above 0.4); 0 elsewhere.
    """
    band = sosfilt(butter(4, BAND, "bandpass", fs=SAMPLE_RATE, output="sos"), samples.astype(np.float64))
    level = decibels(band, count)
    share = np.clip(1 + (level - np.percentile(level, 95)) / SPEECH_DB, 0, 1)
    return share * (_periodicity(samples, count) > PERIODIC)


def pauses(samples: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Stretches (first frame, frame after the last) of more than 0.3 s without speech, voiced or not.

    Without speech is what lies at least 35 dB under the loud frames, or less than 6 dB above the quietest ones.
    """
    level = decibels(samples, count)
    quietest, loud = np.percentile(level, [2, 95])
    limit = max(loud - SPEECH_DB, min(quietest + 6, loud - 15))
    edges = np.flatnonzero(np.diff(np.r_[0, (level < limit).astype(np.int8), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > PAUSE_SECONDS * FPS]


def closing_frames(opening: np.ndarray, quiet: list[tuple[int, int]]) -> float:
    """Median number of frames from the end of speech until the mouth is closed, nan without a pause after speech.

    A mouth that stays open through a pause counts with that pause's length.
    """
    speech = np.ones(len(opening), bool)
    for start, stop in quiet:
        speech[start:stop] = False
    if not speech.any():
        return float("nan")
    limit = max(CLOSED, CLOSED_SHARE * float(opening[speech].mean()))
    taken = []
    for start, stop in quiet:
        if start == 0:
            continue
        closed = np.flatnonzero(opening[start:stop] < limit)
        taken.append(int(closed[0]) if len(closed) else stop - start)
    return float(np.median(taken)) if taken else float("nan")


def above_chance(a: np.ndarray, b: np.ndarray, away: int = FPS) -> float:
    """Share of time shifts of at least `away` frames at which two courses (T,) correlate less than as they are.

    0.5 is chance, 1 better than every shift; nan where the courses are too short to be shifted. Courses wrap around.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) <= 2 * away or min(a.std(), b.std()) < 1e-9:
        return float("nan")
    shifted = np.fft.irfft(np.fft.rfft(a - a.mean()) * np.conj(np.fft.rfft(b - b.mean())), len(a))
    return float((shifted[away : len(a) - away + 1] < shifted[0]).mean())


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(float(values.std()), 1e-9)


def babble(voices: list[np.ndarray], length: int, rng: np.random.Generator) -> np.ndarray:
    """A room full of talkers: `TALKERS` of the voices at once from random moments, RMS 1, float32 (length,)."""
    total = np.zeros(length)
    for _ in range(TALKERS):
        voice = voices[int(rng.integers(len(voices)))].astype(np.float64)
        voice = voice / max(np.sqrt((voice**2).mean()), 1e-9)
        total += np.resize(np.roll(voice, -int(rng.integers(len(voice)))), length) * 10 ** rng.uniform(-0.3, 0.3)
    return (total / max(np.sqrt((total**2).mean()), 1e-9)).astype(np.float32)


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Samples plus noise of RMS 1 at a ratio in dB to the speech, whose level is that of the frames that have some."""
    level = decibels(samples, max(1, len(samples) // FRAME))
    speech = 10 ** (level[level > np.percentile(level, 95) - SPEECH_DB] / 10)
    mixed = samples + noise[: len(samples)] * np.float32(np.sqrt(speech.mean()) * 10 ** (-snr_db / 20))
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


@torch.no_grad()
def measure_speech(
    samples: np.ndarray, clean: np.ndarray, model, face_model: FaceModel, **settings
) -> dict[str, float]:
    """Stage 1 on one recording; `clean` is the same without noise and tells where speech is.

    Returns seconds, activity_correlation (lip speed with voiced speech) and opening_correlation (mouth opening with
    it), both smoothed over 0.2 s, follows (`above_chance` of speed and opening together), opening_in_speech,
    opening_in_pauses (nan without a pause), closing_frames, opening_range (5th to 95th percentile), blinks,
    longest_stare (s), pose numbers as in `pose_scores`, and x_real_time.
    """
    from ..motion.sampling import generate_motion

    start = time.perf_counter()
    motion = generate_motion(model, samples, float(FPS), seed=0, **settings)
    seconds = time.perf_counter() - start
    count = len(motion)
    lips, opening, eyes = face_points(face_model, torch.zeros(face_model.id_basis.shape[0]), motion.expression)
    speed = np.r_[0, np.linalg.norm(np.diff(lips, axis=0), axis=-1).mean(1)]
    voice, quiet = smoothed(voice_activity(clean, count), FPS), pauses(clean, count)
    resting = np.zeros(count, bool)
    silent = np.zeros(count, bool)
    for first, last in quiet:
        silent[first:last] = True
        # The mouth may still close and already open at a pause's edges.
        resting[first + EDGE : last - EDGE] = True
    speed, gape = smoothed(speed, FPS), smoothed(opening, FPS)
    low, high = np.percentile(opening, [5, 95])
    blinks = find_blinks(eyes, FPS)
    return {
        "seconds": count / FPS,
        "activity_correlation": correlation(speed, voice),
        "opening_correlation": correlation(gape, voice),
        "follows": above_chance(_standard(speed) + _standard(gape), voice),
        "opening_in_speech": float(opening[~silent].mean()) if not silent.all() else float("nan"),
        "opening_in_pauses": float(opening[resting].mean()) if resting.any() else float("nan"),
        "closing_frames": closing_frames(opening, quiet),
        "opening_range": float(high - low),
        "blinks": len(blinks),
        "longest_stare": longest_stare(blinks, count, FPS),
        **pose_scores([motion.pose.numpy()], None, FPS),
        "x_real_time": count / FPS / seconds,
    }


def mark_collapsed(rows: list[dict]) -> None:
    """Set `collapsed` to 1 where the mouth's range is below 40 % of the median clean file's, else to 0."""
    clean = [row["opening_range"] for row in rows if row["noise"] == "none"]
    usual = float(np.median(clean or [row["opening_range"] for row in rows]))
    for row in rows:
        row["collapsed"] = float(row["opening_range"] < COLLAPSED * usual)


def evaluate_speech(
    folder: Path, model, face_model: FaceModel, *, limit: int | None = None, babble_db: float | None = None,
    seed: int = 0, **settings,
) -> list[dict]:  # fmt: skip
    """One row per sound file, and with `babble_db` a second one with other files' voices that many dB under it.

    Babble is mixed from the folder's other files, so that no recording hides behind itself. settings: passed to
    `generate_motion`.
    """
    files = find_sounds(folder)
    named = languages(folder)
    if limit is not None and len(files) > limit:
        files = [files[i] for i in np.linspace(0, len(files) - 1, limit).astype(int)]
    voices = {path: to_mono_16k(*load_audio(path)) for path in files}
    if babble_db is not None and len(files) < 2:
        raise UserError("Babble is mixed from other files, but there is only one. Give a folder with more sound files.")
    rows = []
    for index, (path, clean) in enumerate(tqdm(voices.items(), desc="speech", unit="file")):
        prefix = path.name.split("_")[0]
        language = named.get(path.name) or (prefix if len(prefix) in (2, 3) and prefix.isalpha() else "unknown")
        conditions = {"none": clean}
        if babble_db is not None:
            rng = np.random.default_rng([seed, index])
            noise = babble([voice for other, voice in voices.items() if other != path], len(clean), rng)
            conditions[f"babble {babble_db:g} dB"] = add_noise(clean, noise, babble_db)
        for noise_name, samples in conditions.items():
            numbers = measure_speech(samples, clean, model, face_model, **settings)
            rows.append({"file": path.name, "language": language, "noise": noise_name} | numbers)
    mark_collapsed(rows)
    return rows


def summarise_speech(rows: list[dict]) -> dict[str, dict]:
    """Means by language, clean and noisy apart; worst_... are those of the worst file.

    For comparison: tracked lips of real clips reach an activity_correlation of 0.70 and an opening_correlation of 0.67
    on slow, separate words (GRID), and 0.25 and 0.21 on average on free speech, where the voice hardly ever rests.

    strength is the mean opening range against that of the same files without noise.
    """
    summary = {}
    clean_range = {row["file"]: row["opening_range"] for row in rows if row["noise"] == "none"}
    for noise in dict.fromkeys(row["noise"] for row in rows):
        here = [row for row in rows if row["noise"] == noise]
        for language in ("all", *sorted({row["language"] for row in here})):
            members = [row for row in here if language in ("all", row["language"])]
            keys = [key for key, value in members[0].items() if isinstance(value, int | float)]
            numbers = {"clips": len(members)}
            for key in keys:
                values = np.array([row[key] for row in members], float)
                if np.isfinite(values).any():
                    numbers[key] = float(np.nanmean(values))
            for key in ("activity_correlation", "opening_correlation", "follows"):
                numbers[f"worst_{key}"] = float(np.nanmin([1.0, *(row[key] for row in members)]))
            numbers["longest_stare"] = max(row["longest_stare"] for row in members)
            numbers["collapsed"] = int(sum(row["collapsed"] for row in members))
            seconds = sum(row["seconds"] for row in members)
            numbers["blinks_per_minute"] = 60 * sum(row["blinks"] for row in members) / seconds
            numbers["strength"] = float(np.mean([row["opening_range"] / clean_range[row["file"]] for row in members]))
            summary[language if noise == "none" else f"{language}, {noise}"] = numbers
    return summary
