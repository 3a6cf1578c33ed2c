"""Stage 2 as one object: autoencoder, condition encoders and frame UNet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from ..checkpoint import default_weights, load_checkpoint, load_state, save_checkpoint
from .autoencoder import Autoencoder
from .conditions import AppearanceEncoder, MotionEncoder
from .refine import WarpRefiner
from .unet import FrameUNet, UNetConfig


class FrameModel(nn.Module):
    """Everything that turns an appearance and motion into frames; `residual_scale` brings residuals to about one."""

    def __init__(
        self,
        config: UNetConfig | None = None,
        autoencoder: Autoencoder | None = None,
        expression_std: torch.Tensor | None = None,
        residual_scale: float = 1.0,
        face_model_hash: str = "",
    ):
        super().__init__()
        self.config = config or UNetConfig()
        self.face_model_hash = face_model_hash
        self.residual_scale = residual_scale
        self.autoencoder = autoencoder or Autoencoder()
        self.appearance_encoder = AppearanceEncoder(self.config)
        self.motion_encoder = MotionEncoder(self.config, expression_std)
        self.unet = FrameUNet(self.config)
        self.refiner = WarpRefiner(self.motion_encoder.expression_std) if self.config.refine else None

    @classmethod
    def load(cls, path: str | Path | None = None, autoencoder_path: str | Path | None = None) -> FrameModel:
        """Read stage-2 weights and the autoencoder, the shipped ones by default."""
        path = path or default_weights("frames")
        file = load_checkpoint(path, "frames")
        config = dict(file.config)
        scale = config.pop("residual_scale")
        for key in ("widths", "depths"):
            config[key] = tuple(config[key])
        std = file.state["motion_encoder.expression_std"]
        model = cls(UNetConfig(**config), Autoencoder.load(autoencoder_path), std, scale, file.face_model)
        own = {f"autoencoder.{key}": value for key, value in model.autoencoder.state_dict().items()}
        load_state(model, file.state | own, path)
        return model.eval()

    def save(self, path: str | Path, provenance: dict) -> None:
        """Write the stage's own weights; the autoencoder has a file of its own."""
        state = {key: value for key, value in self.state_dict().items() if not key.startswith("autoencoder.")}
        config = asdict(self.config) | {"residual_scale": self.residual_scale}
        save_checkpoint(path, "frames", state, config, provenance, self.face_model_hash)

    def forward(
        self,
        x: torch.Tensor,
        level: torch.Tensor,
        warped: torch.Tensor,
        guide: torch.Tensor,
        reference: torch.Tensor,
        motion: tuple[torch.Tensor, ...],
        drop_motion: torch.Tensor,
        drop_appearance: torch.Tensor,
        frames: int = 1,
    ) -> torch.Tensor:
        """Training pass: encode both conditions, replace dropped ones (N,) bool by their null tokens, predict.

        frames: how many samples follow each other in time, for layers over time.
        """
        tokens = self.motion_encoder(*motion)
        tokens = torch.where(drop_motion[:, None, None], self.motion_encoder.null.to(tokens), tokens)
        appearance = [
            torch.where(drop_appearance[:, None, None], null.to(grid), grid)
            for grid, null in zip(self.appearance_encoder(reference), self.appearance_encoder.null, strict=True)
        ]
        return self.unet(x, level, warped, guide, tokens, self.unet.remember(appearance), frames)
