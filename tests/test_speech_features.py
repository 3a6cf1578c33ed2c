"""Features of big speech models, on the real classes with small random weights."""

import json

import numpy as np
import pytest
import torch

from fd2talk_core.audio.features import feature_frames
from fd2talk_core.errors import UserError
from fd2talk_core.motion import speech_features
from fd2talk_core.motion.model import MotionConfig, MotionModel
from fd2talk_core.motion.sampling import generate_motion
from fd2talk_core.motion.speech_features import SpeechFeatures, from_audio_encoder_output, to_frames

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
MOTION = {
    "audio_width": 32, "width": 48, "depth": 1, "heads": 2, "pose_width": 32, "pose_depth": 1, "pose_heads": 2,
    "window": 20, "context": 5,
}  # fmt: skip


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(round(seconds * 16000)).astype(np.float32)
    return samples * np.linspace(0.02, 0.1, len(samples), dtype=np.float32)


@pytest.fixture(scope="module", params=["Wav2Vec2", "Hubert", "WavLM"])
def model(request):
    transformers = pytest.importorskip("transformers", reason="the extra 'train' is not installed")
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**SIZES)
    return getattr(transformers, f"{request.param}Model")(config)


@pytest.mark.parametrize("samples", [1, 639, 641, 64000, 100_001])
def test_one_vector_per_frame(model, samples):
    features = SpeechFeatures(model).clip_features(noise(7)[:samples])
    assert features.shape == (feature_frames(samples), 32) and np.isfinite(features).all()


def test_padding_gives_two_vectors_per_frame(model):
    wave = torch.from_numpy(noise(4))[None]
    assert model(wave).last_hidden_state.shape[1] == 199
    padded = torch.nn.functional.pad(wave, (40, 40))
    vectors = model.eval()(padded).last_hidden_state
    assert vectors.shape[1] == 200
    expected = vectors[0].unflatten(0, (100, 2)).mean(1).detach().numpy()
    assert np.allclose(SpeechFeatures(model, normalise=False).clip_features(noise(4)), expected, atol=1e-5)


def test_pairs_are_averaged_and_the_end_is_held():
    vectors = torch.arange(5.0)[:, None]
    assert to_frames(vectors, 3)[:, 0].tolist() == [0.5, 2.5, 4.0]


def test_chunks_hardly_show(model, monkeypatch):
    samples = 0.05 * np.random.default_rng(1).standard_normal(12 * 16000).astype(np.float32)
    whole = SpeechFeatures(model).clip_features(samples)
    monkeypatch.setattr(speech_features, "CHUNK", 75)
    monkeypatch.setattr(speech_features, "CONTEXT", 50)
    chunked = SpeechFeatures(model).clip_features(samples)
    error = np.sqrt(((chunked - whole) ** 2).mean()) / whole.std()
    assert chunked.shape == whole.shape and error < 0.05
    shuffled = np.sqrt(((np.roll(chunked, 5, axis=0) - whole) ** 2).mean()) / whole.std()
    assert error < 0.1 * shuffled


def test_loudness_and_offset_do_not_matter_when_normalised(model):
    features = SpeechFeatures(model)
    a, b = features.clip_features(noise(2)), features.clip_features(5 * noise(2) + 0.3)
    assert np.allclose(a, b, atol=0.02)


def test_layers(model):
    features = [SpeechFeatures(model, layer=layer).clip_features(noise(1)) for layer in (0, 2, None)]
    assert np.allclose(features[1], features[2], atol=1e-5) and not np.allclose(features[0], features[1], atol=1e-3)
    with pytest.raises(UserError, match="no layer 3. Use 0 to 2"):
        SpeechFeatures(model, layer=3)


def test_folder_and_back(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False})
    )
    loaded = SpeechFeatures.load(tmp_path)
    assert loaded.width == 32 and not loaded.normalise
    expected = SpeechFeatures(model, normalise=False).clip_features(noise(1))
    assert np.allclose(loaded.clip_features(noise(1)), expected, atol=1e-5)


def test_what_is_no_speech_model_is_told(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra 'train' is not installed")
    with pytest.raises(UserError, match="holds no speech model"):
        SpeechFeatures.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        SpeechFeatures.load(tmp_path)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=10
    )
    with pytest.raises(UserError, match="type 'bert'"):
        SpeechFeatures(transformers.BertModel(config))


@pytest.mark.parametrize("bad", [np.zeros(0, np.float32), np.full(1000, np.nan, np.float32), np.zeros((2, 9))])
def test_bad_audio_is_told(model, bad):
    with pytest.raises(UserError, match="finite samples"):
        SpeechFeatures(model).clip_features(bad)


def test_motion_runs_on_them(model):
    """From the voice through the speech model to motion, in as many frames as without it."""
    motion = MotionModel(MotionConfig(**MOTION, audio_features=32)).eval()
    for name, parameter in motion.named_parameters():
        if "adaLN" in name or "modulation" in name or "final_layer" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    voice = noise(2)
    features = SpeechFeatures(model).clip_features(voice)
    clip = generate_motion(motion, voice, features=features, steps=2, guidance=1.0)
    assert len(clip) == 50
    other = generate_motion(motion, voice, features=features[::-1].copy(), steps=2, guidance=1.0)
    assert not torch.allclose(clip.expression, other.expression)
    with pytest.raises(UserError, match="cover 40 frames, but the audio has 50"):
        generate_motion(motion, voice, features=features[:40])


def comfy_output(vectors: int, samples: int, width: int = 8, batch: int = 1) -> dict:
    ramp = torch.arange(float(vectors))[None, :, None].expand(batch, -1, width)
    return {"encoded_audio": ramp, "encoded_audio_all_layers": (ramp,), "audio_samples": samples}


def test_audio_encoder_output():
    assert from_audio_encoder_output(comfy_output(199, 64000)).shape == (100, 8)
    assert from_audio_encoder_output(comfy_output(199, 64000))[:2, 0].tolist() == [0.5, 2.5]
    whisper = from_audio_encoder_output(comfy_output(1500, 48000, 1280))
    assert whisper.shape == (75, 1280) and whisper[-1, 0] == 148.5
    assert from_audio_encoder_output(comfy_output(199, 64000), frames=99).shape == (99, 8)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({}, "no encoded audio"),
        (None, "no encoded audio"),
        ({"encoded_audio": torch.zeros(3, 4)}, "no encoded audio"),
        (comfy_output(10, 3200, batch=2), "2 clips"),
        ({"encoded_audio": torch.zeros(1, 10, 8)}, "how long"),
        (comfy_output(1500, 16000 * 45), "read 30.0 s of 45.0 s"),
    ],
)
def test_other_outputs_are_told(output, words):
    with pytest.raises(UserError, match=words):
        from_audio_encoder_output(output)
