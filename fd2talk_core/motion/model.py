"""Stage 1 as one model: audio encoder, expression DiT, pose DiT, and the statistics of the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..audio.encoder import FeatureProjection, MelEncoder
from ..checkpoint import default_weights, load_checkpoint, load_state, save_checkpoint
from .clip import N_EXPRESSION, N_POSE
from .dit import ExpressionDiT, PoseDiT

N_EXPRESSION_STYLE, N_POSE_STYLE = 5, 6


@dataclass(frozen=True)
class MotionConfig:
    """Sizes and diffusion schedule of stage 1.

    audio_features: 0 = own encoder on log-mel; else the width of a speech model's features (wav2vec 2.0: 768).
    mask_width: half-width of the alignment mask in frames, None = off.
    window, context: frames generated at a time, and frames before them that condition them.
    audio_lead: frames by which the sound that a motion frame is made from lies after it; lets training data whose
        sound was shifted be followed without its shift.
    train_steps, beta_start, beta_end: linear noise schedule.
    """

    audio_features: int = 0
    audio_width: int = 256
    audio_blocks: int = 4
    audio_stem: int = 192
    audio_stem_blocks: int = 3
    width: int = 192
    depth: int = 4
    heads: int = 6
    pose_width: int = 128
    pose_depth: int = 3
    pose_heads: int = 4
    pose_mlp_ratio: float = 2.0
    mask_width: int | None = 2
    window: int = 100
    context: int = 10
    audio_lead: float = 0.0
    train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    @classmethod
    def shipped(cls) -> MotionConfig:
        """The size of the weights that come with the pack."""
        return cls()

    @classmethod
    def paper_scale(cls) -> MotionConfig:
        """Transformers 512 wide, 8 deep, on wav2vec 2.0 features; for training on large data."""
        return cls(
            audio_features=768, audio_width=512, width=512, depth=8, heads=8, pose_width=512, pose_depth=8,
            pose_heads=8, pose_mlp_ratio=4.0,
        )  # fmt: skip


class MotionModel(nn.Module):
    """Audio encoder, two DiTs and statistics. Coefficients inside are z-scored; see `normalise` and `denormalise`.

    The reference vector of a DiT is [reference coefficients, style], z-scored. Style says how lively a clip is: log
    standard deviation of each expression region (gaze, eyelids, brows, mouth, rest), and of each pose coefficient.
    """

    def __init__(self, config: MotionConfig | None = None, face_model_hash: str = ""):
        super().__init__()
        self.config = config = config or MotionConfig()
        self.face_model_hash = face_model_hash
        if config.audio_features:
            self.audio_encoder = FeatureProjection(config.audio_features, config.audio_width)
        else:
            self.audio_encoder = MelEncoder(
                config.audio_width, config.audio_blocks, config.audio_stem, config.audio_stem_blocks
            )
        common = {"audio_width": config.audio_width, "mask_width": config.mask_width, "context": config.context}
        self.expression_dit = ExpressionDiT(
            N_EXPRESSION, N_EXPRESSION + N_EXPRESSION_STYLE, width=config.width, depth=config.depth,
            heads=config.heads, **common,
        )  # fmt: skip
        self.pose_dit = PoseDiT(
            N_POSE, N_POSE + N_POSE_STYLE, width=config.pose_width, depth=config.pose_depth,
            heads=config.pose_heads, mlp_ratio=config.pose_mlp_ratio, **common,
        )  # fmt: skip
        for name, size in (
            ("expression", N_EXPRESSION), ("pose", N_POSE), ("reference_pose", N_POSE),
            ("style", N_EXPRESSION_STYLE + N_POSE_STYLE),
        ):  # fmt: skip
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        # z-scored style that generation uses unless told otherwise.
        self.register_buffer("default_style", torch.zeros(N_EXPRESSION_STYLE + N_POSE_STYLE))

    def normalise(self, values: Tensor, kind: str) -> Tensor:
        """kind: expression, pose (offsets), reference_pose or style."""
        return (values - getattr(self, f"{kind}_mean")) / getattr(self, f"{kind}_std")

    def denormalise(self, values: Tensor, kind: str) -> Tensor:
        return values * getattr(self, f"{kind}_std") + getattr(self, f"{kind}_mean")

    def encode_audio(self, features: Tensor) -> Tensor:
        """Log-mel (B, T, 4, 80), or speech-model features (B, T, F) -> tokens (B, T, audio_width)."""
        return self.audio_encoder(features)

    def save(self, path: str | Path, provenance: dict) -> None:
        save_checkpoint(path, "motion", self.state_dict(), asdict(self.config), provenance, self.face_model_hash)

    @classmethod
    def load(cls, path: str | Path | None = None) -> MotionModel:
        """Read stage-1 weights, the shipped ones by default, in evaluation mode. Raises UserError if unusable."""
        path = path or default_weights("motion")
        file = load_checkpoint(path, "motion")
        model = cls(MotionConfig(**file.config), file.face_model)
        load_state(model, file.state, path)
        return model.eval()
