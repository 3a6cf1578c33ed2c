"""Training samples of the tracker: face crops for the regressor, whole scenes for the detector."""

from __future__ import annotations

import cv2
import numpy as np

from ..face.detector import STRIDE
from ..face.landmarks import face_box
from .tracker_data import UNUSUAL, Sample, View, border_of, face_view
from .tracker_looks import background, damage, light, occlude, stylise

NEGATIVES = 0.12
SMALLEST, LARGEST = 14.0, 0.9  # face's longer side: pixels, and share of the scene


class Source:
    """Draws training faces: first a kind, then a clip of it, then a frame, so that long clips do not dominate."""

    def __init__(self, samples: list[Sample], shares: dict[str, float]):
        self.clips: dict[str, list[list[Sample]]] = {}
        for kind in shares:
            clips: dict[str, list[Sample]] = {}
            for sample in samples:
                if sample.kind == kind or (kind == "unusual" and sample.kind in UNUSUAL):
                    clips.setdefault(sample.clip, []).append(sample)
            if clips:
                self.clips[kind] = list(clips.values())
        weights = np.array([shares[kind] for kind in self.clips])
        self.kinds, self.weights = list(self.clips), weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> Sample:
        clips = self.clips[self.kinds[rng.choice(len(self.kinds), p=self.weights)]]
        clip = clips[rng.integers(len(clips))]
        return clip[rng.integers(len(clip))]


