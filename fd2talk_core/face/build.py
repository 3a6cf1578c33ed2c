"""`fd2talk build-face-model`: learn the linear face model from prepared clips."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import Delaunay

from ..errors import UserError
from ..training.data import Clip, list_clips
from .landmarks import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_OUTER,
    N_VERTICES,
    STABLE,
    eye_opening,
    inter_ocular_distance,
)
from .model import N_EXPRESSION, N_IDENTITY, REGIONS, FaceModel, similarity

log = logging.getLogger(__name__)

# Sub-regions get a PCA of their own, so that the two eyes stay apart: region -> [(vertex group, components)].
COMPONENTS = {
    "gaze": [("gaze_right", 3), ("gaze_left", 3)],
    "eyelids": [("eyelids_right", 6), ("eyelids_left", 6)],
    "brows": [("brows_right", 5), ("brows_left", 5)],
    "mouth": [("mouth", 26)],
    "rest": [("rest", 10)],
}

BLENDSHAPES = (
    "_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
    "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
    "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight "
    "jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight "
    "mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker "
    "mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft mouthSmileRight "
    "mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft noseSneerRight"
).split()

# control -> (vertex groups it may move, blendshapes with weights)
CONTROLS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "jaw_open": (("mouth",), {"jawOpen": 1}),
    "jaw_left": (("mouth",), {"jawLeft": 1}),
    "jaw_right": (("mouth",), {"jawRight": 1}),
    "mouth_wide": (("mouth",), {"mouthStretchLeft": 1, "mouthStretchRight": 1}),
    "mouth_pucker": (("mouth",), {"mouthPucker": 1}),
    "mouth_funnel": (("mouth",), {"mouthFunnel": 1}),
    "mouth_left": (("mouth",), {"mouthLeft": 1}),
    "mouth_right": (("mouth",), {"mouthRight": 1}),
    "smile_left": (("mouth",), {"mouthSmileLeft": 1}),
    "smile_right": (("mouth",), {"mouthSmileRight": 1}),
    "frown_left": (("mouth",), {"mouthFrownLeft": 1}),
    "frown_right": (("mouth",), {"mouthFrownRight": 1}),
    "lip_press": (("mouth",), {"mouthPressLeft": 1, "mouthPressRight": 1}),
    "lip_roll": (("mouth",), {"mouthRollLower": 1, "mouthRollUpper": 1}),
    "upper_lip_up": (("mouth",), {"mouthUpperUpLeft": 1, "mouthUpperUpRight": 1}),
    "lower_lip_down": (("mouth",), {"mouthLowerDownLeft": 1, "mouthLowerDownRight": 1}),
    "blink_left": (("eyelids_left",), {"eyeBlinkLeft": 1}),
    "blink_right": (("eyelids_right",), {"eyeBlinkRight": 1}),
    "squint": (("eyelids_left", "eyelids_right"), {"eyeSquintLeft": 1, "eyeSquintRight": 1}),
    "eye_wide": (("eyelids_left", "eyelids_right"), {"eyeWideLeft": 1, "eyeWideRight": 1}),
    "brow_raise_left": (("brows_left",), {"browOuterUpLeft": 1, "browInnerUp": 0.5}),
    "brow_raise_right": (("brows_right",), {"browOuterUpRight": 1, "browInnerUp": 0.5}),
    "brow_furrow": (("brows_left", "brows_right"), {"browDownLeft": 1, "browDownRight": 1}),
    "gaze_x": (
        ("gaze_left", "gaze_right"),
        {"eyeLookOutLeft": 0.5, "eyeLookInRight": 0.5, "eyeLookInLeft": -0.5, "eyeLookOutRight": -0.5},
    ),
    "gaze_y": (
        ("gaze_left", "gaze_right"),
        {"eyeLookUpLeft": 0.5, "eyeLookUpRight": 0.5, "eyeLookDownLeft": -0.5, "eyeLookDownRight": -0.5},
    ),
}


def _collect(clips: list[Clip], frames_per_clip: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Landmarks (N, 478, 3), blendshapes (N, 52), person index (N,), is-video flag (N,)."""
    points, scores, people, moving = [], [], [], []
    index: dict[str, int] = {}
    for clip in clips:
        labels = clip.labels()
        chosen = np.flatnonzero(labels.valid)
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(frames_per_clip, len(chosen))).astype(int)]
        points.append(labels.landmarks[chosen])
        scores.append(labels.blendshapes[chosen])
        # A still and a clip of one person may differ in hair or paint; treat them as two people.
        person = index.setdefault(f"{clip.identity}/{clip.still}", len(index))
        people += [person] * len(chosen)
        moving += [not clip.still] * len(chosen)
    as_tensor = lambda parts: torch.from_numpy(np.concatenate(parts)).float()  # noqa: E731
    return as_tensor(points), as_tensor(scores), torch.tensor(people), torch.tensor(moving)


