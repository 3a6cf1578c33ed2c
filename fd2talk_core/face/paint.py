"""What opens and what closes: the mouth's inside and the lids, painted into a warped picture.

A warp only moves what the portrait shows. Closed lips that part would stretch over the opening, teeth would grow and
shrink with it, and lids that shut would squeeze the eye instead of covering it. So teeth move rigidly with the head
behind the lips, and a first, plain guess of what else appears is painted in the portrait's own colours; the frame
network works from it.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .landmarks import EYE_LEFT, EYE_RIGHT, LIPS_INNER, LIPS_OUTER, eye_opening, mouth_opening
from .model import FaceModel
from .raster import Box, box_around, coverage, interpolate, outset, strip

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
LASH_WIDTH = 0.006  # share of the crop
OUTSET = 0.25  # pixels by which what is painted reaches over its contour


def _colour_at(picture: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Mean colour (3,) of a picture (3, S, S) around points (P, 2) in shares."""
    soft = F.avg_pool2d(picture[None], 3, 1, 1)
    return F.grid_sample(soft, (points * 2 - 1)[None, None], align_corners=False)[0, :, 0].mean(1)


def _sampled(picture: torch.Tensor, places: torch.Tensor, box: Box) -> torch.Tensor:
    """A picture (C, S, S) at places (N, h * w, 2) in shares -> (N, C, h, w)."""
    grid = (places * 2 - 1).view(len(places), box.height, box.width, 2)
    pictures = picture.expand(len(places), -1, -1, -1)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _put(pictures: torch.Tensor, rows: torch.Tensor, box: Box, part: torch.Tensor, mask: torch.Tensor) -> None:
    """Change some of the pictures (N, 3, S, S) in a box to `part` (n, 3, h, w), as far as the mask (n, h, w), softened,
    says."""
    soft = F.avg_pool2d(mask[:, None], 3, 1, 1).to(pictures)
    y, x = box.slices
    pictures[rows, :, y, x] = torch.lerp(pictures[rows, :, y, x], part.to(pictures), soft)


class _MouthAxes:
    """Places along mouths, from their left corner in the picture, and across them, downwards; of points (N, 478, 2)."""

    def __init__(self, points: torch.Tensor):
        self.points, self.corner = points, points[:, INNER_UPPER[:1]]
        along = points[:, INNER_UPPER[-1:]] - self.corner
        self.width = (along**2).sum(-1).sqrt().clamp(min=1e-6)  # (N, 1)
        self.along = along / self.width[..., None]

    def __call__(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N or 1, M, 2) -> (N, M) each."""
        # No matrix products here and below: in their last bits they depend on where in memory the numbers lie, and a
        # render that goes on must give the same pictures.
        (x, y), (ax, ay) = (places - self.corner).unbind(-1), self.along.unbind(-1)
        return x * ax + y * ay, y * ax - x * ay

    def edge(self, contour: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of a contour from corner to corner, made to go forward only."""
        place, depth = self(self.points[:, list(contour)])
        return place.cummax(1)[0], depth


