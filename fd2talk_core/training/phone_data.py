"""Synthesised speech with exactly known phones: many voices and languages, free of rights, for phonetic pretraining.

espeak-ng says when each phone begins, flite when it ends. Classes and their articulation are in `phonetics`.
"""

from __future__ import annotations

import ctypes
import json
import logging
import multiprocessing
import shutil
import subprocess
import tempfile
import wave
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.signal import resample_poly
from tqdm import tqdm

from ..audio.features import feature_frames
from ..audio.loading import SAMPLE_RATE
from ..errors import UserError
from .phone_text import SENTENCES, random_text
from .phonetics import CLASSES, SILENCE, STOPS, classes_of_arpabet, classes_of_ipa
from .speech_data import log_power

log = logging.getLogger(__name__)

PER_FRAME_CLASSES = 2
CLASS_RATE = 50
FLITE_SHARE = 1 / 3
VERSION = 1
INSTALL = "Install it: apt-get install espeak-ng flite"

ESPEAK_NAMES = {"pt": "pt-br", "cmn": "cmn-latn-pinyin"}
VARIANTS = (
    "", *(f"m{k}" for k in range(1, 9)), *(f"f{k}" for k in range(1, 6)), "croak", "whisper", "whisperf",
    "klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6", "adam", "Alex", "Alicia", "Andrea", "Andy", "Annie",
    "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "Denis", "Diogo", "ed", "edward", "gene",
    "Gene2", "grandma", "grandpa", "Henrique", "Hugo", "iven", "iven2", "iven3", "Jacky", "john", "kaukovalta", "Lee",
    "linda", "marcelo", "Marco", "Mario", "max", "Michael", "michel", "miguel", "Nguyen", "norbert", "pablo", "paul",
    "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor", "zac", "anika",
)  # fmt: skip
RARE = ("croak", "whisper", "whisperf", "grandma", "grandpa")
FLITE_VOICES = {"slt": 0.4, "awb": 0.3, "rms": 0.12, "kal16": 0.18}
HELD_BACK_LANGUAGES = ("ko", "it", "tr")
HELD_BACK_VOICES = ("espeak:m5", "espeak:f4", "espeak:klatt3", "espeak:paul", "flite:rms")

# The C interface of espeak-ng (speak_lib.h).
_SYNCHRONOUS, _PHONEME_EVENTS, _PHONEME_IPA, _UTF8, _PHONEME = 2, 1, 2, 1, 7
_RATE, _PITCH, _RANGE = 1, 3, 4
# A stop's closure is at most this long, and this much quieter than the loudest sound of the utterance.
_CLOSURE, _CLOSURE_LEVEL = 0.12, 0.012
_SOUNDING = 0.06


@dataclass(frozen=True)
class Phones:
    """Phones of an utterance that follow each other without gaps.

    starts: float64 (P,), seconds, ascending. classes: int (P,), indices into phonetics.CLASSES.
    """

    starts: np.ndarray
    classes: np.ndarray

    def at(self, times: np.ndarray) -> np.ndarray:
        """Class at each time in seconds; silence before the first phone."""
        index = np.searchsorted(self.starts, times, "right") - 1
        return np.where(index < 0, SILENCE, self.classes[index.clip(0)])


