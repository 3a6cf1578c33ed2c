"""Analytic geometry between two states of one face: dense flow, picture warp, masks and head coordinates."""

from __future__ import annotations

import torch
from torch.nn import functional as F

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
    eye_opening,
)
from .model import FaceModel, rotation_matrix
from .raster import Box, coverage, outset

FLOW_GRID = 64
RINGS = (1.25, 1.5)
# The neck hardly follows the head: how much of the head's motion the rings take below the chin.
RING_NECK = (0.5, 0.15)
BORDER_ANCHORS = 8
# Softening of the inverse-distance kernel, in squared shares of the crop: small where points are dense, wide for the
# sparse anchors, which would otherwise show as a string of beads.
SOFTENING, ANCHOR_SOFTENING = 2e-5, 1.5e-3
_CONTOURS = LIPS_OUTER + LIPS_INNER + EYE_RIGHT + EYE_LEFT + IRIS_RIGHT + IRIS_LEFT + FACE_OVAL + BROW_RIGHT + BROW_LEFT
FLOW_VERTICES = sorted(set(_CONTOURS) | set(range(0, N_VERTICES, 3)))
FLOW_OVAL = FACE_OVAL[::2]
_IRIS = [FLOW_VERTICES.index(i) for i in IRIS_RIGHT + IRIS_LEFT]
# Eye openings between which the irises fade out of the flow; behind closing lids they would hold the eye open.
IRIS_HIDDEN, IRIS_SEEN = 0.08, 0.2
MASK_OUTSET = 0.1  # cells
MASKS = ("lips", "mouth", "eyes", "face")


