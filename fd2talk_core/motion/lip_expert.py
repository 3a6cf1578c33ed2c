"""The lip expert: do this sound and these lips belong together? Judges windows of five frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..audio.features import BINS, PER_FRAME
from ..checkpoint import default_weights, load_checkpoint, load_state, save_checkpoint
from ..face.landmarks import LIPS_INNER, LIPS_OUTER

WINDOW = 5
LIPS = tuple(sorted(set(LIPS_INNER + LIPS_OUTER)))


@dataclass(frozen=True)
class LipExpertConfig:
    """width: of the hidden layers; embedding: of the joint space; mouth: [start, stop) of the mouth's coefficients."""

    width: int = 112
    embedding: int = 96
    mouth: tuple[int, int] = (28, 54)


class Tower(nn.Module):
    """Two valid convolutions over three frames each, so an output sees exactly five frames."""

    def __init__(self, channels: int, width: int, embedding: int):
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.conv1 = nn.Conv1d(width, width, 3)
        self.conv2 = nn.Conv1d(width, width, 3)
        self.out = nn.Linear(width, embedding)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.embed(x)).transpose(1, 2)  # (B, width, T)
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)  # (B, T - 4, width)
        return F.normalize(self.out(x), dim=-1)


class LipExpert(nn.Module):
    """Contrastive audio / mouth-motion network.

    Reads lip vertices of the neutral head (identity and pose removed) computed from the mouth coefficients.
    """

    def __init__(self, config: LipExpertConfig | None = None, face_model_hash: str = ""):
        super().__init__()
        self.config = config or LipExpertConfig()
        self.face_model_hash = face_model_hash
        start, stop = self.config.mouth
        self.register_buffer("lip_basis", torch.zeros(stop - start, len(LIPS) * 3))
        self.audio = Tower(PER_FRAME * BINS, self.config.width, self.config.embedding)
        self.motion = Tower(len(LIPS) * 3, self.config.width, self.config.embedding)
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def set_face_model(self, face_model) -> None:
        """Take the lips' part of the expression basis from a FaceModel."""
        start, stop = self.config.mouth
        # Ten: lip motion is about a tenth of the inter-ocular distance.
        self.lip_basis.copy_(10 * face_model.exp_basis[start:stop, list(LIPS)].flatten(1))
        self.face_model_hash = face_model.hash

    def embed_audio(self, mel: Tensor) -> Tensor:
        """Log-mel (B, T, 4, 80) -> unit vectors (B, T - 4, E), one per window."""
        return self.audio(mel.flatten(2))

    def embed_motion(self, expression: Tensor) -> Tensor:
        """Expression coefficients (B, T, 64) -> unit vectors (B, T - 4, E), one per window."""
        start, stop = self.config.mouth
        return self.motion(expression[..., start:stop] @ self.lip_basis)

    def forward(self, expression: Tensor, mel: Tensor) -> Tensor:
        """Similarity -1..1 of every motion window with every audio window of its sequence, (B, T - 4, T - 4)."""
        return self.embed_motion(expression) @ self.embed_audio(mel).transpose(1, 2)

    def sync_loss(self, expression: Tensor, mel: Tensor) -> Tensor:
        """-log P_sync per sequence (B,): P_sync is the probability of a motion window's own moment among all
        moments of the sequence, but for its direct neighbours.

        expression: (B, T, 64). mel: (B, T, 4, 80).
        """
        logits = self.log_scale.exp() * self(expression, mel)
        moments = torch.arange(logits.shape[-1], device=logits.device)
        neighbours = (moments[:, None] - moments[None, :]).abs() == 1
        logits = logits.masked_fill(neighbours, float("-inf"))
        return -logits.log_softmax(-1).diagonal(dim1=1, dim2=2).mean(-1)

    def save(self, path: str | Path, provenance: dict) -> None:
        save_checkpoint(path, "lip_expert", self.state_dict(), asdict(self.config), provenance, self.face_model_hash)

    @classmethod
    def load(cls, path: str | Path | None = None) -> LipExpert:
        """Read a lip expert, the shipped one by default, in evaluation mode. Raises UserError if it cannot be used."""
        path = path or default_weights("lip_expert")
        file = load_checkpoint(path, "lip_expert")
        config = LipExpertConfig(**{**file.config, "mouth": tuple(file.config["mouth"])})
        model = cls(config, file.face_model)
        load_state(model, file.state, path)
        return model.eval()
