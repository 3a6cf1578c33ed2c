"""Pictures with tracked faces for training the tracker: a cache of small frames, and augmented samples from it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from ..face.landmarks import inter_ocular_distance
from ..face.tracker import roll_of, upright_crop
from .data import Clip, list_clips

log = logging.getLogger(__name__)

PICTURE_SIDE = 320
EVERY = 8
TALKER = "grid_s1_"  # a thousand clips of one man: one frame each is plenty
UNUSUAL = ("stylised", "painting", "sculpture", "animal", "ai_photo")
KINDS = ("grid", "clip", "official", "photo", *UNUSUAL)


@dataclass
class Sample:
    """One cached picture: uint8 RGB (h, w, 3), landmarks float32 (478, 3) in its pixels, and where it comes from."""

    picture: np.ndarray
    landmarks: np.ndarray
    kind: str
    clip: str
    held_back: bool


def kind_of(clip: Clip) -> str:
    """Coarse kind, by which samples are drawn and results are reported."""
    if not clip.still:
        return "grid" if clip.name.startswith(TALKER) else "clip"
    for kind in ("official", *UNUSUAL):
        if clip.name.startswith(kind):
            return kind
    return "photo"


def _cache_clip(clip: Clip) -> list[tuple[np.ndarray, np.ndarray]]:
    labels = clip.labels()
    frames = clip.frames()
    usable = np.flatnonzero(labels.valid[: len(frames)])
    if clip.name.startswith(TALKER):
        # Not always the same moment of the sentence, but the same one in every run.
        usable = usable[sum(clip.name.encode()) % max(1, len(usable)) :][:1]
    elif not clip.still:
        usable = usable[::EVERY]
    found = []
    for index in usable:
        picture, points = frames[index], labels.landmarks[index]
        scale = min(1.0, PICTURE_SIDE / max(picture.shape[:2]))
        if scale < 1:
            side = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
            picture = cv2.resize(picture, side, interpolation=cv2.INTER_AREA)
        found.append((picture, (points * scale).astype(np.float32)))
    return found


def build_cache(folders: list[Path], cache: Path) -> None:
    """Write `pictures.npy` (all pixels in one row), `landmarks.npy` and `index.json` into `cache`, once."""
    clips = [clip for folder in folders for clip in list_clips(folder)]
    key = [clip.name for clip in clips]
    index_path = cache / "index.json"
    if index_path.is_file() and json.loads(index_path.read_text())["clips"] == key:
        return
    cache.mkdir(parents=True, exist_ok=True)
    pixels, landmarks, rows, offset = [], [], [], 0
    for number, clip in enumerate(tqdm(clips, desc="cache", unit="clip")):
        for picture, points in _cache_clip(clip):
            rows.append([number, offset, picture.shape[0], picture.shape[1]])
            pixels.append(picture.reshape(-1))
            landmarks.append(points)
            offset += picture.size
    np.save(cache / "pictures.npy", np.concatenate(pixels))
    np.save(cache / "landmarks.npy", np.stack(landmarks))
    index_path.write_text(json.dumps({"clips": key, "rows": rows}))


def load_cache(folders: list[Path], cache: Path) -> list[Sample]:
    """Samples of prepared folders, split as `list_clips` splits; builds the cache when it is missing or old."""
    build_cache(folders, cache)
    clips = [clip for folder in folders for clip in list_clips(folder)]
    pixels = np.load(cache / "pictures.npy", mmap_mode="r")
    landmarks = np.load(cache / "landmarks.npy")
    rows = json.loads((cache / "index.json").read_text())["rows"]
    samples = []
    for (number, offset, h, w), points in zip(rows, landmarks, strict=True):
        clip = clips[number]
        picture = pixels[offset : offset + h * w * 3].reshape(h, w, 3)
        samples.append(Sample(picture, points, kind_of(clip), clip.name, clip.held_back))
    return samples


def mirror_permutation(landmarks: np.ndarray) -> np.ndarray:
    """Which vertex takes whose place in a mirrored face, int64 (478,), from the mean shape of many faces.

    landmarks (N, 478, 3): faces are made upright, averaged, mirrored, and matched by least total distance. The costs
    are symmetric, so that the match is its own inverse.
    """
    upright = []
    for points in landmarks:
        roll = roll_of(points)
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        flat = (points - points.mean(0)) / inter_ocular_distance(points)
        asymmetry = abs((flat[:, :2] @ turn)[1, 0])  # a turned head shows the nose off the middle
        if asymmetry < 0.04:
            upright.append(np.concatenate([flat[:, :2] @ turn, flat[:, 2:]], 1))
    mean = np.mean(upright, axis=0)
    for _ in range(3):  # the middle of the face follows from the match itself
        mirrored = mean * np.array([-1.0, 1.0, 1.0])
        cost = ((mirrored[:, None] - mean[None]) ** 2).sum(-1)
        match = linear_sum_assignment(cost)[1]
        mean[:, 0] -= (mean[:, 0] + mean[match, 0]).mean() / 2
    if (match[match] != np.arange(len(match))).any():
        raise ValueError("The mirror match is not its own inverse: the faces are not frontal enough.")
    return match.astype(np.int64)


# --- geometry ---------------------------------------------------------------------------------------------------


@dataclass
class View:
    """How a square of `size` pixels looks at a picture: centre and side in picture pixels, turn, stretch, mirror."""

    cx: float
    cy: float
    side: float
    roll: float
    stretch: float = 1.0
    mirrored: bool = False

    def matrix(self, size: int) -> np.ndarray:
        """Affine (2, 3) from picture to square, in edge-based coordinates (0,0 is the corner of the first pixel)."""
        c, s = np.cos(self.roll), np.sin(self.roll)
        turn = np.array([[c, s], [-s, c]]) * size / self.side
        turn[0] *= self.stretch * (-1 if self.mirrored else 1)
        turn[1] /= self.stretch
        return np.concatenate([turn, (size / 2 - turn @ [self.cx, self.cy])[:, None]], 1)

    def warp(self, picture: np.ndarray, size: int, border: int, colour: tuple[int, ...]) -> np.ndarray:
        scale = size / self.side
        matrix = self.matrix(size)
        if scale < 0.7:  # sampling alone would alias
            h, w = picture.shape[:2]
            small = (max(2, round(w * scale)), max(2, round(h * scale)))
            picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
            matrix = matrix @ np.diag([w / small[0], h / small[1], 1.0])
        # OpenCV counts from the middle of the first pixel.
        matrix = np.concatenate([matrix[:, :2], (matrix[:, 2] + matrix[:, :2] @ [0.5, 0.5] - 0.5)[:, None]], 1)
        return cv2.warpAffine(
            picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=colour
        )

    def move(self, landmarks: np.ndarray, size: int, mirror: np.ndarray) -> np.ndarray:
        """Landmarks (478, 3) of the picture as a share of the square's side."""
        matrix = self.matrix(size)
        points = np.empty_like(landmarks)
        points[:, :2] = (landmarks[:, :2] @ matrix[:, :2].T + matrix[:, 2]) / size
        points[:, 2] = landmarks[:, 2] / self.side
        return points[mirror] if self.mirrored else points


def border_of(rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
    # Never a reflection: it would show faces that have no label.
    mode = cv2.BORDER_REPLICATE if rng.random() < 0.6 else cv2.BORDER_CONSTANT
    return mode, tuple(int(v) for v in rng.integers(0, 256, 3))


def face_view(rng: np.random.Generator, sample: Sample, wide: bool) -> View:
    """The view the regressor gets: `wide` as from a detector's box, else as in its second look."""
    cx, cy, side, roll = upright_crop(sample.landmarks)
    turn, zoom, shift = (0.6, 0.3, 0.13) if wide else (0.1, 0.1, 0.04)
    return View(
        cx + rng.uniform(-shift, shift) * side,
        cy + rng.uniform(-shift, shift) * side,
        side * float(np.exp(rng.uniform(-zoom, zoom))),
        roll + rng.uniform(-turn, turn),
        float(np.exp(rng.uniform(-0.06, 0.06))) if rng.random() < 0.6 else 1.0,
        rng.random() < 0.5,
    )
