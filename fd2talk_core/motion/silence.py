"""The mouth in silence: closed, and quickly so. An audible pause with an open mouth is what gives a puppet away."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..face.landmarks import LIPS_INNER, MOUTH_CORNERS

CLOSING_FRAMES = 3
OPENING_FRAMES = 5
# Real lips part for breath and the first sound well before it is heard; that long before it the network is left alone.
ANTICIPATION_FRAMES = 8
SHORTEST_PAUSE = 7  # frames: shorter silences are the closed stops inside words
# Vertical gaps of nine pairs of inner-lip vertices, from corner to corner, in inter-ocular distances: medians of 31,000
# quiet frames of real talkers with closed mouths. Lips that touch are not at zero, as the vertices lie on their rims.
CLOSED_GAPS = (0.0065, 0.0118, 0.0164, 0.0184, 0.0184, 0.0186, 0.0167, 0.0120, 0.0064)
_GAP_NOISE, _CORNER_NOISE = 0.002, 0.005


def silence_weight(silent: np.ndarray) -> np.ndarray:
    """How closed the mouth must be, 0..1 per 25-fps frame.

    silent: bool (T,), frames under the loudness gate. Before and after the recording is silence, too; a lone loud
    frame in a pause, a click, does not end it. In pauses of half a second and more the weight reaches 1 in their third
    frame; it falls from thirteen to eight frames before sound comes back, as mouths open before they speak.
    """
    silent = np.asarray(silent, bool)
    frames = len(silent)
    padded = np.r_[np.ones(SHORTEST_PAUSE, bool), silent, np.ones(SHORTEST_PAUSE, bool)]
    edges = np.flatnonzero(np.diff(padded.astype(np.int8)))  # loud stretches are edges[0] + 1 .. edges[1], and so on
    starts, stops = edges[::2] + 1, edges[1::2] + 1
    before = starts - np.r_[0, stops][: len(starts)]
    after = np.r_[starts, len(padded)][1:] - stops
    for start, stop, left, right in zip(starts, stops, before, after, strict=True):
        if stop - start == 1 and min(left, right) >= SHORTEST_PAUSE:
            padded[start] = True
    edges = np.flatnonzero(np.diff(np.r_[False, padded, False].astype(np.int8)))
    weight = np.zeros(len(padded), np.float32)
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        inside = np.arange(first, last)
        since = np.full(len(inside), CLOSING_FRAMES) if first == 0 else inside - first + 1
        until = np.full(len(inside), np.inf) if last == len(padded) else last - inside - ANTICIPATION_FRAMES
        if last - first < SHORTEST_PAUSE:
            continue
        progress = np.minimum((since / CLOSING_FRAMES).clip(max=1), (until / OPENING_FRAMES).clip(0, 1))
        weight[first:last] = (1 - np.cos(np.pi * progress)) / 2
    return weight[SHORTEST_PAUSE : SHORTEST_PAUSE + frames]


def closed_mouth(expression: Tensor, face_model, std: Tensor) -> Tensor:
    """Expressions (..., 64) with lips together: unchanged where they are, else the likeliest closed mouth near them.

    std: (64,) usual deviation of the coefficients. A smile with bare teeth becomes a smile with closed lips: the change
    is the smallest in units of `std` that closes the gaps and keeps the corners (a Gaussian conditioned on the nine lip
    gaps and the corners' places, which are linear in the coefficients).

    Returns (..., 64), which differs in the mouth region only.
    """
    count = len(LIPS_INNER)
    upper = [LIPS_INNER[count - i] for i in range(1, count // 2)]
    lower = [LIPS_INNER[i] for i in range(1, count // 2)]
    closed, std = expression.double().cpu(), std.double().cpu()
    mouth = face_model.slices["mouth"]
    mean, basis = face_model.mean.double(), face_model.exp_basis.double()
    gaps = (mean[lower, 1] - mean[upper, 1]) + closed @ (basis[:, lower, 1] - basis[:, upper, 1])  # (..., 9)
    missing = (torch.tensor(CLOSED_GAPS, dtype=torch.float64) - gaps).clamp(max=0)
    corners = basis[mouth][:, list(MOUTH_CORNERS), :2].flatten(1)  # (mouth, 4)
    slope = torch.cat([basis[mouth][:, lower, 1] - basis[mouth][:, upper, 1], corners], 1).T  # (13, mouth)
    missing = torch.cat([missing, missing.new_zeros(*missing.shape[:-1], 4)], -1)
    noise = torch.tensor([_GAP_NOISE] * len(lower) + [_CORNER_NOISE] * 4, dtype=torch.float64)
    spread = slope * std[mouth] ** 2
    change = torch.linalg.solve(spread @ slope.T + torch.diag(noise**2), missing.unsqueeze(-1)).squeeze(-1) @ spread
    closed[..., mouth] += change
    return closed.float()


def close_mouth(expression: Tensor, weight: Tensor, face_model, std: Tensor) -> None:
    """Bring the lips of expression (T, 64), in place, together by weight (T,); where they touch nothing changes.

    std: as in `closed_mouth`.
    """
    mouth, frames = face_model.slices["mouth"], weight.nonzero()[:, 0]
    part = expression[frames]
    change = closed_mouth(part, face_model, std)[:, mouth].to(part) - part[:, mouth]
    expression[frames, mouth] += weight[frames, None].to(part) * change
