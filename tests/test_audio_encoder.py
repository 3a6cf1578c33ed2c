"""Pretraining of the audio encoder on phones."""

import numpy as np
import pytest
import torch

from fd2talk_core.audio.encoder import HALO, MelEncoder
from fd2talk_core.errors import UserError
from fd2talk_core.motion.model import MotionConfig
from fd2talk_core.training.audio_encoder import AudioEncoderTask, PhoneHead, PhoneWindows, load_pretrained
from fd2talk_core.training.phone_data import PhoneClip

SMALL = MotionConfig(audio_width=32, audio_blocks=1, audio_stem=24, audio_stem_blocks=1)


def corpus(clips: int = 8, frames: int = 60) -> list[PhoneClip]:
    """Sounds of three made-up phones, each loud in a band of its own."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(clips):
        classes = np.repeat(rng.integers(0, 3, frames // 3), 6).reshape(frames, 2).astype(np.int8)
        logs = np.full((frames * 2, 2, 80), -5.0)
        for k, phone in enumerate(classes.reshape(-1)):
            logs[k, :, 25 * phone : 25 * phone + 20] = 2.0
        power = logs.reshape(frames, 4, 80).astype(np.float16)
        made.append(PhoneClip(power, classes, "espeak:m1", "en", held_back=index == 0))
    return made


def test_windows_hold_sound_and_phones_of_training_clips_only():
    windows = PhoneWindows(corpus(), 100)
    batch = windows.batch(3)
    assert batch["phone_mel"].shape == (3, 100, 4, 80) and batch["phones"].shape == (3, 100, 2)
    assert batch["phones"].dtype == torch.int64 and torch.isfinite(batch["phone_mel"]).all()
    assert len(windows.clips) == 7


def test_corpus_without_training_clips_is_an_error():
    with pytest.raises(UserError, match="no utterances"):
        PhoneWindows(corpus(1), 100)


def test_encoder_learns_phones():
    torch.manual_seed(0)
    task = AudioEncoderTask(corpus(), SMALL, batch_size=4)
    batches = task.batches()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=5e-3)

    def accuracy() -> float:
        with torch.no_grad():
            return task.validate(task.model.eval())[1]["accuracy"]

    before = accuracy()
    task.model.train()
    for _ in range(40):
        loss, _ = task.loss(task.model, next(batches))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before < 0.3 and accuracy() > 0.8


def test_pretrained_weights_come_back(tmp_path):
    task = AudioEncoderTask(corpus(), SMALL, batch_size=2)
    path = tmp_path / "encoder.safetensors"
    task.export(task.model, path, {})
    task.model.eval()
    encoder, head = MelEncoder(32, 1, 24, 1).eval(), PhoneHead(32)
    load_pretrained(encoder, head, path)
    mel = torch.randn(1, 30 + 2 * HALO, 4, 80)
    assert torch.equal(encoder(mel), task.model.encoder(mel))
    with pytest.raises(UserError, match="does not exist"):
        load_pretrained(encoder, None, tmp_path / "missing.safetensors")
