"""Faces that were never filmed: changes of shape, light and colour that a portrait and its frames undergo alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

STRETCH, SKEW, TURN, ZOOM, SHIFT = 0.1, 0.06, 0.12, 0.12, 0.03
BEND, BEND_NODES = 0.02, 4  # standard deviation of the displacements of a grid of nodes; half the picture is one
INVERSION_ROUNDS = 8
GREY, UNEVEN = 0.08, 0.4  # shares of changes of colour
LIGHT = 0.15  # how much lighter or darker uneven light makes a part of the picture


@dataclass
class ShapeChange:
    """A map from places of the changed picture to the original's, both -1..1 over the picture.

    linear: affine part (2, 3). bend: smooth displacements (1, 2, k, k) that are added.
    """

    linear: torch.Tensor
    bend: torch.Tensor

    def grid(self, height: int, width: int) -> torch.Tensor:
        """Where to look for each pixel, (1, height, width, 2)."""
        bend = F.interpolate(self.bend, size=(height, width), mode="bicubic", align_corners=True)
        return F.affine_grid(self.linear[None], [1, 3, height, width], align_corners=False) + bend.permute(0, 2, 3, 1)

    def back(self, places: torch.Tensor) -> torch.Tensor:
        """Places (P, 2) of the original -> where they are in the changed picture."""
        inverse, shift = self.linear[:, :2].inverse().T, self.linear[:, 2]
        smooth = F.interpolate(self.bend, size=(64, 64), mode="bicubic", align_corners=True)
        found = (places - shift) @ inverse
        for _ in range(INVERSION_ROUNDS):
            bend = F.grid_sample(smooth, found[None, None], padding_mode="border", align_corners=True)[0, :, 0].T
            found = (places - shift - bend) @ inverse
        return found


def shape_change(rng: np.random.Generator) -> ShapeChange:
    """Stretch, skew, turn, enlarge, shift and bend at random."""
    turn = rng.uniform(-TURN, TURN)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    aspect = np.exp(rng.uniform(-STRETCH, STRETCH))
    shape = np.array([[aspect, rng.uniform(-SKEW, SKEW)], [0, 1 / aspect]])
    linear = rotation @ shape * np.exp(-rng.uniform(-ZOOM / 3, ZOOM))
    bend = rng.normal(0, BEND, (1, 2, BEND_NODES, BEND_NODES))
    linear = np.column_stack([linear, rng.uniform(-SHIFT, SHIFT, 2)])
    return ShapeChange(torch.from_numpy(linear).float(), torch.from_numpy(bend).float())


def changed_pictures(frames: list[np.ndarray], change: ShapeChange, size: int) -> torch.Tensor:
    """Frames (H, W, 3) uint8 after a `shape_change`, as uint8 (N, 3, size, size)."""
    height, width = frames[0].shape[:2]
    grid = change.grid(height, width)
    made = []
    for frame in frames:
        picture = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
        picture = F.grid_sample(picture, grid, mode="bicubic", padding_mode="border", align_corners=False)
        picture = F.interpolate(picture, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        made.append((picture.clamp(0, 255) + 0.5).byte())
    return torch.cat(made)


def changed_landmarks(landmarks: np.ndarray, change: ShapeChange, size: int) -> np.ndarray:
    """Landmarks (..., 3) in pixels of a picture of side `size` after the same change."""
    places = torch.from_numpy(landmarks[..., :2].reshape(-1, 2) * (2 / size) - 1).float()
    moved = (change.back(places).numpy().reshape(*landmarks.shape[:-1], 2) + 1) * (size / 2)
    depth = landmarks[..., 2:] / np.sqrt(float(change.linear[:, :2].det()))
    return np.concatenate([moved, depth], -1).astype(landmarks.dtype)


def colour_change(rng: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """A random change of light and colour; takes and returns uint8 (N, 3, H, W)."""
    gain = torch.from_numpy(rng.uniform(0.8, 1.15) * rng.uniform(0.88, 1.12, 3)).float()[:, None, None]
    gamma, saturation = rng.uniform(0.8, 1.25), 0.0 if rng.random() < GREY else rng.uniform(0.6, 1.3)
    uneven = rng.random() < UNEVEN
    light = torch.from_numpy(1 + rng.uniform(-LIGHT, LIGHT, (1, 1, 3, 3))).float()

    def change(pictures: torch.Tensor) -> torch.Tensor:
        values = (pictures.float() / 255) ** gamma * gain
        if uneven:
            values = values * F.interpolate(light, size=values.shape[-2:], mode="bicubic", align_corners=True)
        grey = values.mean(1, keepdim=True)
        return ((grey + saturation * (values - grey)).clamp(0, 1) * 255 + 0.5).byte()

    return change
