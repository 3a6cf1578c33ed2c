import numpy as np
import pytest
import soundfile

from fd2talk_core.audio.loading import SAMPLE_RATE, frame_count, load_audio, to_mono_16k
from fd2talk_core.errors import UserError


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
