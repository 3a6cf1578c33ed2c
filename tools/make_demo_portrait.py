"""Makes assets/portrait.png and assets/portrait_stylised.png: a person who does not exist.

The portrait is the average of official portraits of the US Congress (works of the US government, public domain)
after each was warped, piecewise affine over its 478 face landmarks, to the mean shape of the group. Averaging blurs
whatever the landmarks do not align, so every band of detail is then amplified towards the strength that it has in a
single photo. The stylised portrait is a painting made from that average by filters.

    python tools/make_demo_portrait.py PREPARED_PORTRAITS assets

PREPARED_PORTRAITS is what `fd2talk prepare` made of the portraits: NAME.png, NAME.safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter

from fd2talk_core.face.landmarks import FACE_OVAL, OUTER_EYE_CORNERS, STABLE

SIZE = 512
EYES_AT = (0.5, 0.44)
EYE_DISTANCE = 0.245
# Rings of anchors outside the face, as multiples of its oval, so that hair, ears and neck follow the head.
RINGS = (1.2, 1.45, 1.8)
# Outline of the shoulders, as shares of the picture's side.
SHOULDERS = (
    (0.36, 0.62), (0.33, 0.73), (0.24, 0.79), (0.06, 0.86), (-0.1, 0.93), (-0.1, 1.1),
    (1.1, 1.1), (1.1, 0.93), (0.95, 0.86), (0.77, 0.79), (0.68, 0.73), (0.65, 0.62),
)  # fmt: skip
SIGMAS = (0.8, 1.6, 3.2, 6.4, 12.8)


def aligned(points: np.ndarray) -> np.ndarray:
    """Similarity-transform landmarks (478, 2) so that the outer eye corners lie at a fixed place of the picture."""
    right, left = points[list(OUTER_EYE_CORNERS)]
    scale = EYE_DISTANCE * SIZE / np.hypot(*(left - right))
    angle = np.arctan2(*(left - right)[::-1])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - (right + left) / 2) @ turn + np.array(EYES_AT) * SIZE


def anchors(points: np.ndarray) -> np.ndarray:
    """Landmarks plus rings around the face: (N, 2) in the unit of `points`."""
    oval = points[list(FACE_OVAL)]
    centre = oval.mean(0)
    return np.concatenate([points, *[centre + ring * (oval - centre) for ring in RINGS]])


def border(size: float) -> np.ndarray:
    side = np.linspace(-0.6, 1.6, 7) * size
    return np.array([(x, y) for x in side for y in side if x in side[[0, -1]] or y in side[[0, -1]]])


def warp(picture: np.ndarray, points: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Warp float (H, W, 3) so that its landmarks land on `target`; also returns where the picture reaches (S, S)."""
    source, goal = anchors(points), anchors(target)
    fit = np.linalg.lstsq(np.c_[target[list(STABLE)], np.ones(len(STABLE))], points[list(STABLE)], rcond=None)[0]
    edge = border(SIZE)
    source = np.concatenate([source, np.c_[edge, np.ones(len(edge))] @ fit])
    ys, xs = np.mgrid[:SIZE, :SIZE] + 0.5
    position = LinearNDInterpolator(np.concatenate([goal, edge]), source)(xs, ys) - 0.5
    height, width = picture.shape[:2]
    inside = ((position > 0) & (position < (width - 1, height - 1))).all(-1)
    coordinates = [position[..., 1], position[..., 0]]
    bands = [map_coordinates(picture[..., c], coordinates, order=3, mode="nearest") for c in range(3)]
    return np.stack(bands, -1), inside.astype(np.float32)


def detail_bands(picture: np.ndarray) -> list[np.ndarray]:
    """Laplacian stack: differences of Gaussians, fine to coarse, then the remainder. They sum to the picture."""
    levels = [picture] + [gaussian_filter(picture, (s, s, 0)) for s in SIGMAS]
    return [a - b for a, b in zip(levels[:-1], levels[1:], strict=True)] + [levels[-1]]


def soft_mask(points: np.ndarray, indices, grow: float, blur: float) -> np.ndarray:
    """Filled outline of some landmarks, scaled about its centre, with a soft edge. (S, S) in 0..1."""
    outline = points[list(indices)]
    return filled(outline.mean(0) + grow * (outline - outline.mean(0)), blur)


def filled(outline: np.ndarray, blur: float) -> np.ndarray:
    canvas = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in outline], fill=255)
    return gaussian_filter(np.asarray(canvas, np.float32) / 255, blur)


