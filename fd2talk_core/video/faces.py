"""Choosing among the faces of a picture or video, saying which one was taken, and showing it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from ..face.landmarks import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    FACE_OVAL,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
)
from ..face.model import FaceModel
from ..face.tracker import LOST_BELOW, FaceBox, FaceTracker, TrackedFace, choose_face
from ..frames.appearance import Appearance, encode_portrait

LARGEST, LEFT, POINT = ORDERS = ("largest first", "left to right", "nearest to point")
COUNTED = {LARGEST: "by size", LEFT: "from the left", POINT: "by distance from the point"}
MASK_COVERS = 0.2  # least share of a face's box
# A face that is lost beside others must come back near to where it was, in its own sizes, and a little further with
# every frame: otherwise the neighbour would be taken for it.
REACH, REACH_PER_FRAME = 1.0, 0.05
OUTLINES = (FACE_OVAL, LIPS_OUTER, LIPS_INNER, EYE_RIGHT, EYE_LEFT, IRIS_RIGHT[1:], IRIS_LEFT[1:])
BROWS = (BROW_RIGHT[:5], BROW_LEFT[:5])
DRAWN_SIDE = 512
TAKEN_COLOUR, OTHER_COLOUR, POINT_COLOUR = (90, 255, 140), (255, 190, 60), (255, 255, 255)


@dataclass(frozen=True)
class FaceChoice:
    """Which face is meant.

    order: how faces are counted, one of ORDERS. index: number in that order, from 0. point: (x, y) in 0..1 of the
    picture's width and height, for "nearest to point". box (x0, y0, x1, y1) in pixels, or mask (H, W) with the face
    above 0.5, of the picture's shape or another: they say it without counting; the box goes before the mask.
    """

    order: str = LARGEST
    index: int = 0
    point: tuple[float, float] = (0.5, 0.5)
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = None


def in_order(faces: list[TrackedFace], choice: FaceChoice, width: int, height: int) -> list[TrackedFace]:
    """Faces as the choice counts them. Raises UserError for an order that does not exist."""
    x, y = choice.point[0] * width, choice.point[1] * height
    keys = {
        LARGEST: lambda face: -face.box.area,
        LEFT: lambda face: face.box.centre[0],
        POINT: lambda face: np.hypot(face.box.centre[0] - x, face.box.centre[1] - y),
    }
    if choice.order not in keys:
        raise UserError(f"There is no order of faces called '{choice.order}'. Use one of: {', '.join(ORDERS)}.")
    return sorted(faces, key=keys[choice.order])


def pick(faces: list[TrackedFace], choice: FaceChoice, width: int, height: int) -> tuple[TrackedFace, str]:
    """The face of a picture that is meant, at least 48 pixels wide, and one sentence on how many there are and which.

    Raises UserError when there is none, or none like that.
    """
    count = f"{len(faces)} faces were found" if len(faces) != 1 else "1 face was found"
    ordered = in_order(faces, choice, width, height)
    if not ordered:
        return choose_face([])  # which has the words for it
    if choice.box is not None:
        # A box that core nodes drew around the face next door may reach over this one's centre: the best fit is meant.
        box = FaceBox(*choice.box)
        inside = [face for face in ordered if box.x0 <= face.box.centre[0] <= box.x1 and
                  box.y0 <= face.box.centre[1] <= box.y1]  # fmt: skip
        if not inside:
            raise UserError(f"The box contains no face, but {count}. Draw it around a face, or leave it out.")
        face, note = max(inside, key=lambda face: box.overlap(face.box)), f"{count}; the one in the box is used."
    elif choice.mask is not None:
        shares = [covered(face, choice.mask, width, height) for face in ordered]
        if max(shares) < MASK_COVERS:
            raise UserError(f"The mask covers no face, but {count}. Paint it over a face, or leave it out.")
        face, note = ordered[int(np.argmax(shares))], f"{count}; the one under the mask is used."
    else:
        if not 0 <= choice.index < len(ordered):
            raise UserError(
                f"There is no face number {choice.index}: {count}, and counting begins at 0. "
                f"Choose a number from 0 to {len(ordered) - 1}."
            )
        face = ordered[choice.index]
        note = f"{count}."
        if len(ordered) > 1:
            note = f"{count}; number {choice.index} is used, counting from 0 {COUNTED[choice.order]}."
    face, _ = choose_face([face])  # refuses it when it is too small
    return face, note


def covered(face: TrackedFace, mask: np.ndarray, width: int, height: int) -> float:
    """Share of the face's box under a mask that stands for a picture of this size, 0..1."""
    rows, columns = mask.shape
    x0, x1 = (int(np.clip(v * columns / width, 0, columns)) for v in (face.box.x0, face.box.x1 + 1))
    y0, y1 = (int(np.clip(v * rows / height, 0, rows)) for v in (face.box.y0, face.box.y1 + 1))
    part = mask[y0:y1, x0:x1]
    return float((part > 0.5).mean()) if part.size else 0.0


