"""The calibration regressor: a plain convolution from sound to mouth coefficients that stage 1 is compared with.

It averages over everything the sound leaves open, so its lips follow well and its face is lifeless; a generative model
must beat it where it is weak. It is no part of the shipped weights: `fd2talk train baseline` makes one in minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..audio.features import BINS, PER_FRAME, log_mel, normalise
from ..checkpoint import load_checkpoint, load_state, save_checkpoint
from ..errors import UserError
from ..face.landmarks import mouth_opening
from ..face.model import FaceModel
from ..motion.clip import N_EXPRESSION
from .augment import augment
from .loop import TrainSettings
from .speech_data import SpeechClip, WindowSampler, load_speech

SETTINGS = TrainSettings(
    steps=20_000, minutes=3.0, lr=2e-3, warmup=50, weight_decay=0.02, ema=0.995, bf16=False, validate_minutes=1.0,
    log_steps=100,
)  # fmt: skip
KERNEL, LAYERS = 5, 5
# Frames on each side that an output sees.
HALO = LAYERS * (KERNEL // 2)
LENGTH = 80
VOICES = ("dominant", "all")


@dataclass(frozen=True)
class BaselineConfig:
    """width: channels of the hidden layers. mouth: [start, stop) of the coefficients that are predicted."""

    width: int = 256
    mouth: tuple[int, int] = (28, 54)


class Baseline(nn.Module):
    """Five convolutions over time at frame rate, each five frames wide: 21 frames of sound decide about one mouth."""

    def __init__(self, config: BaselineConfig | None = None, face_model_hash: str = ""):
        super().__init__()
        self.config = config or BaselineConfig()
        self.face_model_hash = face_model_hash
        start, stop = self.config.mouth
        sizes = [PER_FRAME * BINS, *[self.config.width] * (LAYERS - 1), stop - start]
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, KERNEL, padding=KERNEL // 2) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.register_buffer("mean", torch.zeros(stop - start))
        self.register_buffer("std", torch.ones(stop - start))

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel (B, T, 4, 80) -> z-scored mouth coefficients (B, T, mouth)."""
        x = mel.flatten(2).transpose(1, 2)
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x).transpose(1, 2)

    @torch.no_grad()
    def predict(self, samples: np.ndarray, frames: int | None = None) -> Tensor:
        """Expression of a recording at 25 fps, all but the mouth neutral.

        samples: float32 (N,), 16 kHz. frames: default: those that cover the samples. Returns float32 (T, 64).
        """
        mel = torch.from_numpy(log_mel(np.asarray(samples, np.float32), frames=frames))[None]
        start, stop = self.config.mouth
        expression = torch.zeros(mel.shape[1], N_EXPRESSION)
        expression[:, start:stop] = self(mel)[0] * self.std + self.mean
        return expression

    def save(self, path: str | Path, provenance: dict) -> None:
        save_checkpoint(path, "baseline", self.state_dict(), asdict(self.config), provenance, self.face_model_hash)

    @classmethod
    def load(cls, path: str | Path) -> Baseline:
        """Read a regressor trained by `fd2talk train baseline`, in evaluation mode. Raises UserError if unusable."""
        file = load_checkpoint(path, "baseline")
        model = cls(BaselineConfig(**{**file.config, "mouth": tuple(file.config["mouth"])}), file.face_model)
        load_state(model, file.state, path)
        return model.eval()


class BaselineTask:
    name = "baseline"

    def __init__(self, clips: list[SpeechClip], batch_size: int, seed: int = 0, voices: str = "all"):
        self.face_model = FaceModel.load()
        self.batch_size = batch_size
        self.mouth = self.face_model.slices["mouth"]
        training = [clip for clip in clips if not clip.held_back]
        sampler = WindowSampler(training, LENGTH + 2 * HALO, seed)
        self.dominant, self.others = sampler.held_back_groups(clips, 48)
        if voices == "dominant":
            training = [c for c in training if sampler.is_dominant(c)]
            if not training:
                raise UserError("No talker has 50 clips, so there is no dominant voice. Use --set voices=all.")
            sampler = WindowSampler(training, LENGTH + 2 * HALO, seed)
        self.sampler = sampler
        self.model = Baseline(BaselineConfig(mouth=(self.mouth.start, self.mouth.stop)), self.face_model.hash)
        coefficients = np.concatenate([clip.expression[:, self.mouth] for clip in training])
        self.model.mean.copy_(torch.from_numpy(coefficients.mean(0)))
        self.model.std.copy_(torch.from_numpy(coefficients.std(0) + 1e-4))
        self.weights = (self.model.std / self.model.std.mean()) ** 2

    def batches(self) -> Iterator[dict[str, Tensor]]:
        while True:
            expressions, mels = [], []
            for _ in range(self.batch_size):
                _, (expression, _, power) = self.sampler.window()
                expressions.append(expression[:, self.mouth])
                mels.append(augment(power, self.sampler.rng))
            yield {
                "mouth": torch.from_numpy(np.stack(expressions)).float(),
                "mel": torch.from_numpy(np.stack(mels)).float(),
            }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        clean = (batch["mouth"] - self.model.mean) / self.model.std
        error = (model(batch["mel"]) - clean)[:, HALO:-HALO]
        loss = (error**2 * self.weights.to(error)).mean()
        return loss, {"mouth": (error**2).mean().item()}

    def validate(self, model: Baseline) -> tuple[float, dict[str, float]]:
        numbers = {}
        device, neutral = model.mean.device, torch.zeros(80)
        for name, clips in (("dominant", self.dominant), ("others", self.others)):
            found = []
            for clip in clips:
                real = torch.from_numpy(clip.expression)
                made = torch.zeros_like(real)
                mel = torch.from_numpy(normalise(clip.power, 1.0))[None].to(device)
                made[:, self.mouth] = (model(mel)[0] * model.std + model.mean).cpu()
                a, b = (mouth_opening(self.face_model.vertices(neutral, x)).numpy() for x in (made, real))
                if min(a.std(), b.std()) > 1e-6:
                    found.append(float(np.corrcoef(a, b)[0, 1]))
            if found:
                numbers[f"{name}_correlation"] = float(np.mean(found))
        return 1 - float(np.mean(list(numbers.values()))), numbers

    def export(self, model: Baseline, path: Path, provenance: dict) -> None:
        model.save(path, provenance)


def make_task(
    folders: list[Path], batch_size: int = 16, cache: Path | None = None, seed: int = 0, voices: str = "all"
) -> BaselineTask:
    """folders: prepared clips. cache: see load_speech. voices: "all", or "dominant": only talkers with 50 clips."""
    if voices not in VOICES:
        raise UserError(f"There are no voices called '{voices}'. Choose one of: {', '.join(VOICES)}.")
    return BaselineTask(load_speech(folders, cache), batch_size, seed, voices)
