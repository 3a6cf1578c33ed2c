"""What opens and what closes: the mouth's inside and the lids, painted into a warped picture.

A warp only moves what the portrait shows. Closed lips that part would stretch over the opening, teeth would grow and
shrink with it, and lids that shut would squeeze the eye instead of covering it. So teeth move rigidly with the head
behind the lips, and a first, plain guess of what else appears is painted in the portrait's own colours; the frame
network works from it.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from .landmarks import EYE_LEFT, EYE_RIGHT, LIPS_INNER, LIPS_OUTER, eye_opening, mouth_opening
from .model import FaceModel

# Upper lid margins from corner to corner, and the skin above them that a closing lid brings down.
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LID_SKIN = ((29, 27, 28), (259, 257, 258))
# How light it is between parted lips, over the lips: rows from the upper lip to the lower, columns in the middle and
# towards the corners, for mouths of growing openings in inter-ocular distances. Medians over 19 to 67 people of the
# training clips whose reference frame has its mouth shut: teeth above, dark behind, tongue and teeth below.
MOUTH_OPENINGS = (0.077, 0.125, 0.19, 0.33)
MOUTH_LIGHT = (
    ((0.67, 0.57), (0.66, 0.52), (0.67, 0.50), (0.68, 0.49), (0.72, 0.51), (0.74, 0.56), (0.78, 0.62)),
    ((0.75, 0.57), (0.81, 0.49), (0.84, 0.43), (0.87, 0.44), (0.94, 0.50), (0.96, 0.59), (0.96, 0.71)),
    ((0.77, 0.50), (0.88, 0.38), (0.65, 0.34), (0.71, 0.36), (0.90, 0.44), (1.07, 0.54), (1.04, 0.70)),
    ((0.74, 0.46), (0.61, 0.33), (0.25, 0.23), (0.33, 0.21), (0.51, 0.27), (0.79, 0.41), (1.15, 0.73)),
)
CORNER, CORNER_POWER = 0.72, 3  # where the second column holds, as a share of half the mouth's width, and how fast
# Red, green and blue over the lips' as linear functions of that light: light is teeth and hardly red, dark is red.
LIGHT_SLOPE, LIGHT_OFFSET = (0.73, 1.08, 1.08), (0.15, -0.065, -0.065)
# Contours of each lip from corner to corner, the same way for both.
(INNER_LOWER, INNER_UPPER), (OUTER_LOWER, OUTER_UPPER) = (
    (lips[:11], (lips[0], *reversed(lips[10:]))) for lips in (LIPS_INNER, LIPS_OUTER)
)
# Openings between which a mouth that closes stops showing the teeth of its reference.
TEETH_HIDDEN, TEETH_SEEN = 0.03, 0.08
LASH_DARKNESS = 0.35
# From this opening on what the reference shows between its lips is taken fully, below only in part.
OPEN_REFERENCE = 0.08
LOWER_RIM = 0.008  # share of the crop by which the lower lip reaches into the tracked opening
# How far lips have to part beyond the reference's, in inter-ocular distances, to be painted fully, and by how much
# those of an open reference may move before.
PARTING, SLACK = 0.05, 0.04
# Shares of its opening from which on an eye counts as closing, and at which its lid covers it fully.
SHUT_FROM, SHUT_FULLY = 0.15, 0.5
OVERSAMPLE = 2


def _polygons(points: np.ndarray, contours: tuple[tuple[int, ...], ...], size: int) -> np.ndarray:
    """Coverage (size, size) of closed contours of one face; points (478, 2) in shares of the picture."""
    side = size * OVERSAMPLE
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for contour in contours:
        draw.polygon([tuple(points[i] * side) for i in contour], fill=255)
    return np.asarray(image.reduce(OVERSAMPLE), dtype=np.float32) / 255


def _lashes(points: np.ndarray, line: tuple[int, ...], size: int) -> np.ndarray:
    side = size * OVERSAMPLE
    image = Image.new("L", (side, side))
    width = max(2, round(side * 0.006))
    ImageDraw.Draw(image).line([tuple(points[i] * side) for i in line], fill=255, width=width, joint="curve")
    return np.asarray(image.reduce(OVERSAMPLE), dtype=np.float32) / 255


def _colour_at(picture: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Mean colour (3,) of a picture (3, S, S) around points (P, 2) in shares."""
    soft = F.avg_pool2d(picture[None], 3, 1, 1)
    return F.grid_sample(soft, (points * 2 - 1)[None, None], align_corners=False)[0, :, 0].mean(1)