@dataclass(frozen=True)
class PhoneClip:
    """One synthesised utterance.

    power: float16 (T, 4, 80), log10 of the mel power relative to the speech level, as speech_data stores it; linear
    power for `augment` is `10.0 ** clip.power.astype(np.float32)`. classes: int8 (T, 2), phone at the middle of each
    20 ms, index into phonetics.CLASSES. voice: "espeak:<variant>" or "flite:<voice>". held_back: a voice or language
    kept for validation.
    """

    power: np.ndarray
    classes: np.ndarray
    voice: str
    language: str
    held_back: bool

    def __len__(self) -> int:
        return len(self.power)


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("text", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _EventId),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """espeak-ng as a library. It keeps its state in globals: one per process, see `espeak()`."""

    def __init__(self):
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise UserError(f"espeak-ng was not found. {INSTALL}.") from error
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _PHONEME_IPA)
        if self.rate <= 0:
            raise UserError(f"espeak-ng did not find its data. {INSTALL}.")
        self._sound: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library only holds a pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, sound, count, events) -> int:
        index = 0
        while events[index].type != 0:
            event = events[index]
            if event.type == _PHONEME:
                raw = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0]
                self._events.append((event.sample, raw.decode("utf-8", "ignore")))
            index += 1
        if sound and count > 0:
            self._sound.append(np.ctypeslib.as_array(sound, (count,)).copy())
        return 0

    def speak(
        self, text: str, voice: str, rate: int = 175, pitch: int = 50, pitch_range: int = 50
    ) -> tuple[np.ndarray, list[tuple[float, str]]]:
        """Sound, float32 (N,) at `self.rate`, and (start in seconds, IPA name) of each phone; "" is a pause.

        voice: espeak-ng voice with variant, e.g. "de+f3". rate: words per minute, 80..450. pitch, pitch_range: 0..100.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}. Choose one that `espeak-ng --voices` lists.")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._sound, self._events = [], []
        raw = text.encode()
        self._library.espeak_Synth(raw, ctypes.c_size_t(len(raw) + 1), 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        sound = np.concatenate([np.zeros(0, np.int16), *self._sound]).astype(np.float32) / 32768
        return sound, [(sample / self.rate, name) for sample, name in self._events]


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """The process's one espeak-ng. Raises UserError when it is not installed."""
    return Espeak()


def _phones(events: list[tuple[float, list[int]]], end: float) -> Phones:
    """Phones from (start in seconds, classes within it): several classes share the time equally."""
    starts, classes = [], []
    for index, (start, within) in enumerate(events):
        stop = events[index + 1][0] if index + 1 < len(events) else end
        for part, value in enumerate(within):
            starts.append(start + (stop - start) * part / len(within))
            classes.append(value)
    return Phones(np.array(starts), np.array(classes, int))


