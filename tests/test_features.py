import numpy as np
import pytest
import torch

from fd2talk_core.audio.encoder import HALO, FeatureProjection, MelEncoder
from fd2talk_core.audio.features import BINS, FRAME_SAMPLES, PER_FRAME, feature_frames, log_mel, measure_loudness


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    envelope = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    tone = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20))
    return (0.1 * envelope * tone + 1e-4 * rng.standard_normal(len(time))).astype(np.float32)


def test_shape_covers_every_sample():
    for n in (1, 639, 640, 641, 16000):
        assert log_mel(np.zeros(n, np.float32)).shape == (feature_frames(n), PER_FRAME, BINS)
    assert feature_frames(16000) == 25


def test_frame_holds_the_sound_of_its_own_40_ms():
    samples = np.zeros(40 * FRAME_SAMPLES, np.float32)
    samples[20 * FRAME_SAMPLES : 21 * FRAME_SAMPLES] = speech_like(0.04 * 4)[-FRAME_SAMPLES:] + 0.1
    energy = log_mel(samples).mean((1, 2))
    assert energy.argmax() == 20
    assert energy[18] == pytest.approx(energy[0]) and energy[22] == pytest.approx(energy[0])


def test_click_in_the_middle_is_seen_symmetrically():
    samples = np.zeros(10 * FRAME_SAMPLES, np.float32)
    samples[5 * FRAME_SAMPLES + FRAME_SAMPLES // 2] = 0.5
    columns = log_mel(samples)[5].mean(-1)
    assert np.allclose(columns, columns[::-1], atol=0.1)


def test_loudness_does_not_matter():
    samples = speech_like(2)
    reference = log_mel(samples)
    assert np.abs(log_mel(samples * 0.4) - reference).max() < 1e-3


def test_pieces_equal_the_whole():
    samples = speech_like(3)
    whole, level = log_mel(samples), measure_loudness(samples)
    pieces = np.concatenate([log_mel(samples, a, b - a, level) for a, b in ((0, 7), (7, 50), (50, 75))])
    assert np.allclose(pieces, whole, atol=1e-5)


def test_outside_is_silence():
    samples = speech_like(1)
    features = log_mel(samples, -30, 100)
    assert np.array_equal(features[0], log_mel(np.zeros(16000, np.float32))[3])
    assert np.allclose(features[30:55], log_mel(samples), atol=1e-6)
    assert np.array_equal(features[-1], features[0])


def silence_features() -> np.ndarray:
    return log_mel(np.zeros(3200, np.float32))


@pytest.mark.parametrize("decibels", [-80, -60, -40, -20])
def test_steady_noise_is_silence(decibels):
    noise = np.random.default_rng(0).standard_normal(32000).astype(np.float32) * 10 ** (decibels / 20)
    assert np.abs(log_mel(noise)[1:-1] - silence_features()[1]).mean() < 0.05


def test_noise_in_pauses_is_gated_and_speech_kept():
    samples = speech_like(2)
    noise = 2e-4 * np.random.default_rng(0).standard_normal(64000).astype(np.float32)
    noise[16000:48000] += samples
    features = log_mel(noise)
    assert np.abs(features[3:22] - silence_features()[1]).mean() < 0.05
    voiced = log_mel(samples).mean((1, 2)) > 0.5
    assert np.abs(features[25:75][voiced] - log_mel(samples)[voiced]).mean() < 0.3


def test_encoder_token_sees_only_its_halo():
    torch.manual_seed(0)
    encoder = MelEncoder(48).eval()
    mel = torch.randn(1, 60, PER_FRAME, BINS)
    changed = mel.clone()
    changed[:, 30] += 5
    moved = (encoder(mel) - encoder(changed)).abs().amax((0, 2)) > 1e-6
    assert moved[30] and not moved[: 30 - HALO].any() and not moved[31 + HALO :].any()
    assert encoder(mel).shape == (1, 60, 48)
    assert torch.allclose(encoder(mel)[:, 20:40], encoder(mel[:, 20 - HALO : 40 + HALO])[:, HALO:-HALO], atol=1e-5)


def test_feature_projection_shape():
    assert FeatureProjection(768, 32)(torch.randn(2, 7, 768)).shape == (2, 7, 32)