def mouth_light(points: torch.Tensor, opening: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """How light it is at places (M, 2) inside mouths, over their lips -> (N, M).

    points: (N, 478, 2) of the faces, in the same unit. opening: of the mouths (N,) in inter-ocular distances.
    """
    axes, count = _MouthAxes(points), len(points)
    place, depth = axes(places[None])
    upper, lower = (interpolate(place, *axes.edge(contour)) for contour in (INNER_UPPER, INNER_LOWER))
    down = ((depth - upper) / (lower - upper).clamp(min=1e-6)).clamp(0, 1)
    table = torch.tensor(MOUTH_LIGHT, device=points.device)  # (openings, rows, columns)
    openings = torch.tensor([MOUTH_OPENINGS], device=points.device)
    knots = interpolate(opening[None], openings, table.flatten(1)[None]).view(count, *table.shape[1:])
    line = torch.linspace(0, 1, table.shape[1], device=points.device).expand(count, -1)
    middle, corners = interpolate(down, line, knots).unbind(-1)
    side = ((2 * place / axes.width - 1).abs() / CORNER).clamp(0, 1) ** CORNER_POWER
    return middle + side * (corners - middle)


def lip_places(points: torch.Tensor, source: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where places (M, 2) on the lips of faces with `points` (N, 478, 2) lie when the points are at `source` (478, 2).

    Each lip is a strip between its outer and its inner contour, so nothing of what is between the lips gets onto them,
    as it does in a smooth flow. Returns places (N, M, 2), of those beside the lips the nearest ones', and which are on
    a lip (N, M).
    """
    axes, count = _MouthAxes(points), len(points)
    place, depth = axes(places[None])
    numbers = torch.arange(len(OUTER_UPPER), device=points.device, dtype=points.dtype).expand(count, -1)
    lips = []
    for contours in ((OUTER_UPPER, INNER_UPPER), (OUTER_LOWER, INNER_LOWER)):
        outer, inner = (axes.edge(contour) for contour in contours)
        outside, inside = (interpolate(place, *edge) for edge in (outer, inner))
        thick = inside - outside
        share = (depth - outside) / torch.where(thick.abs() < 1e-6, 1e-6, thick)
        number = interpolate(place, (outer[0] + inner[0]) / 2, numbers)
        ends = [
            interpolate(number, numbers, source[list(contour)].expand(count, -1, -1)) for contour in contours
        ]  # fmt: skip
        own = (share >= 0) & (share <= 1) & (place >= outer[0][:, :1]) & (place <= outer[0][:, -1:])
        lips.append((torch.lerp(*ends, share.clamp(0, 1)[..., None].expand_as(ends[0])), own, inside))
    upper, lower = lips
    above = depth <= (upper[2] + lower[2]) / 2
    return torch.where(above[..., None], upper[0], lower[0]), torch.where(above, upper[1], lower[1])


class OpeningPainter:
    """Colours of one portrait (crop (3, S, S) in 0..1, with its alpha, beta and pose), and painting with them.

    The crop may be on any device, on which pictures are painted then; everything else is on the CPU.
    """

    def __init__(
        self, model: FaceModel, crop: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor
    ):
        self.model, self.alpha, self.beta = model, alpha, beta
        self.crop, self.size = crop, crop.shape[-1]
        rest = model.vertices(alpha, beta)
        points = model.project(rest, pose, 1.0)[..., :2]
        self.mouth_rest, self.eye_rest = float(mouth_opening(rest)), float(eye_opening(rest))
        self.lips = _colour_at(crop, points[list(LIPS_OUTER)].to(crop))
        self.lids = [_colour_at(crop, points[list(skin)].to(crop)) for skin in LID_SKIN]
        self.mouth, self.mouth_places = rest[list(LIPS_OUTER)], points[list(LIPS_OUTER)]
        self.points = points.to(crop)
        inside = self._covered(self.points[None], LIPS_INNER, Box(0, 0, self.size, self.size))
        rim = round(LOWER_RIM * self.size)
        inside = torch.minimum(inside, F.pad(inside, (0, 0, 0, rim))[:, rim:])
        self.between_lips = torch.cat([crop, F.avg_pool2d(inside, 3, 1, 1)])  # (4, S, S)

    def _covered(self, points: torch.Tensor, contour: tuple[int, ...], box: Box) -> torch.Tensor:
        """How far a contour of faces with points (n, 478, 2) in shares covers a box (n, h, w)."""
        return coverage(outset(points[:, list(contour)] * self.size, OUTSET), box)

    def __call__(self, warped: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """Paint into warped pictures (N, 3, S, S) of target frames (N, 64), (N, 6), in place; returns them."""
        shapes = self.model.vertices(self.alpha.expand(len(beta), -1), beta)
        opening = mouth_opening(shapes)
        # What the reference shows between its lips moves well enough with the warp while the opening hardly changes.
        shown = min(1.0, self.mouth_rest / OPEN_REFERENCE)
        slack = max(0.015 - self.mouth_rest, 0.0) + SLACK * shown
        change = opening - self.mouth_rest
        parting = ((change - slack) / PARTING).clamp(0, 1)
        closing = shown * ((-change - slack) / PARTING).clamp(0, 1)
        hidden = closing * (1 - ((opening - TEETH_HIDDEN) / (TEETH_SEEN - TEETH_HIDDEN)).clamp(0, 1))
        shut = (1 - eye_opening(shapes) / max(self.eye_rest, 1e-3)).clamp(0, 1)
        points = self.model.project(shapes, pose, 1.0)[..., :2]
        rows = closing.nonzero()[:, 0]
        if len(rows):
            self._close(warped, rows, points[rows], closing[rows])
        rows = torch.maximum(parting, closing).nonzero()[:, 0]
        if len(rows):
            found = (value[rows] for value in (points, self._back(pose), opening, parting, closing, hidden))
            self._open(warped, rows, *found)
        rows = (shut > SHUT_FROM).nonzero()[:, 0]
        if len(rows):
            open_beta, lids = beta[rows], self.model.slices["eyelids"]
            open_beta[:, lids] = self.beta[lids]
            wide = self.model.landmarks(self.alpha.expand(len(rows), -1), open_beta, pose[rows], 1.0)[..., :2]
            self._shut(warped, rows, points[rows], wide, shut[rows])
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
        self, pictures: torch.Tensor, rows: torch.Tensor, points: torch.Tensor, back: torch.Tensor,
        opening: torch.Tensor, parting: torch.Tensor, closing: torch.Tensor, hidden: torch.Tensor,
    ) -> None:  # fmt: skip
        """Show what is between the lips of some pictures: teeth of the reference, or a guess.

        parting: how much of a guess there is where the reference shows nothing; hidden: and where it does.
        """
        box = box_around(points[:, list(LIPS_INNER)] * self.size, self.size)
        if box is None:
            return
        rows, points, back, opening, parting, closing, hidden = (
            value.to(pictures.device) for value in (rows, points, back, opening, parting, closing, hidden)
        )
        mask = self._covered(points, LIPS_INNER, box) * torch.maximum(parting, closing)[:, None, None]
        places = box.places(self.size, points.device)
        light = mouth_light(points, opening, places)[..., None]
        slope, offset = (torch.tensor(values, device=light.device) for values in (LIGHT_SLOPE, LIGHT_OFFSET))
        guess = ((light * slope + offset) * self.lips).clamp(0, 1).transpose(1, 2)
        guess = guess.unflatten(2, (box.height, box.width))
        there = places[:, :1] * back[:, None, 0] + places[:, 1:] * back[:, None, 1] + back[:, None, 2]
        found = _sampled(self.between_lips, there, box)
        parting, hidden = parting[:, None, None, None], hidden[:, None, None, None]
        guessed = parting + found[:, 3:] * (hidden - parting)
        _put(pictures, rows, box, torch.lerp(found[:, :3], guess, guessed.expand_as(guess)), mask)

    def _close(self, pictures: torch.Tensor, rows: torch.Tensor, points: torch.Tensor, strength: torch.Tensor) -> None:
        """Lips of some pictures that come together, without what was between them."""
        box = box_around(points[:, list(LIPS_OUTER)] * self.size, self.size)
        if box is None:
            return
        rows, points, strength = (value.to(pictures.device) for value in (rows, points, strength))
        there, on_lips = lip_places(points, self.points, box.places(self.size, points.device))
        mask = self._covered(points, LIPS_OUTER, box) * strength[:, None, None]
        mask = mask * on_lips.view(mask.shape)
        _put(pictures, rows, box, _sampled(self.crop, there, box), mask)

    def _shut(
        self, pictures: torch.Tensor, rows: torch.Tensor, points: torch.Tensor, wide: torch.Tensor, shut: torch.Tensor
    ) -> None:
        """Lids of some pictures that come down over eyes whose lids would be at `wide` (n, 478, 2)."""
        boxes = [box_around(torch.cat([points, wide])[:, list(contour)] * self.size, self.size, margin=4)
                 for contour in (EYE_RIGHT, EYE_LEFT)]  # fmt: skip
        rows, points, wide, shut = (value.to(pictures.device) for value in (rows, points, wide, shut[:, None, None]))
        # Nearly shut, the last gap between the lids is covered too; the lashes mark it.
        gap = (1 - (shut - 0.45) / 0.2).clamp(0, 1)
        # The lids of a face at rest tremble a little.
        strength = ((shut - SHUT_FROM) / (SHUT_FULLY - SHUT_FROM)).clamp(0, 1)
        for box, contour, line, colour in zip(boxes, (EYE_RIGHT, EYE_LEFT), UPPER_LIDS, self.lids, strict=True):
            if box is None:
                continue
            seen = self._covered(points, contour, box) * gap
            covered = (self._covered(wide, contour, box) - seen).clamp(0, 1) * strength
            colour = colour[:, None, None].expand(len(rows), -1, box.height, box.width)
            _put(pictures, rows, box, colour, covered)
            width = max(1.0, LASH_WIDTH * self.size)
            lashes = coverage(strip(points[:, list(line)] * self.size, width), box)
            _put(pictures, rows, box, colour * LASH_DARKNESS, lashes * (0.8 * strength))