def control_points(
    model: FaceModel, alpha: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points that carry the flow: face vertices, and rings around the face oval that are rigid with the head.

    alpha (80,), beta (N, 64), pose (N, 6) -> points (N, P, 2) in shares of the crop's side (0..1 inside), and how
    open the eyes are (N,).
    """
    full = model.vertices(alpha.expand(len(beta), -1), beta)
    vertices = full[:, FLOW_VERTICES]
    oval = model.vertices(alpha, torch.zeros_like(beta[0]))[list(FLOW_OVAL)]
    centre = oval.mean(0)
    rings = torch.cat([centre + (oval - centre) * factor for factor in RINGS])
    points = torch.cat([vertices, rings.expand(len(beta), -1, -1)], 1)
    return model.project(points, pose, 1.0)[..., :2], eye_opening(full)


def _ring_weights(model: FaceModel, torso: float) -> torch.Tensor:
    """Share of the head's motion that each ring anchor takes: 1 above the mouth, less below the chin."""
    oval = model.mean[list(FLOW_OVAL), 1]
    low = ((oval - oval.median()) / (oval.max() - oval.median())).clamp(0, 1)
    return torch.cat([1 - low * (1 - torso * neck) for neck in RING_NECK])


def _border() -> torch.Tensor:
    line = torch.linspace(-0.05, 1.05, BORDER_ANCHORS)
    low, high = torch.full_like(line, -0.05), torch.full_like(line, 1.05)
    sides = [(line, low), (line, high), (low, line), (high, line)]
    return torch.cat([torch.stack(side, 1) for side in sides])


def dense_flow(
    model: FaceModel,
    alpha: torch.Tensor,
    reference: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    grid: int = FLOW_GRID,
    torso: float = 1.0,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Where each place of the target frames comes from in the reference picture.

    Inverse-distance interpolation (weights 1/d^4) of the control points' displacements, with still anchors on the
    crop's border.

    Args:
        alpha: identity (80,).
        reference: expression (64,) and pose (6,) of the reference picture.
        target: expressions (N, 64) and poses (N, 6).
        grid: side of the flow field.
        torso: share of its usual motion that what lies below the chin takes; 0 = the torso stays still.
        device: where to compute the field; by default, where the coefficients are.

    Returns backward displacements (N, 2, grid, grid) as x, y in shares of the crop's side.
    """
    source, _ = control_points(model, alpha, reference[0][None], reference[1][None])  # (1, P, 2)
    points, opening = control_points(model, alpha, *target)  # (N, P, 2)
    source, points, opening = (value.to(device or points.device) for value in (source, points, opening))
    weight = torch.cat([torch.ones(len(FLOW_VERTICES)), _ring_weights(model, torso)]).to(points)
    shift = (source - points) * weight[:, None]
    points = source - shift
    border = _border().to(points).expand(len(points), -1, -1)
    points = torch.cat([points, border], 1)
    shift = torch.cat([shift, torch.zeros_like(border)], 1)
    softening = torch.full((points.shape[1],), ANCHOR_SOFTENING).to(points)
    softening[: len(FLOW_VERTICES)] = SOFTENING
    line = (torch.arange(grid, device=points.device, dtype=points.dtype) + 0.5) / grid
    cells = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(1, -1, 2)
    squared = (
        (cells**2).sum(-1, keepdim=True)
        + ((points**2).sum(-1) + softening)[:, None]
        - 2 * cells @ points.transpose(1, 2)
    )  # (N, grid^2, P)
    weights = squared.clamp(min=SOFTENING / 2).square_().reciprocal_()
    strength = torch.ones_like(shift[..., :1])
    seen = ((opening - IRIS_HIDDEN) / (IRIS_SEEN - IRIS_HIDDEN)).clamp(1e-3, 1)
    strength[:, _IRIS] = seen[:, None, None]
    flow = weights @ torch.cat([shift * strength, strength], -1)
    flow = flow[..., :2] / flow[..., 2:]
    return flow.transpose(1, 2).reshape(len(points), 2, grid, grid)


def warp(picture: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Warp one picture (3, S, S), or as many as flows, by backward flows (N, 2, g, g) -> (N, 3, S, S)."""
    size = picture.shape[-1]
    full = F.interpolate(flow, size=(size, size), mode="bilinear", align_corners=False)
    line = (torch.arange(size, device=flow.device, dtype=flow.dtype) + 0.5) / size
    cells = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    where = (cells + full.permute(0, 2, 3, 1)) * 2 - 1
    pictures = picture.expand(len(flow), *picture.shape[-3:])
    return F.grid_sample(pictures, where, mode="bilinear", padding_mode="border", align_corners=False)


def region_masks(landmarks: torch.Tensor, cells: int) -> torch.Tensor:
    """Soft masks of lips, mouth opening, eyes and face. Landmarks (N, 478, 2+) in shares -> (N, 4, cells, cells)."""
    points, whole = landmarks[..., :2].float() * cells, Box(0, 0, cells, cells)
    lips, opening, right, left, face = (
        coverage(outset(points[:, list(contour)], MASK_OUTSET), whole)
        for contour in (LIPS_OUTER, LIPS_INNER, EYE_RIGHT, EYE_LEFT, FACE_OVAL)
    )
    return torch.stack([lips, opening, torch.maximum(right, left), face], 1)


def around(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """Grow masks (N, 1, h, w) by `reach` cells, softly."""
    grown = F.max_pool2d(mask, 2 * reach + 1, 1, reach)
    return F.avg_pool2d(grown, 3, 1, 1)


def head_coordinates(pose: torch.Tensor, cells: int) -> torch.Tensor:
    """Place of each cell relative to the head: roll removed, in inter-ocular distances.

    pose (N, 6) -> (N, 2, cells, cells). Gives reference and target a common address for attention.
    """
    line = (torch.arange(cells, device=pose.device, dtype=pose.dtype) + 0.5) / cells - 0.5
    place = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)  # (c, c, 2)
    scale = pose[:, 5].exp()[:, None, None, None]
    local = place / scale - pose[:, None, None, 3:5]
    roll = torch.zeros_like(pose[:, :3])
    roll[:, 2] = pose[:, 2]
    turn = rotation_matrix(roll)[:, :2, :2]
    return torch.einsum("nxyi,nij->njxy", local, turn)