def marked_box(choice: FaceChoice, width: int, height: int) -> FaceBox | None:
    """The place that a box or mask marks, in pixels of the picture. Raises UserError when nothing is marked."""
    if choice.box is not None:
        x0, y0, x1, y1 = choice.box
        if min(x1, width) - max(x0, 0) < 2 or min(y1, height) - max(y0, 0) < 2:
            raise UserError(
                f"The box lies outside the picture of {width} x {height} pixels, or is empty. Draw it around a face."
            )
        return FaceBox(x0, y0, x1, y1)
    if choice.mask is None:
        return None
    rows, columns = np.nonzero(choice.mask > 0.5)
    if not len(rows):
        raise UserError("The mask is empty. Paint over the face to animate, or disconnect the mask.")
    x, y = width / choice.mask.shape[1], height / choice.mask.shape[0]
    return FaceBox(columns.min() * x, rows.min() * y, (columns.max() + 1) * x, (rows.max() + 1) * y)


class FaceChooser:
    """A FaceTracker for somebody who means a certain face; takes the tracker's place in portraits and videos.

    faces: those of the picture, or of the video's first frame with any, as the choice counts them. taken: the one of
    them. note: a sentence on both. missing: in how many frames of a video it was not found.
    """

    def __init__(self, tracker: FaceTracker, choice: FaceChoice):
        self.tracker, self.choice = tracker, choice
        self.faces: list[TrackedFace] = []
        self.taken: TrackedFace | None = None
        self.note = ""
        self.missing = 0

    def track(self, picture: np.ndarray) -> list[TrackedFace]:
        """All faces, see `FaceTracker.track`."""
        return self.tracker.track(picture)

    def find(self, picture: np.ndarray, *_) -> tuple[TrackedFace, str]:
        """The face meant, and what `note` says; other arguments are those of `FaceTracker.find`, which is not asked.

        Where the detector sees nothing, a marked place is looked at directly, so that a user can help it.
        """
        height, width = picture.shape[:2]
        mark = marked_box(self.choice, width, height)
        faces = self.tracker.track(picture)
        if mark is not None and not any(mark.overlap(face.box) > 0.05 for face in faces):
            face = self.tracker.landmarks(picture, mark)
            if face.confidence >= LOST_BELOW:
                faces = [face]
        self._take(faces, width, height)
        return self.taken, self.note

    def _take(self, faces: list[TrackedFace], width: int, height: int) -> None:
        self.taken, self.note = pick(faces, self.choice, width, height)
        self.faces = in_order(faces, self.choice, width, height)

    def track_video(self, frames: Iterable[np.ndarray], index: int = 0) -> Iterator[TrackedFace | None]:
        """Follow the face meant, from the first frame that shows any; one result per frame, None where it is lost.

        When that frame shows several, a face that was lost is taken up again only near to where it was.
        """
        for face in self._follow(iter(frames)):
            self.missing += face is None
            yield face

    def _follow(self, frames: Iterator[np.ndarray]) -> Iterator[TrackedFace | None]:
        seen, lost = None, 0
        for frame in frames:
            faces = self.tracker.track(frame)
            if seen is None and faces:
                marked_box(self.choice, frame.shape[1], frame.shape[0])
                self._take(faces, frame.shape[1], frame.shape[0])
                start = self.taken
            else:
                near = [face for face in faces if self._near(face, seen, lost)]
                start = min(near, key=lambda face: _distance(face, seen)) if near else None
            if start is None:
                lost += 1
                yield None
                continue
            number = next(i for i, face in enumerate(faces) if face is start)
            for face in self.tracker.track_video(itertools.chain([frame], frames), number):
                if face is not None and seen is not None and not self._near(face, seen, lost):
                    lost += 1
                    yield None
                    break
                seen, lost = (face, 0) if face is not None else (seen, lost + 1)
                yield face

    def _near(self, face: TrackedFace, seen: TrackedFace, lost: int) -> bool:
        if len(self.faces) < 2:
            return True
        size = max(seen.box.width, seen.box.height)
        return _distance(face, seen) < size * (REACH + REACH_PER_FRAME * lost)