def _with_closures(phones: Phones, sound: np.ndarray, rate: int) -> Phones:
    """Phones of espeak-ng with the starts moved to where the mouth starts.

    It names a stop when it bursts; the closure before it belongs to the stop, not to the vowel. Nameless gaps within
    words that sound are glides or trills, and go to the next phone.
    """
    hop = rate // 200
    level = np.sqrt((sound[: len(sound) // hop * hop].reshape(-1, hop) ** 2).mean(1))
    quiet = level < _CLOSURE_LEVEL * level.max(initial=0)
    starts = phones.starts.copy()
    for index in range(1, len(starts)):
        gap = starts[index] - starts[index - 1]
        if phones.classes[index - 1] == SILENCE and phones.classes[index] != SILENCE and 0 < gap < _CLOSURE:
            within = level[int(starts[index - 1] * rate / hop) : int(np.ceil(starts[index] * rate / hop))]
            if len(within) and within.mean() > _SOUNDING * level.max(initial=0):
                starts[index] = starts[index - 1]
                continue
        if phones.classes[index] not in STOPS:
            continue
        if phones.classes[index - 1] == SILENCE:
            if index > 1 and gap < _CLOSURE:
                starts[index] = starts[index - 1]  # the gap between two words is the closure
        else:
            earliest = max(starts[index] - _CLOSURE, (starts[index - 1] + starts[index]) / 2)
            # The burst itself may begin within the last hop.
            at = min(int(starts[index] * rate / hop), len(quiet)) - 1
            if at > 0 and not quiet[at]:
                at -= 1
            while at >= 0 and quiet[at] and at * hop / rate >= earliest:
                starts[index] = at * hop / rate
                at -= 1
    return Phones(starts, phones.classes)


def speak_espeak(
    text: str, voice: str, rate: int = 175, pitch: int = 50, pitch_range: int = 50
) -> tuple[np.ndarray, Phones]:
    """Speech of espeak-ng, float32 (N,) at 16 kHz, and its phones. For the arguments see Espeak.speak."""
    machine = espeak()
    sound, events = machine.speak(text, voice, rate, pitch, pitch_range)
    known = []
    for start, name in events:
        within = classes_of_ipa(name) if name else [SILENCE]
        if within:  # what has no class of its own goes to the phone before it
            known.append((start, within))
    phones = _with_closures(_phones(known, len(sound) / machine.rate), sound, machine.rate)
    divisor = np.gcd(SAMPLE_RATE, machine.rate)
    return resample_poly(sound, SAMPLE_RATE // divisor, machine.rate // divisor).astype(np.float32), phones


def speak_flite(text: str, voice: str, stretch: float = 1.0, pitch: float | None = None) -> tuple[np.ndarray, Phones]:
    """Speech of flite, float32 (N,) at 16 kHz, and its phones.

    voice: kal16, awb, rms or slt. stretch: factor of the durations. pitch: mean of the voice's pitch in Hz.
    """
    if shutil.which("flite") is None:
        raise UserError(f"flite was not found. {INSTALL}.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}", "-psdur"]
        command += ["--setf", f"int_f0_target_mean={pitch:.1f}"] if pitch else []
        command += ["-t", text, "-o", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0 or not path.is_file():
            reason = result.stderr.strip()
            raise UserError(f"flite cannot speak with voice {voice!r}: {reason}. Choose kal16, awb, rms or slt.")
        with wave.open(str(path)) as file:  # always 16 bit, mono
            rate = file.getframerate()
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    events, start = [], 0.0
    for item in result.stdout.split():
        name, _, end = item.rpartition(":")
        within = classes_of_arpabet(name)
        if within:
            events.append((start, within))
        start = float(end)
    if rate != SAMPLE_RATE:
        divisor = np.gcd(SAMPLE_RATE, rate)
        sound = resample_poly(sound, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)
    return sound, _phones(events, start)


def measure_clip(sound: np.ndarray, phones: Phones) -> tuple[np.ndarray, np.ndarray] | None:
    """(power float16 (T, 4, 80), classes int8 (T, 2)) of an utterance at 16 kHz; None for one without sound."""
    if len(sound) < SAMPLE_RATE // 2 or np.abs(sound).max() < 1e-3:
        return None
    frames = feature_frames(len(sound))
    times = (np.arange(frames * PER_FRAME_CLASSES) + 0.5) / CLASS_RATE
    classes = phones.at(times)
    classes[times > len(sound) / SAMPLE_RATE] = SILENCE
    return log_power(sound, 0, frames), classes.reshape(frames, PER_FRAME_CLASSES).astype(np.int8)


def _draw_espeak(rng: np.random.Generator) -> tuple[np.ndarray, Phones, str, str]:
    # English has two more accents; of a language kept for validation little is enough.
    likely = np.array([{"en": 2.0}.get(name, 0.4 if name in HELD_BACK_LANGUAGES else 1.0) for name in SENTENCES])
    language = str(rng.choice(list(SENTENCES), p=likely / likely.sum()))
    weights = np.array([0.3 if name in RARE else 1.0 for name in VARIANTS])
    variant = str(rng.choice(VARIANTS, p=weights / weights.sum()))
    name = ESPEAK_NAMES.get(language, language)
    if language == "en":
        name = str(rng.choice(["en-us", "en-gb-x-rp", "en-us", "en-gb-scotland"]))
    text = random_text(rng, language)
    pitch, pitch_range = int(rng.integers(20, 91)), int(rng.integers(20, 91))
    sound, phones = speak_espeak(
        text, f"{name}+{variant}" if variant else name, int(rng.integers(120, 261)), pitch, pitch_range
    )
    return sound, phones, f"espeak:{variant or 'default'}", language


def _draw_flite(rng: np.random.Generator) -> tuple[np.ndarray, Phones, str, str]:
    voice = str(rng.choice(list(FLITE_VOICES), p=list(FLITE_VOICES.values())))
    stretch = float(np.exp(rng.uniform(np.log(0.75), np.log(1.35))))
    pitch = float(rng.uniform(150, 260) if voice == "slt" else rng.uniform(80, 160)) if rng.random() < 0.7 else None
    sound, phones = speak_flite(random_text(rng, "en"), voice, stretch, pitch)
    return sound, phones, f"flite:{voice}", "en"


def _draw(rng: np.random.Generator, machine: str) -> tuple[np.ndarray, np.ndarray, str, str] | None:
    """(power, classes, voice, language) of a random utterance with random silence around it."""
    sound, phones, voice, language = (_draw_flite if machine == "flite" else _draw_espeak)(rng)
    before, after = (int(rng.uniform(0, 0.3) * SAMPLE_RATE) for _ in range(2))
    shifted = Phones(phones.starts + before / SAMPLE_RATE, phones.classes)
    measured = measure_clip(np.pad(sound, (before, after)), shifted)
    return None if measured is None else (*measured, voice, language)


def _work(job: tuple[int, str, float]) -> list[tuple[np.ndarray, np.ndarray, str, str]]:
    """Utterances of `minutes` in total, drawn from the job's own seed."""
    seed, machine, minutes = job
    rng, done, clips = np.random.default_rng([VERSION, seed]), 0.0, []
    while done < minutes:
        clip = _draw(rng, machine)
        if clip is not None:
            clips.append(clip)
            done += len(clip[0]) / 25 / 60
    return clips


def build_corpus(path: Path, minutes: float = 180.0, seed: int = 0, workers: int = 2) -> None:
    """Synthesise `minutes` of speech, a third with flite, and write them to a safetensors file for `load_corpus`.

    The same seed draws the same texts and voices, but espeak-ng keeps state between utterances, so that noise and
    lengths differ by a little from run to run. With one worker all runs in this process.
    Raises UserError when espeak-ng or flite is missing.
    """
    if shutil.which("flite") is None:
        raise UserError(f"flite was not found. {INSTALL}.")
    espeak()
    chunk = 2.0
    count = max(1, round(minutes / chunk))
    flite = round(count * FLITE_SHARE)
    jobs = [(seed * 100000 + k, "flite" if k < flite else "espeak", minutes / count) for k in range(count)]
    progress = {"total": len(jobs), "desc": "synthetic speech", "unit": "chunk"}
    if workers == 1:
        chunks = [_work(job) for job in tqdm(jobs, **progress)]
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            chunks = list(tqdm(pool.map(_work, jobs), **progress))
    clips = [clip for chunk_clips in chunks for clip in chunk_clips]
    voices = sorted({clip[2] for clip in clips})
    languages = sorted({clip[3] for clip in clips})
    tensors = {
        "power": np.concatenate([clip[0] for clip in clips]),
        "classes": np.concatenate([clip[1] for clip in clips]),
        "starts": np.cumsum([0, *(len(clip[0]) for clip in clips)]).astype(np.int64),
        "voice": np.array([voices.index(clip[2]) for clip in clips], np.int16),
        "language": np.array([languages.index(clip[3]) for clip in clips], np.int16),
        "held_back": np.array([is_held_back(clip[2], clip[3]) for clip in clips], np.uint8),
    }
    meta = {"version": VERSION, "seed": seed, "voices": voices, "languages": languages, "classes": CLASSES}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"phones": json.dumps(meta, ensure_ascii=False)})
    partial.replace(path)  # a reader never sees half a file
    log.info("%s: %d utterances, %.1f minutes", path, len(clips), len(tensors["power"]) / 25 / 60)


def is_held_back(voice: str, language: str) -> bool:
    """Whether clips with this voice or language are kept for validation."""
    return voice in HELD_BACK_VOICES or language in HELD_BACK_LANGUAGES


def load_corpus(path: Path) -> list[PhoneClip]:
    """Clips of a file that `build_corpus` wrote. Raises UserError for a missing, foreign or outdated file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No phone corpus at {path}. Make one with build_corpus(path).")
    foreign = f"{path} is no phone corpus of this version. Make a new one with build_corpus(path)."
    try:
        with safe_open(path, "numpy") as file:
            meta = json.loads((file.metadata() or {}).get("phones", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(foreign) from error
    if tuple(meta.get("classes", ())) != CLASSES:
        raise UserError(foreign)
    starts = tensors["starts"]
    return [
        PhoneClip(
            tensors["power"][start:stop],
            tensors["classes"][start:stop],
            meta["voices"][tensors["voice"][index]],
            meta["languages"][tensors["language"][index]],
            bool(tensors["held_back"][index]),
        )
        for index, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True))
    ]
