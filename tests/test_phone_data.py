"""Synthesised speech with known phones: mapping of IPA, articulation table, timing and the corpus file."""

import ctypes
import shutil

import numpy as np
import pytest

from fd2talk_core.errors import UserError
from fd2talk_core.training import phone_data
from fd2talk_core.training.phone_data import Phones, is_held_back, load_corpus, measure_clip, speak_espeak, speak_flite
from fd2talk_core.training.phone_text import SENTENCES, random_text
from fd2talk_core.training.phonetics import (
    CLASSES,
    FEATURE_NAMES,
    FEATURES,
    INDEX,
    SILENCE,
    classes_of_arpabet,
    classes_of_ipa,
)

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


def feature(name):
    return FEATURES[:, FEATURE_NAMES.index(name)]


@pytest.mark.parametrize(
    ("ipa", "names"),
    [
        ("p", "p"),
        ("tʃ", "tʃ"),
        ("aɪ", "a ɪ"),
        ("ɜː", "ɜ"),
        ("ɔ̃", "ɔ"),
        ("ɐ̃ʊ̃", "a ʊ"),
        ("th", "t"),
        ("ts.h", "tʃ"),
        ("tʲ", "t"),
        ("ja", "j a"),
        ("pf", "p f"),
        ("ɯᵝ", "ɯ"),
        ("ɡ", "g"),
        ("h", "h"),
        ("(en)", ""),
        ("??", ""),
    ],
)
def test_ipa_comes_down_to_classes(ipa, names):
    assert [CLASSES[c] for c in classes_of_ipa(ipa)] == names.split()


def test_arpabet_comes_down_to_classes():
    assert [CLASSES[c] for c in classes_of_arpabet("aw")] == ["a", "ʊ"]
    assert classes_of_arpabet("pau") == [SILENCE]
    assert classes_of_arpabet("nonsense") == []


def test_articulation_table_is_sane():
    assert FEATURES.shape == (len(CLASSES), len(FEATURE_NAMES))
    assert FEATURES.min() >= 0 and FEATURES.max() <= 1
    assert {CLASSES[c] for c in np.flatnonzero(feature("bilabial") == 1)} == {"p", "b", "m"}
    assert {CLASSES[c] for c in np.flatnonzero(feature("labiodental") == 1)} == {"f", "v"}
    assert np.flatnonzero(feature("silence")).tolist() == [SILENCE]
    assert feature("jaw")[INDEX["a"]] > feature("jaw")[INDEX["e"]] > feature("jaw")[INDEX["i"]]
    assert feature("round")[INDEX["u"]] > 0.8 > 0.2 > feature("round")[INDEX["i"]]
    # No two classes look and sound the same to the model.
    assert len(np.unique(FEATURES, axis=0)) >= len(CLASSES) - 4


def test_targets_are_taken_in_the_middle_of_20_ms():
    sound = np.sin(np.arange(16000) * 0.3).astype(np.float32) * 0.3
    phones = Phones(np.array([0.0, 0.249, 0.531]), np.array([SILENCE, INDEX["a"], INDEX["m"]]))
    power, classes = measure_clip(sound, phones)
    assert power.shape == (25, 4, 80) and power.dtype == np.float16
    assert classes.shape == (25, 2) and classes.dtype == np.int8
    flat = classes.reshape(-1)
    assert np.flatnonzero(flat == INDEX["a"]).tolist() == list(range(12, 27))  # 0.25 .. 0.53 s
    assert (flat[:12] == SILENCE).all() and (flat[27:] == INDEX["m"]).all()


def test_silence_makes_no_clip():
    assert measure_clip(np.zeros(16000, np.float32), Phones(np.array([0.0]), np.array([SILENCE]))) is None


def test_text_is_random_and_repeatable():
    for language in SENTENCES:
        texts = [random_text(np.random.default_rng(seed), language) for seed in range(12)]
        assert texts == [random_text(np.random.default_rng(seed), language) for seed in range(12)]
        assert len(set(texts)) > 6 and all(texts)