def _mirror_of(mean: torch.Tensor) -> torch.Tensor:
    """Pairs of left and right vertices of a frontal mean shape, by optimal matching of its mirror image."""
    flipped = mean * torch.tensor([-1.0, 1.0, 1.0])
    _, match = linear_sum_assignment(torch.cdist(flipped, mean).numpy())
    return torch.from_numpy(match).long()


def _frontalise(mean: torch.Tensor) -> torch.Tensor:
    """Turn a mean shape upright and frontal, with one inter-ocular distance as its unit."""
    mean = mean / inter_ocular_distance(mean)
    for _ in range(3):
        mean = mean - mean[list(STABLE)].mean(0)
        across = mean[263] - mean[33]
        up = mean[152] - mean[10]
        x = across / across.norm()
        y = up - (up @ x) * x
        y = y / y.norm()
        mean = mean @ torch.stack([x, y, torch.linalg.cross(x, y)]).T
    return mean


def _align(points: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Landmarks in the head frame of `mean`, by similarity on stable vertices."""
    stable = list(STABLE)
    scale, rotation, shift = similarity(mean[None, stable].expand(len(points), -1, -1), points[:, stable])
    return ((points - shift[:, None]) / scale[:, None, None]) @ rotation


def vertex_groups(mean: torch.Tensor) -> dict[str, torch.Tensor]:
    """Disjoint vertex groups of the mean face that partition all 478 vertices."""

    def near(indices: tuple[int, ...], reach: float) -> torch.Tensor:
        return torch.cdist(mean[:, :2], mean[list(indices), :2]).min(1).values < reach

    free = torch.ones(N_VERTICES, dtype=torch.bool)
    groups: dict[str, torch.Tensor] = {}

    def take(name: str, chosen: torch.Tensor) -> None:
        groups[name] = (chosen & free).nonzero()[:, 0]
        free[groups[name]] = False

    iris = torch.zeros(N_VERTICES, dtype=torch.bool)
    iris[list(IRIS_RIGHT)] = True
    take("gaze_right", iris)
    iris[:] = False
    iris[list(IRIS_LEFT)] = True
    take("gaze_left", iris)
    right = mean[:, 0] < 0
    brows = torch.zeros(N_VERTICES, dtype=torch.bool)
    brows[list(BROW_RIGHT + BROW_LEFT)] = True
    eye_line = mean[[33, 133, 362, 263], 1].mean()
    brow_line = mean[list(BROW_RIGHT + BROW_LEFT), 1].max()
    forehead = (mean[:, 1] < brow_line) & near(BROW_RIGHT + BROW_LEFT, 0.22)
    eyelids = near(EYE_RIGHT + EYE_LEFT, 0.13) & ~brows & (mean[:, 1] > brow_line - 0.02)
    take("eyelids_right", eyelids & right)
    take("eyelids_left", eyelids & ~right)
    take("brows_right", (brows | forehead) & right)
    take("brows_left", (brows | forehead) & ~right)
    nose_base = mean[2, 1]
    below = (mean[:, 1] > nose_base + 0.01) | near(LIPS_OUTER, 0.1)
    take("mouth", below & (mean[:, 1] > eye_line))
    take("rest", free.clone())
    return groups


def _pca(data: torch.Tensor, components: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions (components, D) through the origin and the standard deviations along them."""
    _, singular, directions = torch.linalg.svd(data, full_matrices=False)
    return directions[:components], singular[:components] / len(data) ** 0.5


def _regress(scores: torch.Tensor, targets: torch.Tensor, ridge: float = 20.0) -> torch.Tensor:
    """Ridge regression without intercept: (N, 52) -> (N, K); returns (52, K)."""
    return torch.linalg.solve(scores.T @ scores + ridge * torch.eye(scores.shape[1]), scores.T @ targets)


def _expression_basis(offsets: torch.Tensor, groups: dict[str, torch.Tensor]):
    basis = torch.zeros(N_EXPRESSION, N_VERTICES, 3)
    std = torch.zeros(N_EXPRESSION)
    slices, parts, row = {}, {}, 0
    for region in REGIONS:
        first = row
        for group, count in COMPONENTS[region]:
            directions, deviations = _pca(offsets[:, groups[group]].reshape(len(offsets), -1), count)
            basis[row : row + count, groups[group]] = directions.reshape(count, -1, 3)
            std[row : row + count] = deviations
            parts[group] = slice(row, row + count)
            row += count
        slices[region] = slice(first, row)
    return basis, std, slices, parts


def _calibrated_blink(model: FaceModel, side: str) -> float:
    """Factor that makes the control at 1.0 just close the mean face's eye."""
    vector = model.controls[f"blink_{side}"]
    upper, lower = ((386, 374) if side == "left" else (159, 145))
    factors = torch.linspace(0.3, 4, 75)
    shapes = model.vertices(torch.zeros(len(factors), N_IDENTITY), factors[:, None] * vector)
    gap = shapes[:, lower, 1] - shapes[:, upper, 1]
    rest = model.mean[lower, 1] - model.mean[upper, 1]
    return float(factors[(gap - 0.06 * rest).abs().argmin()])


def build_face_model(folders: list[Path], out: Path, frames_per_clip: int = 40) -> FaceModel:
    """Learn mean, identity (80) and regional expression (64) bases and named controls, and write them to `out`.

    Expression comes from how each person of the videos departs from their own neutral face; identity from all
    people, after the expression that the blendshape scores tell has been taken away. Held-back clips are not used.
    """
    clips = [clip for folder in folders for clip in list_clips(folder) if not clip.held_back]
    dominant = {}
    for clip in clips:
        dominant[clip.identity] = dominant.get(clip.identity, 0) + 1
    # One talker with hundreds of clips must not define what faces do: he gives as many frames as thirty clips.
    few = [c for c in clips if dominant[c.identity] < 50]
    many = [c for c in clips if dominant[c.identity] >= 50]
    points, scores, people, moving = _collect(few + many[:: max(1, len(many) // 30)], frames_per_clip)
    if int(people.max()) < 3 or not moving.any():
        raise UserError("A face model needs videos of several people. Prepare more clips first.")
    log.info("%d frames of %d people", len(points), int(people.max()) + 1)

    mean = _frontalise(points[0])
    for _ in range(4):
        mean = _frontalise(_align(points, mean).mean(0))
    mirror = _mirror_of(mean)
    mean = _frontalise((mean + mean[mirror] * torch.tensor([-1.0, 1.0, 1.0])) / 2)
    shapes = _align(points, mean)
    keep = (shapes - mean).norm(dim=-1).mean(1) < 0.25
    shapes, scores, people, moving = shapes[keep], scores[keep], people[keep], moving[keep]
    groups = vertex_groups(mean)

    n_people = int(people.max()) + 1
    predicted = torch.zeros_like(shapes)
    for _ in range(3):
        neutral = torch.zeros(n_people, N_VERTICES, 3).index_add_(0, people, shapes - predicted)
        neutral = neutral / torch.bincount(people, minlength=n_people).clamp(min=1)[:, None, None]
        offsets = (shapes - neutral[people])[moving]
        basis, std, slices, parts = _expression_basis(offsets, groups)
        beta = offsets.reshape(len(offsets), -1) @ basis.reshape(N_EXPRESSION, -1).T
        weights = _regress(scores[moving], beta)
        predicted = torch.einsum("nk,kvc->nvc", scores @ weights, basis)
    people_seen = torch.bincount(people, minlength=n_people) > 0
    neutral = neutral[people_seen]
    mean = neutral.mean(0)
    mean = (mean + mean[mirror] * torch.tensor([-1.0, 1.0, 1.0])) / 2
    both = torch.cat([neutral, neutral[:, mirror] * torch.tensor([-1.0, 1.0, 1.0])]) - mean
    id_basis, id_std = _pca(both.reshape(len(both), -1), N_IDENTITY)
    if len(id_basis) < N_IDENTITY:
        raise UserError(f"Only {len(neutral)} people were found, too few for 80 identity shapes. Prepare more faces.")
    residual = offsets - torch.einsum("nk,kvc->nvc", beta, basis)

    region_of = torch.zeros(N_VERTICES, dtype=torch.long)
    for number, region in enumerate(REGIONS):
        for group, _ in COMPONENTS[region]:
            region_of[groups[group]] = number
    group_region = {group: region for region, members in COMPONENTS.items() for group, _ in members}
    controls, control_regions = {}, {}
    for name, (allowed, recipe) in CONTROLS.items():
        vector = torch.zeros(N_EXPRESSION)
        for shape, weight in recipe.items():
            row = weights[BLENDSHAPES.index(shape)]
            for group in allowed:
                vector[parts[group]] += weight * row[parts[group]]
        controls[name], control_regions[name] = vector, group_region[allowed[0]]
    model = FaceModel(
        mean, id_basis.reshape(N_IDENTITY, N_VERTICES, 3), basis, id_std, std, residual.std(), slices, region_of,
        controls, control_regions, torch.from_numpy(Delaunay(mean[:, :2].numpy()).simplices).long(), mirror,
    )  # fmt: skip
    for side in ("left", "right"):
        controls[f"blink_{side}"] *= _calibrated_blink(model, side)
    shut = model.vertices(torch.zeros(N_IDENTITY), controls["blink_left"] + controls["blink_right"])
    log.info("eye opening %.3f -> %.3f with both blinks on", eye_opening(mean), eye_opening(shut))
    model.save(
        out,
        {
            "data": [str(folder) for folder in folders],
            "frames": len(shapes),
            "people": int(people_seen.sum()),
            "command": f"fd2talk build-face-model {' '.join(map(str, folders))}",
        },
    )
    return FaceModel.load(out)
