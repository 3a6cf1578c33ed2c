"""The landmark regressor: a square face crop becomes 478 landmarks and the probability that it shows a face."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .landmarks import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    FACE_OVAL,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
    N_VERTICES,
)
from .layers import Residual, conv_norm

# Points with a visible place in the picture. The network looks for each of them; the mesh follows from where they are.
ANCHORS = tuple(dict.fromkeys(
    LIPS_OUTER[::2] + LIPS_INNER[::2] + (13, 14) + EYE_RIGHT[::2] + EYE_LEFT[::2] + (159, 145, 386, 374)
    + IRIS_RIGHT[::2] + IRIS_LEFT[::2] + BROW_RIGHT[::3] + BROW_LEFT[::3] + FACE_OVAL[::3]
    + (1, 2, 6, 98, 327, 168)
))  # fmt: skip


@dataclass
class RegressorConfig:
    """Sizes of the regressor: `size` is the crop side in pixels, `sharpness` scales the anchors' maps."""

    size: int = 192
    widths: tuple[int, ...] = (16, 32, 64, 96, 128)
    squeeze: int = 32
    hidden: int = 128
    sharpness: float = 6.0


def spatial_expectation(heat: torch.Tensor, sharpness: float = 1.0) -> torch.Tensor:
    """Where each map's mass lies: softmax over the map, then the mean position (integral pose regression).

    A `sharpness` above 1 lets small changes of the map move the position: training converges much faster.
    heat (B, K, H, W) -> (B, K, 2), x and y as a share of the map's sides (0..1).
    """
    height, width = heat.shape[-2:]
    mass = (heat.float() * sharpness).flatten(2).softmax(-1).unflatten(-1, (height, width))
    xs = (torch.arange(width, device=heat.device) + 0.5) / width
    ys = (torch.arange(height, device=heat.device) + 0.5) / height
    return torch.stack([(mass.sum(-2) * xs).sum(-1), (mass.sum(-1) * ys).sum(-1)], -1)


class LandmarkRegressor(nn.Module):
    """Convolutional pyramid -> anchor points by spatial expectation, plus coarse features -> mesh."""

    def __init__(self, config: RegressorConfig | None = None):
        super().__init__()
        self.config = config = config or RegressorConfig()
        w0, w1, w2, w3, w4 = config.widths
        self.fine = nn.Sequential(
            conv_norm(3, w0, stride=2), conv_norm(w0, w1, stride=2), conv_norm(w1, w1),
            conv_norm(w1, w2, stride=2), Residual(w2),
        )  # fmt: skip
        self.middle = nn.Sequential(conv_norm(w2, w3, stride=2), Residual(w3))
        self.coarse = nn.Sequential(conv_norm(w3, w4, stride=2), conv_norm(w4, w4))
        self.lift_coarse = nn.Conv2d(w4, w3, 1)
        self.lift_middle = nn.Conv2d(w3, w2, 1)
        self.refine = conv_norm(w2, w2)
        self.heat = nn.Conv2d(w2, len(ANCHORS), 1)
        self.squeeze = nn.Sequential(
            conv_norm(w4, config.squeeze, 1), nn.Flatten(),
            nn.Linear(config.squeeze * (config.size // 32) ** 2, config.hidden), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.mix = nn.Sequential(nn.Linear(config.hidden + 2 * len(ANCHORS), config.hidden), nn.ReLU(inplace=True))
        self.presence = nn.Linear(config.hidden, 1)
        self.mesh = nn.Linear(2 * len(ANCHORS) + config.hidden, N_VERTICES * 3)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """crops (B, 3, size, size) RGB 0..1.

        Returns landmarks (B, 478, 3) as a share of the crop side (x and y 0..1 inside the crop, z same unit),
        presence logits (B,), and the anchors' positions (B, A, 2) in the same unit, which training supervises.
        """
        fine = self.fine(crops * 2 - 1)  # (B, w2, size/8, size/8)
        middle = self.middle(fine)
        coarse = self.coarse(middle)  # (B, w4, size/32, size/32)
        upsample = nn.functional.interpolate
        middle = torch.relu(middle + upsample(self.lift_coarse(coarse), scale_factor=2.0, mode="nearest"))
        fine = torch.relu(fine + upsample(self.lift_middle(middle), scale_factor=2.0, mode="nearest"))
        anchors = spatial_expectation(self.heat(self.refine(fine)), self.config.sharpness)
        points = anchors.flatten(1) - 0.5
        hidden = self.mix(torch.cat([self.squeeze(coarse), points.to(coarse.dtype)], 1))
        with torch.autocast(crops.device.type, enabled=False):
            mesh = self.mesh(torch.cat([points, hidden.float()], 1)) + 0.5
            landmarks = mesh.unflatten(1, (N_VERTICES, 3)) - mesh.new_tensor([0.0, 0.0, 0.5])
        return landmarks, self.presence(hidden).squeeze(1).float(), anchors

    @torch.no_grad()
    def initialise_mesh(self, landmarks: torch.Tensor, ridge: float = 1e-4) -> None:
        """Start the mesh layer as the best linear completion of the anchors, from labels (N, 478, 3) in crop unit."""
        points = landmarks[:, list(ANCHORS), :2].flatten(1) - 0.5
        target = (landmarks - landmarks.new_tensor([0.5, 0.5, 0.0])).flatten(1)
        mean_points, mean_target = points.mean(0), target.mean(0)
        x, y = points - mean_points, target - mean_target
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(x.T @ x + ridge * len(x) * eye, x.T @ y).T
        self.mesh.weight[:, : x.shape[1]] = weight
        self.mesh.weight[:, x.shape[1] :].mul_(0.01)
        self.mesh.bias.copy_(mean_target - weight @ mean_points)