def _edges(sound, phones):
    """Lag in 20-ms steps, + = sound later, at which the rise of the low bands fits the voiced phones best."""
    power, classes = measure_clip(sound, phones)
    energy = np.diff(power.astype(np.float32).reshape(-1, 2, 80)[..., 2:20].mean((1, 2)).clip(-2))
    voiced = np.diff((feature("voiced") > 0.9).astype(float)[classes.reshape(-1).astype(int)])
    return max(range(-6, 7), key=lambda lag: (voiced[6:-6] * energy[6 + lag : len(energy) - 6 + lag]).sum())


@needs_espeak
@pytest.mark.parametrize("voice", ["en-us", "de+m3", "fr+klatt", "ja"])  # f3 and m2 have an echo
def test_espeak_says_when_each_phone_sounds(voice):
    language = "en" if voice == "en-us" else voice[:2]
    sound, phones = speak_espeak(" ".join(SENTENCES[language][:4]), voice)
    assert abs(_edges(sound, phones)) <= 1
    power, classes = measure_clip(sound, phones)
    loud = power.astype(np.float32).reshape(-1, 2, 80).max((1, 2))
    # The last 20 ms beside a sound may hold a bit of it.
    inside = np.convolve(classes.reshape(-1) == SILENCE, np.ones(3), "same") == 3
    assert inside.sum() > 10 and np.median(loud[inside]) < -3


@needs_espeak
def test_a_stop_begins_with_its_closure():
    sound, phones = speak_espeak("papa papa papa", "es")
    power, classes = measure_clip(sound, phones)
    energy = power.astype(np.float32).reshape(-1, 2, 80).mean((1, 2))
    closed, vowel = (energy[classes.reshape(-1) == INDEX[name]] for name in "pa")
    # Without the correction the five closures would be counted with the vowels.
    assert (closed < -4).sum() >= 5 and (vowel > -2).all()


@needs_flite
@pytest.mark.parametrize("stretch", [0.8, 1.4])
def test_flite_says_when_each_phone_sounds(stretch):
    sound, phones = speak_flite("Papa said nothing about seven black sheep.", "rms", stretch)
    assert phones.starts[-1] < len(sound) / 16000 < phones.starts[-1] + 1
    assert abs(_edges(sound, phones)) <= 1
    power, classes = measure_clip(sound, phones)
    flat = power.astype(np.float32).reshape(-1, 2, 80).mean(1)
    hiss = flat[classes.reshape(-1) == INDEX["s"]].mean(0)
    assert hiss[60:].mean() > hiss[2:20].mean() + 2


@needs_espeak
@needs_flite
def test_corpus_comes_back_and_its_seed_draws_the_same_voices(tmp_path):
    drawn = []
    for seed in (3, 3, 4):
        path = tmp_path / "phones.safetensors"
        phone_data.build_corpus(path, 0.2, seed=seed, workers=1)
        clips = load_corpus(path)
        assert sum(map(len, clips)) / 1500 >= 0.2
        for clip in clips:
            assert clip.power.shape == (len(clip), 4, 80) and clip.classes.shape == (len(clip), 2)
            assert 0 <= clip.classes.min() and clip.classes.max() < len(CLASSES)
            assert clip.held_back == is_held_back(clip.voice, clip.language)
        drawn.append([(clip.voice, clip.language) for clip in clips][:2])
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_is_held_back():
    assert is_held_back("espeak:m1", "ko") and is_held_back("flite:rms", "en")
    assert not is_held_back("espeak:m1", "de")


def test_missing_programs_and_files_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="build_corpus"):
        load_corpus(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a corpus")
    with pytest.raises(UserError, match="build_corpus"):
        load_corpus(tmp_path / "bad.safetensors")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install espeak-ng flite"):
        speak_flite("hello", "slt")

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(UserError, match="apt-get install espeak-ng flite"):
        phone_data.Espeak()


@needs_espeak
def test_unknown_voice_says_what_to_do():
    with pytest.raises(UserError, match="--voices"):
        speak_espeak("hello", "xx-nowhere")
