import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fd2talk_core.audio.loading import SAMPLE_RATE, frame_count, load_audio, load_mono_16k, open_mono_16k, to_mono_16k
from fd2talk_core.errors import UserError

ROOT = Path(__file__).parents[1]


def sine(rate, seconds=1.0, hertz=440.0, channels=1):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def strongest_hertz(samples, rate=SAMPLE_RATE):
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_become_mono_16k(tmp_path, rate, channels):
    soundfile.write(tmp_path / "a.wav", sine(rate, channels=channels).T, rate)
    samples, found = load_audio(tmp_path / "a.wav")
    assert found == rate and samples.shape == (channels, rate) and samples.dtype == np.float32
    mono = to_mono_16k(samples, found)
    assert mono.shape == (SAMPLE_RATE,) and mono.dtype == np.float32
    assert strongest_hertz(mono) == pytest.approx(440, abs=2)
    assert np.abs(mono).max() == pytest.approx(0.5, abs=0.02)


def test_flac_and_integer_samples(tmp_path):
    soundfile.write(tmp_path / "a.flac", sine(16000)[0], 16000, subtype="PCM_16")
    samples, _ = load_audio(tmp_path / "a.flac")
    assert np.abs(samples).max() == pytest.approx(0.5, abs=1e-3)


def test_one_dimension_is_mono_and_offset_is_removed():
    assert abs(to_mono_16k(sine(16000)[0] + 0.3, 16000).mean()) < 1e-6


def test_silence_is_accepted():
    assert not to_mono_16k(np.zeros((2, 48000), np.float32), 48000).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number_is_an_error(tmp_path, bad):
    wave = sine(16000)
    wave[0, 100] = bad
    soundfile.write(tmp_path / "a.wav", wave.T, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="not numbers.*Export it again"):
        to_mono_16k(*load_audio(tmp_path / "a.wav"))


@pytest.mark.parametrize("samples", [0, 1, 3199])
def test_too_short_is_an_error(samples):
    with pytest.raises(UserError, match="shorter than 0.2 s. Use a longer recording"):
        to_mono_16k(np.zeros(samples, np.float32), 16000)


def test_rate_zero_is_an_error():
    with pytest.raises(UserError, match="sample rate is 0"):
        to_mono_16k(np.zeros(16000, np.float32), 0)


def test_what_is_not_sound_is_an_error(tmp_path):
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(UserError, match="a.wav cannot be read as sound"):
        load_audio(tmp_path / "a.wav")
    with pytest.raises(UserError, match="missing.wav cannot be read as sound"):
        load_audio(tmp_path / "missing.wav")


@pytest.mark.parametrize("fps", [1, 12, 23.976, 24, 25, 29.97, 30, 59.94, 60])
@pytest.mark.parametrize("duration", [0.2, 1.0, 3.33, 6.645, 60.02])
def test_frames_and_sound_end_within_half_a_frame(duration, fps):
    frames = frame_count(duration, fps)
    assert frames >= 1
    if duration * fps >= 0.5:
        assert abs(frames / fps - duration) <= 0.5 / fps + 1e-9


def speech_like(rate, seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(rate * seconds)) / rate
    wave = np.sin(2 * np.pi * 150 * time) * (np.sin(2 * np.pi * 3 * time) > 0) + 0.05 * rng.standard_normal(len(time))
    return (0.3 * wave).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 192000])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_reading_in_blocks_gives_the_same_samples(tmp_path, rate, name):
    """However the format cuts the file into packets, and wherever the samples are kept."""
    wave = np.stack([speech_like(rate, 4.7), speech_like(rate, 4.7, 1)])
    if name == "a.ogg" and rate == 192000:
        pytest.skip("Vorbis ends at 96 kHz here")
    soundfile.write(tmp_path / name, wave.T, rate)
    expected = to_mono_16k(*load_audio(tmp_path / name))
    assert abs(len(expected) - 4.7 * 16000) < 10
    assert np.array_equal(load_mono_16k(tmp_path / name), expected)
    recording = open_mono_16k(tmp_path / name)
    assert len(recording) == recording.size == len(expected) and recording.shape == expected.shape
    assert np.array_equal(recording[:], expected)
    for part in (slice(100, 2000), slice(70_000, None), slice(50, 10), slice(-500, -100), slice(10**6, 10**7)):
        assert np.array_equal(recording[part], expected[part])
    with pytest.raises(ValueError, match="without steps"):
        recording[::2]


@pytest.mark.parametrize("rate", [16000, 44100])
def test_number_format_and_doubled_channels_change_nothing(tmp_path, rate):
    wave = (speech_like(rate, 3) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "int.wav", wave, rate, subtype="PCM_16")
    soundfile.write(tmp_path / "float.wav", wave / np.float32(32768), rate, subtype="FLOAT")
    soundfile.write(tmp_path / "stereo.wav", np.stack([wave, wave], 1), rate, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", wave, rate, subtype="PCM_16")
    expected = to_mono_16k(wave, rate)  # integers straight from memory
    for name in ("int.wav", "float.wav", "stereo.wav", "a.flac"):
        assert np.array_equal(load_mono_16k(tmp_path / name), expected), name


def test_resampling_agrees_with_librosa(tmp_path):
    import librosa

    wave = speech_like(44100, 3)
    expected = librosa.resample(wave - wave.mean(), orig_sr=44100, target_sr=16000)
    assert np.abs(to_mono_16k(wave, 44100) - expected).max() < 2e-4


@pytest.mark.parametrize("rate", [16000, 48000])
def test_an_offset_leaves_no_click(rate):
    wave = speech_like(rate, 3)
    assert np.abs(to_mono_16k(wave + 0.4, rate) - to_mono_16k(wave, rate)).max() < 1e-3


def test_blocks_raise_the_same_errors(tmp_path):
    (tmp_path / "a.wav").write_text("no sound")
    for load in (load_mono_16k, open_mono_16k):
        with pytest.raises(UserError, match="a.wav cannot be read as sound"):
            load(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.zeros(100, np.float32), 16000)
    with pytest.raises(UserError, match="shorter than 0.2 s"):
        load_mono_16k(tmp_path / "b.wav")
    assert len(load_mono_16k(tmp_path / "b.wav", min_seconds=0)) == 100


def test_long_studio_sound_takes_little_memory(tmp_path):
    """Memory of decoding in another process, minus that of a short file: the samples would take 460 MB."""
    sizes = []
    for minutes in (0.5, 5):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 192000, 2, "PCM_16") as file:
            for _ in range(round(minutes * 6)):
                file.write(np.zeros((1_920_000, 2), np.int16))
        code = (
            "import sys, resource; from fd2talk_core.audio.loading import open_mono_16k; "
            f"n = len(open_mono_16k({str(path)!r})); "
            "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        samples, megabytes = map(int, out.split())
        assert samples == minutes * 60 * 16000
        sizes.append(megabytes)
    assert sizes[1] - sizes[0] < 20
