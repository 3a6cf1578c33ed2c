"""Measures by other people's networks: LPIPS, FID and CSIM, for users who have the weights. Nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..face.landmarks import IRIS_LEFT, IRIS_RIGHT, MOUTH_CORNERS
from ..frames.appearance import Appearance

# Files that torchmetrics would download when they are not in torch hub's folder of checkpoints.
WEIGHTS = {"lpips": "alexnet-owt-*.pth", "fid": "weights-inception-2015-12-05-*.pth"}
PACKAGES = {"lpips": "torchvision", "fid": "torch_fidelity"}
ABSENT = "not measured: weights absent"
NOSE_TIP, IDENTITY_SIZE = 4, 112
# Where the eyes, the nose tip and the mouth's corners lie in the 112-px pictures that face embeddings are trained on.
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


def why_not(measure: str) -> str | None:
    """Why a measure cannot be taken here, None if it can."""
    if find_spec(PACKAGES[measure]) is None:
        return f"not measured: {PACKAGES[measure].replace('_', '-')} is not installed"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return None if any(folder.glob(WEIGHTS[measure])) else f"{ABSENT} ({WEIGHTS[measure]} in {folder})"


def aligned_faces(pictures: Tensor, landmarks: np.ndarray) -> Tensor:
    """Faces turned and scaled onto TEMPLATE: (N, 3, S, S) in 0..1, (N, 478, 3) px -> (N, 3, 112, 112) in -1..1."""
    size = pictures.shape[-1]
    points = np.stack(
        [landmarks[:, list(IRIS_RIGHT), :2].mean(1), landmarks[:, list(IRIS_LEFT), :2].mean(1),
         landmarks[:, NOSE_TIP, :2], landmarks[:, MOUTH_CORNERS[0], :2], landmarks[:, MOUTH_CORNERS[1], :2]], 1,
    )  # fmt: skip
    target = np.array(TEMPLATE) * 2 / IDENTITY_SIZE - 1
    target = target[:, 0] + 1j * target[:, 1]
    thetas = []
    for five in points * 2 / size - 1:
        # A similarity is multiplication by a complex number and a shift; least squares over the five points.
        source = five[:, 0] + 1j * five[:, 1]
        turn, shift = np.linalg.lstsq(np.stack([target, np.ones(5)], 1), source, rcond=None)[0]
        thetas.append([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    grid = F.affine_grid(torch.tensor(thetas, dtype=torch.float32), [len(points), 3] + [IDENTITY_SIZE] * 2, False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False) * 2 - 1


def load_identity_model(path: str | Path) -> torch.jit.ScriptModule:
    """A TorchScript face embedding. Raises UserError when the file is none."""
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The file {path} is not a TorchScript network. Pass --identity-model with a face embedding that was "
            "saved by torch.jit.save and takes RGB of 112x112 in -1..1."
        ) from error


class LearnedMeasures:
    """LPIPS (AlexNet), FID and CSIM where their weights are; `notes` says what is missing, by the measure's name."""

    def __init__(self, identity_model: str | Path | None = None):
        self.notes = {name: reason for name in WEIGHTS if (reason := why_not(name))}
        self.lpips = self.fid = self.identity = None
        if "lpips" not in self.notes:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.lpips = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).eval()
        if "fid" not in self.notes:
            from torchmetrics.image.fid import FrechetInceptionDistance

            self.fid = FrechetInceptionDistance(normalize=True).eval()
        if identity_model:
            self.identity = load_identity_model(identity_model)
        else:
            self.notes["csim"] = "not measured: no --identity-model"

    def compare(self, made: Tensor, real: Tensor, appearance: Appearance, landmarks: np.ndarray) -> dict[str, float]:
        """lpips of frames (T, 3, S, S); csim and real_csim, cosines of made and real faces to the portrait's face.

        Frames are also counted towards `summary`'s FID.
        """
        scores = {}
        if self.lpips is not None:
            pairs = zip(made.split(1), real.split(1), strict=True)
            scores["lpips"] = float(np.mean([float(self.lpips(a, b)) for a, b in pairs]))
        if self.fid is not None:
            self.fid.update(made, real=False)
            self.fid.update(real, real=True)
        if self.identity is not None:
            portrait = self._embed(appearance.crop[None], appearance.landmarks[None].numpy())
            scores["csim"] = float((self._embed(made, landmarks) @ portrait.T).mean())
            scores["real_csim"] = float((self._embed(real, landmarks) @ portrait.T).mean())
        return scores

    def _embed(self, pictures: Tensor, landmarks: np.ndarray) -> Tensor:
        try:
            return F.normalize(self.identity(aligned_faces(pictures, landmarks)).flatten(1), dim=1)
        except (RuntimeError, AttributeError) as error:
            raise UserError(
                f"The identity network cannot be used ({str(error).strip().splitlines()[-1]}). "
                "It must turn RGB (N, 3, 112, 112) in -1..1 into embeddings (N, D)."
            ) from error

    def summary(self) -> dict[str, float | str]:
        """fid over all frames so far where it is measured, and the notes."""
        fid = {} if self.fid is None or not self.fid.real_features_num_samples else {"fid": float(self.fid.compute())}
        return fid | self.notes
