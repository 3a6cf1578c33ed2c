"""The face detector: finds the boxes of all faces in a letterboxed picture (centre heat map, after CenterNet)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .layers import Residual, conv_norm

STRIDE = 8


@dataclass
class DetectorConfig:
    """Sizes of the detector; `size` is the side in pixels of the square it looks at."""

    size: int = 256
    widths: tuple[int, ...] = (16, 32, 48, 64, 80)


class FaceDetector(nn.Module):
    """Heat map of face centres with, at every cell, the box that a centre there would have."""

    def __init__(self, config: DetectorConfig | None = None):
        super().__init__()
        self.config = config = config or DetectorConfig()
        w0, w1, w2, w3, w4 = config.widths
        self.fine = nn.Sequential(
            conv_norm(3, w0, stride=2), conv_norm(w0, w1, stride=2), conv_norm(w1, w2, stride=2), Residual(w2)
        )
        self.middle = nn.Sequential(conv_norm(w2, w3, stride=2), Residual(w3))
        self.coarse = nn.Sequential(conv_norm(w3, w4, stride=2), Residual(w4))
        self.lift_coarse = nn.Conv2d(w4, w3, 1)
        self.lift_middle = nn.Conv2d(w3, w2, 1)
        self.refine = conv_norm(w2, w2)
        self.head = nn.Conv2d(w2, 5, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[0] = -4.0  # nearly all cells hold no face

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """pictures (B, 3, S, S) RGB 0..1, S a multiple of 32.

        Returns (B, 5, S/8, S/8): heat logit; dx, dy from the cell's centre to the face's centre in units of the
        face's width and height; log of width and height, as a share of the picture's side.
        """
        fine = self.fine(pictures * 2 - 1)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        upsample = nn.functional.interpolate
        middle = torch.relu(middle + upsample(self.lift_coarse(coarse), scale_factor=2.0, mode="nearest"))
        fine = torch.relu(fine + upsample(self.lift_middle(middle), scale_factor=2.0, mode="nearest"))
        return self.head(self.refine(fine)).float()


def decode(output: torch.Tensor, threshold: float, most: int = 32) -> list[torch.Tensor]:
    """Boxes of each picture from the detector's output (B, 5, H, W): local peaks of the heat map.

    Returns per picture (N, 5) x0, y0, x1, y1 as a share of the picture's sides, and score; best first, before
    suppression of overlaps.
    """
    heat = output[:, 0].sigmoid()
    peaks = heat == nn.functional.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]
    height, width = heat.shape[-2:]
    found = []
    for index in range(len(output)):
        y, x = torch.nonzero(peaks[index] & (heat[index] > threshold), as_tuple=True)
        score = heat[index, y, x]
        score, order = score.sort(descending=True)
        y, x, score = y[order[:most]], x[order[:most]], score[:most]
        dx, dy, w, h = output[index, 1:, y, x]
        w, h = w.clamp(-6, 1).exp(), h.clamp(-6, 1).exp()
        cx, cy = (x + 0.5) / width + dx * w, (y + 0.5) / height + dy * h
        found.append(torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score], 1))
    return found


def suppress_overlaps(boxes: torch.Tensor, limit: float = 0.4) -> torch.Tensor:
    """Greedy non-maximum suppression of (N, 5) boxes x0, y0, x1, y1, score, best first."""
    boxes = boxes[boxes[:, 4].argsort(descending=True)]
    kept: list[torch.Tensor] = []
    for box in boxes:
        if not kept or float(box_iou(box[None, :4], torch.stack(kept)[:, :4]).max()) <= limit:
            kept.append(box)
    return torch.stack(kept) if kept else boxes


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes (N, 4) with boxes (M, 4), as (N, M)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((c[:, 2:] - c[:, :2]).clamp(min=0).prod(-1) for c in (a, b))
    return overlap / (area_a[:, None] + area_b[None, :] - overlap).clamp(min=1e-9)
