"""Stage 1 learns on the features of a speech model: a small one of the real class, random, from its folder."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the extra 'train' is not installed")

from fd2talk_core.audio.features import measure_loudness, mel_power  # noqa: E402
from fd2talk_core.face.model import FaceModel  # noqa: E402
from fd2talk_core.motion.lip_expert import LipExpert  # noqa: E402
from fd2talk_core.motion.model import MotionConfig  # noqa: E402
from fd2talk_core.motion.sampling import generate_motion  # noqa: E402
from fd2talk_core.motion.speech_features import SpeechFeatures  # noqa: E402
from fd2talk_core.training import speech_model  # noqa: E402
from fd2talk_core.training.motion import MotionTask  # noqa: E402
from fd2talk_core.training.speech_data import SpeechClip  # noqa: E402

FRAMES = 60
SMALL = MotionConfig(
    audio_width=32, width=48, depth=1, heads=2, pose_width=32, pose_depth=1, pose_heads=2, window=20, context=5
)


@dataclass
class Labels:
    valid: np.ndarray = field(default_factory=lambda: np.r_[np.zeros(3, bool), np.ones(FRAMES, bool)])


class Source:
    """A prepared clip whose longest valid stretch begins at its fourth frame."""

    def __init__(self, name: str, seed: int):
        self.name = name
        time = np.arange((FRAMES + 3) * 640) / 16000
        noise = np.random.default_rng(seed).standard_normal(len(time))
        self._samples = (0.05 * noise * (1 + np.sin(2 * np.pi * 2 * time))).astype(np.float32)

    def samples(self) -> np.ndarray:
        return self._samples

    def labels(self) -> Labels:
        return Labels()


def speech_clip(source: Source, held_back: bool, seed: int, shift: float = 0.0) -> SpeechClip:
    rng = np.random.default_rng(seed)
    expression = rng.normal(0, 0.05, (FRAMES, 64)).astype(np.float32)
    pose = rng.normal(0, 0.02, (FRAMES, 6)).astype(np.float32)
    samples = source.samples()
    power = mel_power(samples, 3, FRAMES) / measure_loudness(samples).speech ** 2
    return SpeechClip(
        source.name, f"person {seed}", held_back, expression, pose, power.reshape(FRAMES, 4, 80), pose[0],
        np.zeros(FRAMES, bool), np.zeros(FRAMES, np.float32), shift,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.Wav2Vec2Config(
        **sizes, conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
    )
    path = tmp_path_factory.mktemp("wav2vec2")
    transformers.Wav2Vec2Model(config).save_pretrained(path)
    return path


def test_stage_1_trains_and_speaks_on_features(folder, tmp_path, monkeypatch):
    sources = [Source(f"clip{i}", i) for i in range(4)]
    monkeypatch.setattr(speech_model, "synced_clips", lambda folders: sources)
    clips = [speech_clip(source, i == 3, i, 1.5 * (i == 1)) for i, source in enumerate(sources)]
    speech = SpeechFeatures.load(folder)
    speech_model.add_features(clips, [tmp_path], speech, tmp_path / "cache")
    assert all(clip.features.shape == (FRAMES, 16) for clip in clips)
    assert len(list((tmp_path / "cache").iterdir())) == 1

    # In step with the picture: frame 0 is three frames into the sound, and 1.5 more where the sound lags.
    assert np.array_equal(speech_model.sound_of(sources[0], 0, 5), sources[0].samples()[1920:5120])
    assert np.array_equal(speech_model.sound_of(sources[1], 1.5, 5), sources[1].samples()[2880:6080])
    assert not speech_model.sound_of(sources[0], -10, 3).any()
    monkeypatch.setattr(SpeechFeatures, "clip_features", lambda *_: pytest.fail("the cache was not used"))
    again = [replace(clip, features=None) for clip in clips]
    speech_model.add_features(again, [tmp_path], speech, tmp_path / "cache")
    assert np.array_equal(again[0].features, clips[0].features)
    monkeypatch.undo()

    expert = LipExpert()
    expert.face_model_hash = FaceModel.load().hash
    task = MotionTask(clips, expert, replace(SMALL, audio_features=speech.width), batch_size=4)
    optimiser = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    before = task.model.motion.audio_encoder.proj.weight.detach().clone()
    losses = []
    for batch, _ in zip(task.batches(), range(12), strict=False):
        loss, _ = task.loss(task.model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < np.mean(losses[:4])
    assert not torch.equal(before, task.model.motion.audio_encoder.proj.weight)
    score, numbers = task.validate(task.model.eval())
    assert np.isfinite(score) and numbers

    model, voice = task.model.motion, sources[3].samples()
    clip = generate_motion(model, voice, steps=2, features=speech.clip_features(voice))
    assert len(clip) == FRAMES + 3 and torch.isfinite(clip.expression).all()
