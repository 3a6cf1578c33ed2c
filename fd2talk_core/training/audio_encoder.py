"""Pretraining of the audio encoder: which phone is spoken, and what it does with the mouth, in voices of synthesisers.

The one recorded talker with hours of video would teach his own voice; phones are what all voices share.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..audio.encoder import HALO, MelEncoder
from ..audio.features import normalise
from ..errors import UserError
from ..motion.model import MotionConfig
from .augment import augment
from .loop import TrainSettings
from .phone_data import PhoneClip, build_corpus, load_corpus
from .phonetics import CLASSES, FEATURES, SILENCE

SETTINGS = TrainSettings(
    steps=100_000, minutes=20.0, lr=2e-3, warmup=150, weight_decay=0.02, ema=0.998, bf16=True, validate_minutes=3.0,
    log_steps=100,
)  # fmt: skip
LENGTH = 75
VALIDATED = 150
PER_TOKEN = 2  # phones are labelled at 50 Hz


class PhoneHead(nn.Module):
    """Reads phones from audio tokens: logits of the two halves of each frame, and articulation. Not kept."""

    def __init__(self, width: int):
        super().__init__()
        self.classes = nn.Linear(width, PER_TOKEN * len(CLASSES))
        self.features = nn.Linear(width, PER_TOKEN * FEATURES.shape[1])
        self.register_buffer("table", torch.from_numpy(FEATURES), persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, width) -> logits (B, T, 2, K) and articulatory features (B, T, 2, F)."""
        return self.classes(tokens).unflatten(-1, (PER_TOKEN, -1)), self.features(tokens).unflatten(-1, (PER_TOKEN, -1))

    def loss(self, tokens: Tensor, phones: Tensor) -> Tensor:
        """Cross-entropy of the classes and squared error of their articulation. phones: (B, T, 2) class indices."""
        logits, features = (x.float() for x in self(tokens))
        classes = F.cross_entropy(logits.flatten(0, -2), phones.flatten(), label_smoothing=0.05)
        return classes + 2 * F.mse_loss(features, self.table[phones])


class PhoneWindows:
    """Random windows of an endless tape of utterances, with augmentation."""

    def __init__(self, clips: list[PhoneClip], length: int, seed: int = 0):
        self.clips = [clip for clip in clips if not clip.held_back]
        self.length, self.rng = length, np.random.default_rng(seed + 1)
        if not self.clips:
            raise UserError("The phone corpus has no utterances to train on. Build it again with more minutes.")

    def window(self) -> tuple[np.ndarray, np.ndarray]:
        """(features float32 (L, 4, 80), class indices int64 (L, 2))."""
        powers, phones, have = [], [], 0
        while have < self.length:
            clip = self.clips[self.rng.integers(len(self.clips))]
            skip = int(self.rng.integers(0, max(1, len(clip) // 2))) if not powers else 0
            powers.append(clip.power[skip:])
            phones.append(clip.classes[skip:])
            have += len(powers[-1])
        power, phone = np.concatenate(powers)[: self.length], np.concatenate(phones)[: self.length]
        return augment(10.0 ** power.astype(np.float32), self.rng), phone.astype(np.int64)

    def batch(self, size: int) -> dict[str, Tensor]:
        drawn = [self.window() for _ in range(size)]
        return {
            "phone_mel": torch.from_numpy(np.stack([mel for mel, _ in drawn])).float(),
            "phones": torch.from_numpy(np.stack([phones for _, phones in drawn])),
        }


class _Pretraining(nn.Module):
    def __init__(self, encoder: MelEncoder, width: int):
        super().__init__()
        self.encoder, self.head = encoder, PhoneHead(width)

    def forward(self, mel: Tensor) -> Tensor:
        return self.encoder(mel)[:, HALO:-HALO]


class AudioEncoderTask:
    name = "audio_encoder"

    def __init__(self, clips: list[PhoneClip], config: MotionConfig, batch_size: int, seed: int = 0):
        encoder = MelEncoder(config.audio_width, config.audio_blocks, config.audio_stem, config.audio_stem_blocks)
        self.model = _Pretraining(encoder, config.audio_width)
        self.batch_size, self.windows = batch_size, PhoneWindows(clips, LENGTH + 2 * HALO, seed)
        held = [clip for clip in clips if clip.held_back and len(clip) > 3 * HALO]
        self.held = held[:: max(1, len(held) // VALIDATED)]

    def batches(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.windows.batch(self.batch_size)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        phones = batch["phones"][:, HALO:-HALO]
        loss = self.model.head.loss(model(batch["phone_mel"]), phones)
        return loss, {}

    def validate(self, model: _Pretraining) -> tuple[float, dict[str, float]]:
        """Share of 20-ms steps whose phone is told right, in voices and languages that training left out."""
        right = voiced = features = 0.0
        for clip in self.held:
            mel = torch.from_numpy(normalise(10.0 ** clip.power.astype(np.float32), 1.0))[None]
            mel = mel.to(next(model.parameters()).device)
            logits, found = model.head(model(mel))
            phones = torch.from_numpy(clip.classes.astype(np.int64))[HALO:-HALO]
            hit = (logits[0].argmax(-1).cpu() == phones).float()
            right += float(hit.mean())
            voiced += float(hit[phones != SILENCE].mean()) if (phones != SILENCE).any() else 0.0
            features += float((found[0].cpu() - torch.from_numpy(FEATURES)[phones]).abs().mean())
        count = max(len(self.held), 1)
        numbers = {"accuracy": right / count, "speech_accuracy": voiced / count, "articulation_error": features / count}
        return 1 - numbers["accuracy"], numbers

    def export(self, model: _Pretraining, path: Path, provenance: dict) -> None:
        tensors = {f"encoder.{k}": v.contiguous() for k, v in model.encoder.state_dict().items()}
        tensors |= {f"head.{k}": v.contiguous() for k, v in model.head.state_dict().items()}
        save_file(tensors, path, {"kind": "fd2talk.audio_encoder", "provenance": str(provenance)})


def load_pretrained(encoder: MelEncoder, head: PhoneHead | None, path: str | Path) -> None:
    """Put pretrained weights into an audio encoder, and its phone head when one is given."""
    if not Path(path).is_file():
        raise UserError(f"The pretrained audio encoder {path} does not exist. Run `fd2talk train audio-encoder` first.")
    tensors = load_file(path)
    for name, module in (("encoder", encoder), ("head", head)):
        if module is not None:
            module.load_state_dict({k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")})


def phone_corpus(cache: Path, minutes: float = 180.0) -> list[PhoneClip]:
    """The corpus of synthesised speech, made on first use and kept in `cache`."""
    path = cache / "phones.safetensors"
    if not path.is_file():
        build_corpus(path, minutes, 0)
    return load_corpus(path)


def make_task(
    folders: list[Path], batch_size: int = 32, cache: Path | None = None, seed: int = 0, scale: str = "shipped",
    phone_minutes: float = 180.0,
) -> AudioEncoderTask:  # fmt: skip
    """folders: prepared clips; only the cache beside them is used. phone_minutes: of speech to synthesise once."""
    config = MotionConfig.shipped() if scale == "shipped" else MotionConfig.paper_scale()
    cache = cache or Path(folders[0]).parent / "cache"
    return AudioEncoderTask(phone_corpus(cache, phone_minutes), config, batch_size, seed)
