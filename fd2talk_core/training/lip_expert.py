"""Training of the lip expert: audio and mouth windows of the same moment attract, all others repel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..audio.features import normalise
from ..face.model import FaceModel
from ..motion.lip_expert import WINDOW, LipExpert, LipExpertConfig
from .augment import augment
from .loop import TrainSettings
from .speech_data import SpeechClip, WindowSampler, load_speech

SETTINGS = TrainSettings(
    steps=20_000, minutes=3.0, lr=2e-3, warmup=100, weight_decay=0.05, ema=0.998, bf16=False, validate_minutes=1.0,
    log_steps=100,
)  # fmt: skip
LENGTH = 40
OFFSETS = 15


def offset_scores(expert: LipExpert, clip: SpeechClip, farthest: int = OFFSETS) -> Tensor:
    """Mean similarity of a clip's motion with its audio `farthest` frames earlier .. later, (2 farthest + 1,)."""
    expression = torch.from_numpy(clip.expression)[None]
    mel = torch.from_numpy(normalise(clip.power, 1.0))[None]
    similarity = expert(expression, mel)[0]
    return torch.stack([similarity.diagonal(k).mean() for k in range(-farthest, farthest + 1)])


class LipExpertTask:
    name = "lip_expert"

    def __init__(self, clips: list[SpeechClip], batch_size: int, seed: int = 0, dominant_share: float = 0.6):
        face_model = FaceModel.load()
        mouth = face_model.slices["mouth"]
        self.model = LipExpert(LipExpertConfig(mouth=(mouth.start, mouth.stop)))
        self.model.set_face_model(face_model)
        self.batch_size = batch_size
        self.sampler = WindowSampler([c for c in clips if not c.held_back], LENGTH, seed, dominant_share)
        long = [c for c in clips if len(c) >= 2 * OFFSETS + WINDOW + 20]
        self.dominant, self.others = self.sampler.held_back_groups(long, 48)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        while True:
            expressions, mels = [], []
            for _ in range(self.batch_size):
                _, (expression, _, power) = self.sampler.window()
                expressions.append(expression)
                mels.append(augment(power, self.sampler.rng))
            yield {
                "expression": torch.from_numpy(np.stack(expressions)),
                "mel": torch.from_numpy(np.stack(mels)).float(),
            }

    def loss(self, model: LipExpert, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        # Other moments of the same sequence are the hard negatives; other clips teach what does not depend on time.
        noisy = batch["expression"] * (1 + 0.1 * torch.randn(len(batch["expression"]), 1, 1))
        motion, audio = self.model.embed_motion(noisy), self.model.embed_audio(batch["mel"])
        scale = self.model.log_scale.exp()
        within = scale * motion @ audio.transpose(1, 2)  # (B, T, T)
        moments = torch.arange(within.shape[-1], device=within.device)
        within = within.masked_fill((moments[:, None] - moments[None, :]).abs() == 1, float("-inf"))
        strangers_audio, strangers_motion = audio[:, ::7].flatten(0, 1), motion[:, ::7].flatten(0, 1)
        own = torch.arange(len(motion), device=within.device).repeat_interleave(len(moments[::7]))
        mine = (own[None] == torch.arange(len(motion), device=within.device)[:, None])[:, None]  # (B, 1, S)
        loss = 0
        for direction, other in (
            (within, scale * motion @ strangers_audio.T),
            (within.transpose(1, 2), scale * audio @ strangers_motion.T),
        ):
            logits = torch.cat([direction, other.masked_fill(mine, float("-inf"))], -1)
            loss = loss - logits.log_softmax(-1).diagonal(dim1=1, dim2=2).mean() / 2
        right = (within.argmax(-1) - moments).abs() <= 1
        return loss, {"within_1_frame": float(right.float().mean()), "scale": scale.item()}

    def validate(self, model: LipExpert) -> tuple[float, dict[str, float]]:
        numbers = {}
        for name, clips in (("dominant", self.dominant), ("others", self.others)):
            if clips:
                best = torch.stack([offset_scores(model, clip).argmax() - OFFSETS for clip in clips])
                numbers[f"{name}_offset_accuracy"] = float((best.abs() <= 1).float().mean())
                losses = [
                    float(model.sync_loss(torch.from_numpy(c.expression)[None, :100],
                                          torch.from_numpy(normalise(c.power[:100], 1.0))[None])[0])
                    for c in clips
                ]  # fmt: skip
                numbers[f"{name}_loss"] = float(np.mean(losses))
        losses = [v for k, v in numbers.items() if k.endswith("loss")]
        return float(np.mean(losses)), numbers

    def export(self, model: LipExpert, path: Path, provenance: dict) -> None:
        model.save(path, provenance)


def make_task(
    folders: list[Path], batch_size: int = 24, cache: Path | None = None, seed: int = 0, dominant_share: float = 0.6
) -> LipExpertTask:  # fmt: skip
    """folders: prepared clips. cache: see load_speech. dominant_share: see WindowSampler; 1 = the dominant alone."""
    return LipExpertTask(load_speech(folders, cache), batch_size, seed, dominant_share)