def _box(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of what is not zero, a pixel wider; None if there is nothing."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return None
    return tuple(slice(max(line[0] - 1, 0), line[-1] + 2) for line in (rows, columns))


def _centres(box: tuple[slice, slice], size: int) -> np.ndarray:
    """Places (h, w, 2) as x, y of a box's pixels, in shares of the picture."""
    y, x = (np.arange(part.start, min(part.stop, size)) + 0.5 for part in box)
    return np.stack(np.meshgrid(x, y), -1) / size


def _sampled(picture: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """A picture (C, S, S) at places (h, w, 2) in shares -> (C, h, w)."""
    grid = places[None] * 2 - 1
    return F.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0]


def _put(picture: torch.Tensor, part: torch.Tensor, mask: np.ndarray, box: tuple[slice, slice]) -> torch.Tensor:
    """A picture (3, S, S) with `part` (3, h, w) in a box of it, as far as the mask (S, S), softened, says."""
    soft = F.avg_pool2d(torch.from_numpy(mask)[None], 3, 1, 1)[:, box[0], box[1]].to(picture)
    picture = picture.clone()
    picture[:, box[0], box[1]] = torch.lerp(picture[:, box[0], box[1]], part.to(picture), soft)
    return picture


class _MouthAxes:
    """Places along a mouth, from its left corner in the picture, and across it, downwards; of one face's points."""

    def __init__(self, points: np.ndarray):
        self.points, self.corner = points, points[INNER_UPPER[0]]
        along = points[INNER_UPPER[-1]] - self.corner
        self.width = max(float(np.hypot(*along)), 1e-6)
        self.along = along / self.width

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # No matrix products here and below: in their last bits they depend on where in memory the numbers lie, and a
        # render that goes on must give the same pictures.
        x, y = np.moveaxis(places - self.corner, -1, 0)
        return x * self.along[0] + y * self.along[1], y * self.along[0] - x * self.along[1]

    def edge(self, contour: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The same of a contour from corner to corner, made to go forward only."""
        place, depth = self(self.points[list(contour)])
        return np.maximum.accumulate(place), depth


def mouth_light(points: np.ndarray, opening: float, places: np.ndarray) -> np.ndarray:
    """How light it is at places (h, w, 2) inside a mouth, over its lips.

    points: (478, 2) of the face, in the same unit. opening: of the mouth in inter-ocular distances.
    """
    axes = _MouthAxes(points)
    place, depth = axes(places)
    upper, lower = (np.interp(place, *axes.edge(contour)) for contour in (INNER_UPPER, INNER_LOWER))
    down = ((depth - upper) / np.maximum(lower - upper, 1e-6)).clip(0, 1)
    knots = np.array([[np.interp(opening, MOUTH_OPENINGS, row) for row in column]
                      for column in np.array(MOUTH_LIGHT).transpose(2, 1, 0)])  # fmt: skip
    line = np.linspace(0, 1, knots.shape[1])
    middle, corners = (np.interp(down, line, column) for column in knots)
    side = (np.abs(2 * place / axes.width - 1) / CORNER).clip(0, 1) ** CORNER_POWER
    return middle + side * (corners - middle)


def lip_places(points: np.ndarray, source: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where places (h, w, 2) on the lips of a face with `points` (478, 2) lie when its points are at `source`.

    Each lip is a strip between its outer and its inner contour, so nothing of what is between the lips gets onto them,
    as it does in a smooth flow. Returns places (h, w, 2), of those beside the lips the nearest ones', and which are on
    a lip (h, w).
    """
    axes = _MouthAxes(points)
    place, depth = axes(places)
    numbers = np.arange(len(OUTER_UPPER))
    lips = []
    for contours in ((OUTER_UPPER, INNER_UPPER), (OUTER_LOWER, INNER_LOWER)):
        outer, inner = (axes.edge(contour) for contour in contours)
        outside, inside = (np.interp(place, *edge) for edge in (outer, inner))
        thick = inside - outside
        share = (depth - outside) / np.where(np.abs(thick) < 1e-6, 1e-6, thick)
        number = np.interp(place, (outer[0] + inner[0]) / 2, numbers)
        ends = [np.stack([np.interp(number, numbers, source[list(contour)][:, axis]) for axis in (0, 1)], -1)
                for contour in contours]  # fmt: skip
        own = (share >= 0) & (share <= 1) & (place >= outer[0][0]) & (place <= outer[0][-1])
        lips.append((ends[0] + share.clip(0, 1)[..., None] * (ends[1] - ends[0]), own, inside))
    upper, lower = lips
    above = depth <= (upper[2] + lower[2]) / 2
    return np.where(above[..., None], upper[0], lower[0]), np.where(above, upper[1], lower[1])


class OpeningPainter:
    """Colours of one portrait (crop (3, S, S) in 0..1, with its alpha, beta and pose), and painting with them."""

    def __init__(
        self, model: FaceModel, crop: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor
    ):
        self.model, self.alpha, self.beta = model, alpha, beta
        self.crop = crop = crop.cpu()
        rest = model.vertices(alpha, beta)
        points = model.project(rest, pose, 1.0)[..., :2]
        self.mouth_rest, self.eye_rest = float(mouth_opening(rest)), float(eye_opening(rest))
        self.lips = _colour_at(crop, points[list(LIPS_OUTER)])
        self.lids = [_colour_at(crop, points[list(skin)]) for skin in LID_SKIN]
        self.mouth, self.mouth_places = rest[list(LIPS_OUTER)], points[list(LIPS_OUTER)]
        self.points = points.numpy()
        size = crop.shape[-1]
        inside = torch.from_numpy(_polygons(self.points, (LIPS_INNER,), size))
        rim = round(LOWER_RIM * size)
        inside = torch.minimum(inside, F.pad(inside, (0, 0, 0, rim))[rim:])
        self.between_lips = torch.cat([crop, F.avg_pool2d(inside[None], 3, 1, 1)])  # (4, S, S)

    def __call__(self, warped: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """Paint into warped pictures (N, 3, S, S) of target frames (N, 64), (N, 6), in place; returns them."""
        size = warped.shape[-1]
        shapes = self.model.vertices(self.alpha.expand(len(beta), -1), beta)
        opening = mouth_opening(shapes)
        # What the reference shows between its lips moves well enough with the warp while the opening hardly changes.
        shown = min(1.0, self.mouth_rest / OPEN_REFERENCE)
        slack = max(0.015 - self.mouth_rest, 0.0) + SLACK * shown
        change = opening - self.mouth_rest
        parting = ((change - slack) / PARTING).clamp(0, 1)
        closing = shown * ((-change - slack) / PARTING).clamp(0, 1)
        hidden = closing * (1 - ((opening - TEETH_HIDDEN) / (TEETH_SEEN - TEETH_HIDDEN)).clamp(0, 1))
        mouth = torch.maximum(parting, closing)
        back = self._back(pose)
        shut = (1 - eye_opening(shapes) / max(self.eye_rest, 1e-3)).clamp(0, 1)
        points = self.model.project(shapes, pose, 1.0)[..., :2].numpy()
        open_beta = beta.clone()
        lids = self.model.slices["eyelids"]
        open_beta[:, lids] = self.beta[lids]
        wide = self.model.landmarks(self.alpha.expand(len(beta), -1), open_beta, pose, 1.0)[..., :2].numpy()
        for index in range(len(beta)):
            picture = warped[index]
            if closing[index] > 0:
                picture = self._close(picture, points[index], float(closing[index]))
            if mouth[index] > 0:
                mask = _polygons(points[index], (LIPS_INNER,), size) * float(mouth[index])
                beyond = float(parting[index]), float(hidden[index])
                picture = self._open(picture, mask, points[index], back[index], float(opening[index]), beyond)
            if shut[index] > SHUT_FROM:
                for contour, line, colour in zip((EYE_RIGHT, EYE_LEFT), UPPER_LIDS, self.lids, strict=True):
                    # Nearly shut, the last gap between the lids is covered too; the lashes mark it.
                    gap = 1 - ((float(shut[index]) - 0.45) / 0.2)
                    seen = _polygons(points[index], (contour,), size) * min(1.0, max(0.0, gap))
                    covered = _polygons(wide[index], (contour,), size) - seen
                    # The lids of a face at rest tremble a little.
                    strength = min(1.0, (float(shut[index]) - SHUT_FROM) / (SHUT_FULLY - SHUT_FROM))
                    picture = self._blend(picture, covered.clip(0, 1) * strength, colour)
                    lashes = _lashes(points[index], line, size) * 0.8 * strength
                    picture = self._blend(picture, lashes, colour * LASH_DARKNESS)
            warped[index] = picture
        return warped

    def _back(self, pose: torch.Tensor) -> torch.Tensor:
        """Affine maps (N, 3, 2) that take places of target frames to those of the reference, for what sits rigidly in
        the head behind the lips."""
        there = self.model.project(self.mouth.expand(len(pose), -1, -1), pose, 1.0)[..., :2]
        centre, own_centre = there.mean(1, keepdim=True), self.mouth_places.mean(0)
        there, own = there - centre, self.mouth_places - own_centre
        (a, b), (_, c) = (there[..., None] * there[..., None, :]).sum(1).permute(1, 2, 0)
        inverse = torch.stack([c, -b, -b, a], -1).view(-1, 2, 2) / (a * c - b * b).clamp(min=1e-9)[:, None, None]
        common = (there[..., None] * own[..., None, :]).sum(1)
        linear = (inverse[..., None] * common[:, None]).sum(2)
        offset = own_centre - (centre[:, 0, :, None] * linear).sum(1)
        return torch.cat([linear, offset[:, None]], 1)

    def _open(
        self, picture: torch.Tensor, mask: np.ndarray, points: np.ndarray, back: torch.Tensor, opening: float,
        guessed: tuple[float, float],
    ) -> torch.Tensor:  # fmt: skip
        """Show what is between the lips where the mask (S, S) says: teeth of the reference, or a guess.

        guessed: how much of a guess there is where the reference shows nothing, and where it does.
        """
        box = _box(mask)
        if box is None:
            return picture
        places = _centres(box, len(mask))
        light = torch.from_numpy(mouth_light(points, opening, places).astype(np.float32))[..., None]
        guess = (light * torch.tensor(LIGHT_SLOPE) + torch.tensor(LIGHT_OFFSET)) * self.lips
        places = torch.from_numpy(places.astype(np.float32))
        there = places[..., :1] * back[0] + places[..., 1:] * back[1] + back[2]
        found = _sampled(self.between_lips, there)
        guessed = torch.lerp(torch.full_like(found[3:], guessed[0]), torch.full_like(found[3:], guessed[1]), found[3:])
        shown = torch.lerp(found[:3], guess.clamp(0, 1).permute(2, 0, 1), guessed)
        return _put(picture, shown, mask, box)

    def _close(self, picture: torch.Tensor, points: np.ndarray, strength: float) -> torch.Tensor:
        """Lips that come together, without what was between them."""
        mask = _polygons(points, (LIPS_OUTER,), picture.shape[-1])
        box = _box(mask)
        if box is None:
            return picture
        there, on_lips = lip_places(points, self.points, _centres(box, len(mask)))
        mask[box] *= on_lips * strength
        return _put(picture, _sampled(self.crop, torch.from_numpy(there.astype(np.float32))), mask, box)

    @staticmethod
    def _blend(picture: torch.Tensor, mask: np.ndarray, colour: torch.Tensor) -> torch.Tensor:
        soft = F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(mask))[None], 3, 1, 1).to(picture)
        return picture + soft * (colour.to(picture)[:, None, None] - picture)
