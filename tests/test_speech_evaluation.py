import csv

import numpy as np
import pytest
import soundfile
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.evaluation import speech
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.clip import MotionClip

RATE, FRAME = 16_000, 640


def vowel(seconds, pitch=120.0):
    """A buzz with harmonics, as voices have them."""
    time = np.arange(int(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20)).astype(np.float32) * 0.1


def hiss(seconds, level=0.1):
    return np.random.default_rng(0).normal(0, level, int(seconds * RATE)).astype(np.float32)


def nothing(seconds):
    return np.zeros(int(seconds * RATE), np.float32)


def test_voice_activity_hears_voices_and_not_hiss_or_silence():
    sound = np.concatenate([vowel(1), nothing(1), hiss(1)])
    activity = speech.voice_activity(sound, 75)
    assert activity[2:23].min() > 0.9 and activity[27:50].max() == 0 and activity[52:].mean() < 0.1


def test_pauses_are_where_nothing_is_said():
    sound = np.concatenate([vowel(1), nothing(0.8), hiss(1, 0.05), nothing(0.2), vowel(0.6)])
    ((start, stop),) = speech.pauses(sound, len(sound) // FRAME)
    assert abs(start - 25) <= 1 and abs(stop - 45) <= 1


def test_closing_frames_counts_from_the_end_of_speech():
    opening = np.r_[np.full(25, 0.2), [0.2, 0.1], np.full(20, 0.01), np.full(10, 0.2)]
    assert speech.closing_frames(opening, [(25, 47)]) == 2
    assert speech.closing_frames(np.full(57, 0.2), [(25, 47)]) == 22
    assert np.isnan(speech.closing_frames(opening, []))


def test_above_chance_tells_what_follows_from_what_does_not():
    rng = np.random.default_rng(0)
    voice = np.convolve(rng.normal(0, 1, 400), np.ones(5), "same")
    assert speech.above_chance(voice + rng.normal(0, 2, 400), voice) == 1
    assert speech.above_chance(np.roll(voice, 100), voice) < 0.9
    assert speech.above_chance(-voice, voice) < 0.01
    assert np.isnan(speech.above_chance(voice[:40], voice[:40])) and np.isnan(speech.above_chance(0 * voice, voice))


def test_noise_has_the_asked_ratio_and_babble_varies():
    clean = np.concatenate([vowel(2), nothing(2)])
    noise = speech.babble([vowel(1, 110), hiss(1), vowel(0.7, 200)], len(clean), np.random.default_rng(0))
    assert np.sqrt((noise**2).mean()) == pytest.approx(1, rel=1e-3)
    mixed = speech.add_noise(clean, noise, 0.0)
    scale = mixed[-1000:] @ noise[-1000:] / (noise[-1000:] @ noise[-1000:])
    # Silence does not count: speech alone has the level that noise is compared with.
    assert scale == pytest.approx(np.sqrt((vowel(2) ** 2).mean()), rel=0.05)
    assert np.abs(speech.add_noise(clean, noise, -40.0)).max() <= 1


@pytest.fixture
def folder(tmp_path):
    sounds = tmp_path / "voices"
    sounds.mkdir()
    for name, pitch in (("de_a.wav", 110), ("fr_b.wav", 180), ("strange.wav", 140)):
        soundfile.write(sounds / name, np.concatenate([vowel(1, pitch), nothing(1), vowel(1, pitch)]), RATE)
    with open(tmp_path / "voices_manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "language"), ("fr_b.wav", "French")])
    return sounds


def follower(gains):
    """Stands for `generate_motion`: a jaw that opens with the level, more or less per call, and nods and blinks."""
    face_model, calls = FaceModel.load(), iter(gains)

    def generate(model, samples, fps, **settings):
        count = len(samples) // FRAME
        level = np.sqrt((samples[: count * FRAME].reshape(count, FRAME) ** 2).mean(1))
        trembling = 1 + 0.5 * np.sin(np.arange(count))
        jaw = torch.from_numpy(np.clip(level / level.max(), 0, 1) * trembling * next(calls)).float()
        beta = jaw[:, None] * face_model.controls["jaw_open"] - 0.3 * face_model.controls["jaw_open"]
        return MotionClip(beta, torch.zeros(count, 6), fps, face_model.hash)

    return generate


def test_speech_rows_tell_a_following_mouth_from_a_collapsed_one(folder, monkeypatch):
    monkeypatch.setattr("fd2talk_core.motion.sampling.generate_motion", follower([1, 1, 0.02]))
    rows = speech.evaluate_speech(folder, None, FaceModel.load())
    assert [row["language"] for row in rows] == ["de", "French", "unknown"]
    assert [row["collapsed"] for row in rows] == [0, 0, 1]
    for row in rows[:2]:
        assert row["opening_correlation"] > 0.8 and row["activity_correlation"] > 0.5 and row["follows"] > 0.9
        assert row["opening_in_speech"] > 2 * row["opening_in_pauses"] and row["closing_frames"] <= 1
        assert row["seconds"] == 3 and row["blinks"] == 0 and row["longest_stare"] == 3


def test_babble_gives_second_rows_and_strength(folder, monkeypatch):
    monkeypatch.setattr("fd2talk_core.motion.sampling.generate_motion", follower([1, 0.5] * 3))
    rows = speech.evaluate_speech(folder, None, FaceModel.load(), babble_db=0.0)
    assert [row["noise"] for row in rows] == ["none", "babble 0 dB"] * 3
    summary = speech.summarise_speech(rows)
    assert summary["all"]["strength"] == 1 and summary["all"]["clips"] == 3
    assert summary["all, babble 0 dB"]["strength"] < 0.8
    assert summary["French"]["clips"] == 1


def test_unusable_folders(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no sound files"):
        speech.find_sounds(empty)
    with pytest.raises(UserError, match="does not exist"):
        speech.find_sounds(tmp_path / "nowhere")
    for name in ("fr_b.wav", "strange.wav"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="only one"):
        speech.evaluate_speech(folder, None, None, babble_db=0.0)