def _distance(face: TrackedFace, other: TrackedFace) -> float:
    return float(np.hypot(*np.subtract(face.box.centre, other.box.centre)))


def encode_chosen(
    picture: np.ndarray,
    tracker: FaceTracker,
    face_model: FaceModel,
    choice: FaceChoice,
    size: int = 256,
    opacity: np.ndarray | None = None,
) -> tuple[Appearance, FaceChooser]:
    """`encode_portrait` of the face that is meant, and the chooser, which knows the other faces.

    picture: uint8 RGB (H, W, 3). size: side of the crop, 256 or 512 px. opacity: uint8 (H, W) of the picture. The first
    of the portrait's notes says how many faces were found and which was taken.

    Raises UserError when there is no usable face, or the opacity belongs to another picture.
    """
    if opacity is not None and opacity.shape != picture.shape[:2]:
        raise UserError(
            f"The transparency has {opacity.shape[1]} x {opacity.shape[0]} pixels, but the portrait "
            f"{picture.shape[1]} x {picture.shape[0]}. Connect MASK of the node that loads the portrait, or nothing."
        )
    if opacity is not None and opacity.min() == 255:
        opacity = None
    chooser = FaceChooser(tracker, choice)
    appearance = encode_portrait(picture, chooser, face_model, size=size)
    boxes = {id(face): (face.box.x0, face.box.y0, face.box.x1, face.box.y1) for face in chooser.faces}
    own = boxes.pop(id(chooser.taken))
    return replace(appearance, box=own, others=tuple(boxes.values()), opacity=opacity), chooser


def encode_largest(picture: np.ndarray, tracker: FaceTracker, face_model: FaceModel, size: int = 256) -> Appearance:
    """`encode_chosen` of the largest face, for those who offer no choice: a note says so when there are others."""
    appearance, chooser = encode_chosen(picture, tracker, face_model, FaceChoice(), size)
    count = len(chooser.faces)
    appearance.notes[:1] = [f"The picture shows {count} faces; the largest is used."] if count > 1 else []
    return appearance


def draw_landmarks(crop: torch.Tensor, landmarks: torch.Tensor) -> np.ndarray:
    """A face crop (3, s, s) in 0..1 with its landmarks (478, 2+), in pixels of the crop: uint8 (512, 512, 3)."""
    picture = Image.fromarray((crop.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    picture = picture.resize((DRAWN_SIDE, DRAWN_SIDE), Image.BICUBIC)
    points = (landmarks[:, :2] * (DRAWN_SIDE / crop.shape[-1])).tolist()
    # Drawn twice as large and halved, which smooths the lines.
    layer = Image.new("RGBA", (2 * DRAWN_SIDE, 2 * DRAWN_SIDE), (*POINT_COLOUR, 0))
    draw = ImageDraw.Draw(layer)
    for x, y in points:
        draw.ellipse([2 * x - 1.5, 2 * y - 1.5, 2 * x + 1.5, 2 * y + 1.5], fill=(*POINT_COLOUR, 190))
    for outline in OUTLINES:
        draw.line([(2 * points[i][0], 2 * points[i][1]) for i in (*outline, outline[0])], (*TAKEN_COLOUR, 230), 3)
    for brow in BROWS:
        draw.line([(2 * points[i][0], 2 * points[i][1]) for i in brow], (*TAKEN_COLOUR, 230), 3)
    layer = layer.resize(picture.size, Image.BOX)
    picture.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(picture)


def draw_faces(picture: np.ndarray, faces: list[TrackedFace], taken: TrackedFace, longest: int = 1024) -> np.ndarray:
    """A picture, uint8 (H, W, 3), of at most `longest` px, in which the faces are framed and numbered as given."""
    height, width = picture.shape[:2]
    scale = min(Fraction(1), Fraction(longest, max(height, width)))
    image = Image.fromarray(picture)
    if scale < 1:
        image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.BICUBIC)
    draw, line = ImageDraw.Draw(image), max(2, max(image.size) // 300)
    font = ImageFont.load_default(max(16, max(image.size) // 28))
    for number, face in enumerate(faces):
        colour = TAKEN_COLOUR if face is taken else OTHER_COLOUR
        corners = [v * float(scale) for v in (face.box.x0, face.box.y0, face.box.x1, face.box.y1)]
        draw.rectangle(corners, outline=colour, width=line)
        label = f" {number} "
        place = (corners[0], max(0, corners[1] - font.size - 2 * line))
        draw.rectangle(draw.textbbox(place, label, font), fill=colour)
        draw.text(place, label, (0, 0, 0), font)
    return np.asarray(image)
