"""Finding faces and their 478 landmarks in pictures with our own networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..checkpoint import default_weights, load_checkpoint, load_state
from ..errors import UserError
from .detector import DetectorConfig, FaceDetector, box_iou, decode, suppress_overlaps
from .landmarks import OUTER_EYE_CORNERS, face_box
from .layers import fold_batch_norm
from .regressor import LandmarkRegressor, RegressorConfig

MIN_FACE_PIXELS = 48
# The detector is asked for every box it half believes in; the regressor, which knows faces better, decides.
DETECTION_THRESHOLD = 0.25
FAINT_THRESHOLD = 0.1
PRESENCE_THRESHOLD = 0.8
PRESENCE_MARGIN = 0.02  # ears and flowers beside a face look like faces, but never quite as much
LOST_BELOW = 0.5  # a face that is already known (marked by the user, or followed) gets more trust
TILE_FROM = 640
CROP_FACTOR = 1.5  # side of the regressor's crop over the longer side of the face's box


@dataclass
class FaceBox:
    """Box around a face (chin to forehead, as its landmarks reach), pixels of the picture; score 0..1."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float = 1.0

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union with another box, 0..1."""
        corners = torch.tensor([[b.x0, b.y0, b.x1, b.y1] for b in (self, other)])
        return float(box_iou(corners[:1], corners[1:]))


@dataclass
class TrackedFace:
    """A face with landmarks, float32 (478, 3): x, y in pixels of the picture, z in the same unit, smaller is nearer.

    `box` encloses the landmarks; `confidence` is the probability (0..1) that this is a face.
    """

    landmarks: np.ndarray
    box: FaceBox
    confidence: float


def roll_of(landmarks: np.ndarray) -> float:
    """In-plane rotation in radians, from the outer eye corners of (478, 2 or 3); clockwise is positive."""
    right, left = (landmarks[index] for index in OUTER_EYE_CORNERS)
    return float(np.arctan2(left[1] - right[1], left[0] - right[0]))


def upright_crop(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    """The regressor's crop for known landmarks: centre x, y, side in pixels, and roll in radians."""
    roll = roll_of(landmarks)
    c, s = np.cos(roll), np.sin(roll)
    turned = landmarks[:, :2] @ np.array([[c, -s], [s, c]])
    low, high = turned.min(0), turned.max(0)
    centre = np.array([[c, -s], [s, c]]) @ ((low + high) / 2)
    return float(centre[0]), float(centre[1]), float((high - low).max() * CROP_FACTOR), roll