def average(names: list[str], data: Path) -> tuple[np.ndarray, np.ndarray]:
    """The group's mean face, float (S, S, 3) 0..255, and its landmarks (478, 2)."""
    pictures, shapes = [], []
    for name in names:
        picture = np.asarray(Image.open(data / f"{name}.png").convert("RGB"), np.float32)
        pictures.append(picture)
        shapes.append(load_file(data / f"{name}.safetensors")["landmarks"][0, :, :2] * picture.shape[1])
    target = np.mean([aligned(shape) for shape in shapes], axis=0)
    target = (target + mirrored(target)) / 2
    face = soft_mask(target, FACE_OVAL, 0.95, 4)[..., None]

    warped, weights = [], []
    for picture, shape in zip(pictures, shapes, strict=True):
        result, inside = warp(picture, shape, target)
        warped.append(result)
        weights.append(gaussian_filter(inside, 3) + 1e-3)
    colours = np.array([(w * face).sum((0, 1)) / face.sum() for w in warped])
    goal = np.median(colours, axis=0)
    warped = [w * (goal / c) for w, c in zip(warped, colours, strict=True)]

    weights = np.stack(weights)[..., None]
    stacks = [detail_bands(w) for w in warped]
    result = np.zeros((SIZE, SIZE, 3))
    for level in range(len(SIGMAS) + 1):
        band = np.stack([stack[level] for stack in stacks])
        mean = (band * weights).sum(0) / weights.sum(0)
        if level < len(SIGMAS):
            single = np.sqrt(np.median([energy(b) for b in band], axis=0))
            gain = np.clip(0.75 * single / (np.sqrt(energy(mean)) + 0.15), 1, (2.6, 2.6, 2.2, 1.6, 1.2)[level])
            mean = mean * (1 + (gain - 1) * face)
        result += mean
    # Neck and collar are not aligned; the median keeps their edges where a mean has ghosts. Hair looks best as a mean.
    rows = np.mgrid[:SIZE, :SIZE][0]
    above = gaussian_filter((rows < target[list(FACE_OVAL), 1].mean()).astype(float), 20)
    wide = np.maximum(soft_mask(target, FACE_OVAL, 1.04, 9), above)[..., None]
    softened = np.median([gaussian_filter(w, (1.5, 1.5, 0)) for w in warped], axis=0)
    tint = gaussian_filter(result - result.mean(-1, keepdims=True), (5, 5, 0))
    softened = softened.mean(-1, keepdims=True) + tint
    return wide * result + (1 - wide) * softened, target


def energy(band: np.ndarray) -> np.ndarray:
    return gaussian_filter((band**2).mean(-1, keepdims=True), (6, 6, 0))


def mirrored(points: np.ndarray) -> np.ndarray:
    """The face seen in a mirror, with each landmark back at its own name (nearest neighbour after reflection)."""
    flipped = points * (-1, 1) + (2 * EYES_AT[0] * SIZE, 0)
    distance = np.linalg.norm(points[:, None] - flipped[None], axis=-1)
    return flipped[distance.argmin(1)]


def finish(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plain soft background, quieter colours, deeper contrast, fine grain. uint8 (S, S, 3)."""
    hair = points[list(FACE_OVAL)]
    hair = hair.mean(0) + (hair - hair.mean(0)) * (1.24, 1.56) - (0, 0.025 * SIZE)
    person = np.maximum(filled(hair, 7), filled(np.array(SHOULDERS) * SIZE, 7))[..., None]
    away = np.clip(1 - 1.6 * gaussian_filter(person, (9, 9, 0)), 1e-3, 1)
    backdrop = gaussian_filter(picture * away, (90, 90, 0)) / gaussian_filter(away, (90, 90, 0))
    backdrop = backdrop.mean(-1, keepdims=True) + 0.5 * (backdrop - backdrop.mean(-1, keepdims=True))
    picture = person * picture + (1 - person) * backdrop
    chest = gaussian_filter((np.mgrid[:SIZE, :SIZE][0] > 0.8 * SIZE).astype(float), 0.02 * SIZE)[..., None]
    cloth = gaussian_filter(picture, (2.5, 2.5, 0))
    picture = picture + chest * (0.7 * cloth + 0.3 * cloth.mean(-1, keepdims=True) - picture)
    grey = picture.mean(-1, keepdims=True)
    tones = np.clip((grey + 0.84 * (picture - grey)) / 255, 0, 1)
    tones = tones + 0.05 * np.sin(2 * np.pi * (tones - 0.5))
    grain = gaussian_filter(rng.normal(0, 1, (SIZE, SIZE, 1)), (0.7, 0.7, 0)) * 2.2
    return np.clip(tones * 255 + grain, 0, 255).round().astype(np.uint8)


def painted(picture: np.ndarray, radius: int = 4) -> np.ndarray:
    """Oil paint (Kuwahara filter: the calmest of four neighbouring squares), fewer tones, dark drawn edges."""
    x = gaussian_filter(picture.astype(np.float64), (0.7, 0.7, 0))
    x = np.pad(x, ((2 * radius,) * 2, (2 * radius,) * 2, (0, 0)), mode="reflect")
    size = radius + 1
    mean = uniform_filter(x, (size, size, 0))
    spread = (uniform_filter(x**2, (size, size, 0)) - mean**2).sum(-1)
    step = (size + 1) // 2
    shifts = [(dy, dx) for dy in (-step, step) for dx in (-step, step)]
    means = np.stack([np.roll(mean, s, (0, 1)) for s in shifts])
    calmest = np.stack([np.roll(spread, s, (0, 1)) for s in shifts]).argmin(0)
    paint = np.take_along_axis(means, calmest[None, ..., None], 0)[0]
    grey = gaussian_filter(x.mean(-1), 1.0)
    edge = grey - gaussian_filter(grey, 2.2)
    line = np.clip(1 + np.tanh(0.22 * (edge + 1.5)), 0.45, 1)[..., None]
    paint = paint + 4 * np.sin(2 * np.pi * paint / 26)
    warm = paint * (1.05, 1.0, 0.92) + (3, 0, -2)
    saturated = warm.mean(-1, keepdims=True) + 1.25 * (warm - warm.mean(-1, keepdims=True))
    result = np.clip(saturated * line, 0, 255).round().astype(np.uint8)
    return result[2 * radius : -2 * radius, 2 * radius : -2 * radius]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    names = (Path(__file__).with_name("demo_portrait_sources.txt")).read_text(encoding="utf-8").split()
    mean, points = average(names, arguments.portraits)
    portrait = finish(mean, points, np.random.default_rng(0))
    Image.fromarray(portrait).save(arguments.out / "portrait.png", optimize=True)
    Image.fromarray(painted(portrait)).save(arguments.out / "portrait_stylised.png", optimize=True)


if __name__ == "__main__":
    main()