def regressor_sample(
    rng: np.random.Generator, source: Source, mirror: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """A crop uint8 (size, size, 3), its landmarks (478, 3) as a share of the crop, and 1.0 if it shows a face."""
    sample = source.draw(rng)
    if rng.random() < NEGATIVES:
        return _no_face(rng, source, sample, size), np.zeros((478, 3), np.float32), 0.0
    view = face_view(rng, sample, wide=rng.random() < 0.5)
    crop = view.warp(sample.picture, size, *border_of(rng))
    if rng.random() < 0.1:
        crop = stylise(rng, crop)
    if rng.random() < 0.25:
        crop = occlude(rng, crop, source.draw(rng).picture)
    crop = damage(rng, light(rng, crop))
    return crop, view.move(sample.landmarks, size, mirror), 1.0


def _no_face(rng: np.random.Generator, source: Source, sample: Sample, size: int) -> np.ndarray:
    """What the regressor must refuse: other things, parts of a face, faces far off the middle, hidden faces."""
    draw = rng.random()
    view = face_view(rng, sample, wide=True)
    if draw < 0.4:
        crop = background(rng, size, sample.picture)
    elif draw < 0.6:  # far off the middle
        angle = rng.uniform(0, 2 * np.pi)
        view.cx += np.cos(angle) * view.side * rng.uniform(0.6, 0.9)
        view.cy += np.sin(angle) * view.side * rng.uniform(0.6, 0.9)
        crop = view.warp(sample.picture, size, *border_of(rng))
    elif draw < 0.75:  # a part, much too near
        index = rng.integers(468)
        view.cx, view.cy = (float(v) for v in sample.landmarks[index, :2])
        view.side *= rng.uniform(0.12, 0.22)
        crop = view.warp(sample.picture, size, *border_of(rng))
    else:  # the head with something else where the face would be
        crop = view.warp(sample.picture, size, *border_of(rng))
        mask = np.zeros((size, size), np.uint8)
        axes = (int(size * rng.uniform(0.3, 0.4)), int(size * rng.uniform(0.38, 0.46)))
        cv2.ellipse(mask, (size // 2, size // 2), axes, float(rng.uniform(-30, 30)), 0, 360, 255, -1)
        crop = cv2.copyTo(background(rng, size, source.draw(rng).picture), mask, crop)
    if rng.random() < 0.1:
        crop = stylise(rng, crop)
    return damage(rng, light(rng, crop))


def detector_sample(
    rng: np.random.Generator, source: Source, mirror: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """A scene uint8 (size, size, 3) and the boxes of its faces (N, 4) as a share of its side."""
    draw = rng.random()
    if draw < 0.4:
        scene, boxes = _single(rng, source, mirror, size)
    elif draw < 0.5:
        scene, boxes = _collage(rng, source, mirror, size)
    else:
        scene, boxes = _pasted(rng, source, mirror, size)
    if rng.random() < 0.25:
        scene = stylise(rng, scene)
    scene = damage(rng, light(rng, scene))
    if draw < 0.4 and rng.random() < 0.35:  # letterbox, as at run time
        cut = int(size * rng.uniform(0.4, 0.95))
        below = rng.random() < 0.5
        limits = np.array([1, cut / size, 1, cut / size] if below else [cut / size, 1, cut / size, 1])
        if not len(boxes) or (boxes <= limits).all():
            scene = scene.copy()
            scene[(slice(cut, None), slice(None)) if below else (slice(None), slice(cut, None))] = 128
    return scene, boxes


def _single(rng, source, mirror, size):
    """One picture fills the scene, its face anywhere from an eighth to nine tenths of the side."""
    sample = source.draw(rng)
    x0, y0, x1, y1 = face_box(sample.landmarks)
    share = float(np.exp(rng.uniform(np.log(0.12), np.log(LARGEST))))
    side = max(x1 - x0, y1 - y0) / share
    free = max(0.0, (1 - share) / 2) * side
    view = View(
        (x0 + x1) / 2 + rng.uniform(-free, free),
        (y0 + y1) / 2 + rng.uniform(-free, free),
        side,
        rng.uniform(-0.5, 0.5) if rng.random() < 0.5 else 0.0,
        float(np.exp(rng.uniform(-0.08, 0.08))),
        rng.random() < 0.5,
    )
    scene = view.warp(sample.picture, size, *border_of(rng))
    box = np.array([face_box(view.move(sample.landmarks, size, mirror))], np.float32)
    return scene, box if box.min() > -0.05 and box.max() < 1.05 else _clip_boxes(box)


def _clip_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes cut at the border, without those of which less than 60 % remains."""
    cut = boxes.clip(0, 1)
    area, rest = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, cut))
    return cut[rest > 0.6 * area]


def _collage(rng, source, mirror, size):
    """A grid of pictures side by side, some cells without a face."""
    cells = int(rng.choice([2, 3]))
    edge = size // cells
    scene = background(rng, size, source.draw(rng).picture)
    boxes = []
    for row in range(cells):
        for column in range(cells):
            if rng.random() < 0.2:
                tile = background(rng, edge, source.draw(rng).picture)
            else:
                tile, found = _single(rng, source, mirror, edge)
                boxes.extend((box + [column, row, column, row]) * edge / size for box in found)
            scene[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge] = tile
    boxes = [box for box in boxes if max(box[2] - box[0], box[3] - box[1]) * size >= SMALLEST]
    return scene, np.array(boxes, np.float32).reshape(-1, 4)


def _pasted(rng, source, mirror, size):
    """Up to four heads, and things that are none, on a background without faces."""
    scene = background(rng, size, source.draw(rng).picture)
    taken = np.zeros((0, 4), np.float32)
    boxes = []
    for _ in range(int(rng.integers(0, 3))):
        edge = int(rng.integers(size // 10, size // 2))
        thing = background(rng, edge, source.draw(rng).picture)
        x, y = (int(v) for v in rng.integers(0, size - edge, 2))
        scene[y : y + edge, x : x + edge] = thing
    for _ in range(int(rng.choice([0, 1, 2, 3, 4], p=(0.08, 0.3, 0.26, 0.2, 0.16)))):
        sample = source.draw(rng)
        face = float(np.exp(rng.uniform(np.log(SMALLEST + 1), np.log(0.5 * size))))
        x0, y0, x1, y1 = face_box(sample.landmarks)
        roll = rng.normal(0, 0.25)
        edge = int(face * rng.uniform(1.3, 2.2))
        if edge >= size:
            continue
        x, y = (int(v) for v in rng.integers(0, size - edge, 2))
        area = np.array([x, y, x + edge, y + edge], np.float32)
        if (
            len(taken)
            and ((np.minimum(taken[:, 2:], area[2:]) - np.maximum(taken[:, :2], area[:2])).clip(0).prod(1) > 0).any()
        ):
            continue
        side = max(x1 - x0, y1 - y0) * edge / face
        view = View((x0 + x1) / 2, (y0 + y1) / 2, side, roll, 1.0, rng.random() < 0.5)
        head = light(rng, view.warp(sample.picture, edge, *border_of(rng)))
        mask = _soft_mask(rng, edge, face / edge)
        part = scene[y : y + edge, x : x + edge]
        part[:] = (part + mask * (head.astype(np.float32) - part)).astype(np.uint8)
        box = np.array(face_box(view.move(sample.landmarks, edge, mirror))).clip(0, 1) * edge
        boxes.append((box + [x, y, x, y]) / size)
        taken = np.concatenate([taken, area[None]])
    return scene, np.array(boxes, np.float32).reshape(-1, 4)


def _soft_mask(rng: np.random.Generator, edge: int, face: float) -> np.ndarray:
    """How a pasted head blends in, float32 (edge, edge, 1): as a rectangle, or as an oval around the face."""
    if rng.random() < 0.45:
        return np.ones((1, 1, 1), np.float32)
    ys, xs = np.mgrid[:edge, :edge].astype(np.float32) / edge * 2 - 1
    radius = np.sqrt((xs / rng.uniform(0.9, 1.1)) ** 2 + ys**2)
    hem = rng.uniform(0.05, 0.3)
    inner = max(face * 1.05, 1.0 - hem)
    return np.clip((inner + hem - radius) / hem, 0, 1)[..., None]


def detector_targets(boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heat (H, H), box values (4, H, H) as `FaceDetector` gives them, and their weights (H, H), for one scene."""
    cells = size // STRIDE
    heat, weight = np.zeros((cells, cells), np.float32), np.zeros((cells, cells), np.float32)
    values = np.zeros((4, cells, cells), np.float32)
    ys, xs = (np.mgrid[:cells, :cells].astype(np.float32) + 0.5) / cells
    order = np.argsort([-(b[2] - b[0]) for b in boxes]) if len(boxes) else []
    for box in boxes[order] if len(boxes) else boxes:
        w, h = box[2] - box[0], box[3] - box[1]
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        sigma_x, sigma_y = (max(0.6 / cells, 0.1 * v) for v in (w, h))
        bump = np.exp(-((xs - cx) ** 2) / (2 * sigma_x**2) - (ys - cy) ** 2 / (2 * sigma_y**2))
        peak = (min(cells - 1, int(cy * cells)), min(cells - 1, int(cx * cells)))
        bump[peak] = 1.0
        heat = np.maximum(heat, bump)
        near = bump > 0.5
        share = bump[near] / bump[near].sum()
        weight[near] = share
        values[:, near] = np.stack(
            [(cx - xs[near]) / w, (cy - ys[near]) / h, np.full(near.sum(), np.log(w)), np.full(near.sum(), np.log(h))]
        )
    return heat, values, weight