def as_planes(picture: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """RGB (H, W, 3) as (1, 3, H, W), still uint8. Raises UserError for anything but 8-bit RGB."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise UserError(
            f"The picture has shape {picture.shape} and type {picture.dtype}. Convert it to 8-bit RGB (H, W, 3) first."
        )
    return torch.from_numpy(picture.copy()).to(device).permute(2, 0, 1)[None]


def cut_crop(planes: torch.Tensor, centre: tuple[float, float], side: float, roll: float, size: int) -> torch.Tensor:
    """Cut one turned square out of uint8 planes (1, 3, H, W), as float (1, 3, size, size) in 0..1.

    `side` is in pixels of planes, `roll` in radians; beyond the picture its border repeats.
    """
    height, width = planes.shape[-2:]
    reach = side * 0.75  # a little more than half the diagonal
    x0, x1 = (int(np.clip(v, 0, width)) for v in (centre[0] - reach, centre[0] + reach + 1))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (centre[1] - reach, centre[1] + reach + 1))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return torch.zeros(1, 3, size, size, device=planes.device)
    part = planes[..., y0:y1, x0:x1].float() / 255
    cx, cy = centre[0] - x0, centre[1] - y0
    shrink = size / side
    if shrink < 0.75:  # sampling alone would alias
        target = [max(2, round((y1 - y0) * shrink)), max(2, round((x1 - x0) * shrink))]
        fy, fx = target[0] / (y1 - y0), target[1] / (x1 - x0)
        part = nn.functional.interpolate(part, target, mode="bilinear", antialias=True, align_corners=False)
    else:
        fy = fx = 1.0
    c, s = np.cos(roll) * side / 2, np.sin(roll) * side / 2
    sx, sy = 2 * fx / part.shape[-1], 2 * fy / part.shape[-2]
    theta = torch.tensor([[c * sx, -s * sx, cx * sx - 1], [s * sy, c * sy, cy * sy - 1]], dtype=torch.float32)
    grid = nn.functional.affine_grid(theta[None].to(planes.device), [1, 3, size, size], align_corners=False)
    return nn.functional.grid_sample(part, grid, mode="bilinear", padding_mode="border", align_corners=False)


class FaceTracker(nn.Module):
    """Detector and landmark regressor. Deterministic; pictures are uint8 RGB (H, W, 3)."""

    def __init__(self, detector: DetectorConfig | None = None, regressor: RegressorConfig | None = None):
        super().__init__()
        self.detector = FaceDetector(detector)
        self.regressor = LandmarkRegressor(regressor)

    @property
    def config(self) -> dict:
        return {"detector": asdict(self.detector.config), "regressor": asdict(self.regressor.config)}

    @classmethod
    def load(cls, path: str | Path | None = None) -> FaceTracker:
        """Read trained weights, by default the ones that ship with the pack.

        Raises UserError when the file is missing, damaged or of another kind.
        """
        path = path or default_weights("tracker")
        checkpoint = load_checkpoint(path, "tracker")
        sizes = {
            part: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            for part, values in checkpoint.config.items()
        }
        tracker = cls(DetectorConfig(**sizes["detector"]), RegressorConfig(**sizes["regressor"]))
        load_state(tracker, checkpoint.state, path)
        return fold_batch_norm(tracker.eval().requires_grad_(False)).to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        return self.regressor.mesh.weight.device

    @torch.inference_mode()
    def detect(self, picture: np.ndarray, threshold: float = DETECTION_THRESHOLD) -> list[FaceBox]:
        """All faces, largest first.

        When none is found, large pictures are searched again in four tiles, and then the best faint sign of a face
        is taken (drawings, paintings), which may be wrong: its score is below `threshold`.
        """
        planes = as_planes(picture, self.device)
        height, width = planes.shape[-2:]
        faint = self._detect(planes, min(threshold, FAINT_THRESHOLD))
        boxes = faint[faint[:, 4] > threshold]
        if not len(boxes) and max(height, width) > TILE_FROM:
            parts = []
            for top in (0, height * 2 // 5):
                for left in (0, width * 2 // 5):
                    tile = planes[..., top : top + height * 3 // 5 + 1, left : left + width * 3 // 5 + 1]
                    found = self._detect(tile, threshold)
                    parts.append(found + found.new_tensor([left, top, left, top, 0.0]))
            boxes = suppress_overlaps(torch.cat(parts))
        if not len(boxes):
            boxes = faint[:1]
        faces = [FaceBox(*(float(v) for v in box)) for box in boxes]
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def _detect(self, planes: torch.Tensor, threshold: float) -> torch.Tensor:
        """Boxes (N, 5) in pixels of planes (1, 3, H, W)."""
        size = self.detector.config.size
        height, width = planes.shape[-2:]
        scale = size / max(height, width)
        target = [max(1, round(height * scale)), max(1, round(width * scale))]
        small = nn.functional.interpolate(planes.float() / 255, target, mode="bilinear", antialias=True)
        letterbox = small.new_full((1, 3, size, size), 0.5)
        letterbox[..., : target[0], : target[1]] = small
        boxes = decode(self.detector(letterbox), threshold)[0].cpu()
        boxes[:, [0, 2]] = (boxes[:, [0, 2]] * size * width / target[1]).clamp(0, width)
        boxes[:, [1, 3]] = (boxes[:, [1, 3]] * size * height / target[0]).clamp(0, height)
        return suppress_overlaps(boxes)

    def _regress(self, planes: torch.Tensor, crop: tuple[float, float, float, float]) -> tuple[np.ndarray, float]:
        """Landmarks (478, 3) in pixels of planes and confidence, from one look at a crop (x, y, side, roll)."""
        cx, cy, side, roll = crop
        crops = cut_crop(planes, (cx, cy), side, roll, self.regressor.config.size)
        landmarks, logits, _ = self.regressor(crops)
        points = landmarks[0].double().cpu().numpy()
        c, s = np.cos(roll), np.sin(roll)
        points[:, :2] = (points[:, :2] - 0.5) @ np.array([[c, s], [-s, c]]) * side + (cx, cy)
        points[:, 2] *= side
        return points.astype(np.float32), float(logits[0].sigmoid())

    @torch.inference_mode()
    def landmarks(self, picture: np.ndarray, box: FaceBox) -> TrackedFace:
        """Landmarks of the face in `box`: a first look at the box, a second at the upright crop that follows."""
        planes = as_planes(picture, self.device)
        points, _ = self._regress(planes, (*box.centre, max(box.width, box.height, 2.0) * CROP_FACTOR, 0.0))
        return self._second_look(planes, points)

    def _second_look(self, planes: torch.Tensor, points: np.ndarray) -> TrackedFace:
        points, confidence = self._regress(planes, upright_crop(points))
        return TrackedFace(points, FaceBox(*face_box(points), confidence), confidence)

    def track(self, picture: np.ndarray) -> list[TrackedFace]:
        """All faces with landmarks, largest first. Boxes in which the regressor sees no face are dropped."""
        faces = [self.landmarks(picture, box) for box in self.detect(picture)]
        surest = max((face.confidence for face in faces), default=0.0)
        faces = [face for face in faces if face.confidence >= max(PRESENCE_THRESHOLD, surest - PRESENCE_MARGIN)]
        faces.sort(key=lambda face: face.box.area, reverse=True)
        kept: list[TrackedFace] = []
        for face in faces:
            if all(face.box.overlap(other.box) <= 0.5 for other in kept):
                kept.append(face)
        return kept

    @torch.inference_mode()
    def track_video(self, frames: Iterable[np.ndarray], index: int = 0) -> Iterator[TrackedFace | None]:
        """Follow one face through a video: one result per frame, None where it is not found.

        Each frame is looked at where the face was in the frame before; the detector runs only when it is lost, and
        then the face nearest to where it was last seen is taken. index: which face of the first frame that shows any,
        0 = largest. Raises UserError when that frame has no such face.
        """
        last: TrackedFace | None = None
        seen: TrackedFace | None = None
        for frame in frames:
            if last is not None:
                last = self._second_look(as_planes(frame, self.device), last.landmarks)
            if last is None or last.confidence < LOST_BELOW:
                faces = self.track(frame)
                if not faces:
                    last = None
                elif seen is None:
                    last = faces[_checked_index(index, len(faces))]
                else:
                    last = min(faces, key=lambda face: np.hypot(*np.subtract(face.box.centre, seen.box.centre)))
            seen = last or seen
            yield last

    def find(
        self, picture: np.ndarray, index: int = 0, box: FaceBox | None = None, mask: np.ndarray | None = None
    ) -> tuple[TrackedFace, str]:
        """The face that a user means, and a note for them ("" when there is nothing to say); see `choose_face`.

        A box in which the detector finds nothing is looked at directly, so that a user can help it.
        """
        faces = self.track(picture)
        if box is not None and not any(_inside(face, box) for face in faces):
            face = self.landmarks(picture, box)
            if face.confidence >= LOST_BELOW:
                faces = [face]
        return choose_face(faces, index, box, mask)


def _inside(face: TrackedFace, box: FaceBox) -> bool:
    x, y = face.box.centre
    return box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1


def _checked_index(index: int, faces: int) -> int:
    if not 0 <= index < faces:
        raise UserError(
            f"There is no face number {index}: the picture has {faces}, counted from 0, the largest. "
            f"Choose a number from 0 to {faces - 1}."
        )
    return index


def choose_face(
    faces: list[TrackedFace], index: int = 0, box: FaceBox | None = None, mask: np.ndarray | None = None
) -> tuple[TrackedFace, str]:
    """Pick one of the tracked faces (largest first), at least 48 pixels wide.

    Args:
        faces: as `FaceTracker.track` returns them.
        index: which one, 0 = largest; ignored when `box` or `mask` says which.
        box: the face whose centre lies in it (the largest of these).
        mask: (H, W), nonzero where the wanted face is; the face of which most is covered.

    Returns the face and a note for the user, "" when there is nothing to say.
    Raises UserError when there is no such face or it is too small.
    """
    if not faces:
        raise UserError(
            "No face was found in the picture. Use a picture in which the face is clearly visible from the front, "
            "or mark the face with a box or mask."
        )
    candidates = sorted(faces, key=lambda face: face.box.area, reverse=True)
    if box is not None:
        candidates = [face for face in candidates if _inside(face, box)]
        if not candidates:
            raise UserError("The box contains no face. Draw it around a face, or leave it out to use the largest one.")
        index = 0
    elif mask is not None:
        shares = [_covered(face, np.asarray(mask)) for face in candidates]
        if max(shares) < 0.2:
            raise UserError("The mask covers no face. Paint it over a face, or leave it out to use the largest one.")
        candidates, index = [candidates[int(np.argmax(shares))]], 0
    face = candidates[_checked_index(index, len(candidates))]
    if face.box.width < MIN_FACE_PIXELS:
        raise UserError(
            f"The face is only {face.box.width:.0f} pixels wide. Use a larger picture, or crop and enlarge it so that "
            f"the face has at least {MIN_FACE_PIXELS} pixels."
        )
    note = ""
    if box is None and mask is None and index == 0 and len(faces) > 1:
        note = f"The picture shows {len(faces)} faces; the largest is used. Choose another with the face index."
    return face, note


def _covered(face: TrackedFace, mask: np.ndarray) -> float:
    """Share of the face's box under the mask."""
    height, width = mask.shape[:2]
    x0, x1 = (int(np.clip(v, 0, width)) for v in (face.box.x0, face.box.x1 + 1))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (face.box.y0, face.box.y1 + 1))
    part = mask[y0:y1, x0:x1]
    return float((part > 0).mean()) if part.size else 0.0
