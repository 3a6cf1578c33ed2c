"""Looking at motion without a portrait: curves of named controls and pose, and a wire-frame face that moves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from ..face.geometry import IRIS_HIDDEN
from ..face.landmarks import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
    eye_opening,
)
from ..face.model import N_IDENTITY, FaceModel
from .blinks import find_blinks
from .clip import MotionClip

Progress = Callable[[int, int], None]
Colour = tuple[int, int, int]

PLOT_SIZE = (960, 720)
VIDEO_WIDTH, FACE_HEIGHT, VIDEO_PLOT_HEIGHT = 640, 420, 520
TITLE_HEIGHT = 26
PREVIEW_FPS = 30.0
MIN_SIDE = 64

# One panel of the plot each: title, and curve name -> controls whose mean it shows.
PANELS = (
    ("Mouth", {"jaw_open": ("jaw_open",), "mouth_wide": ("mouth_wide",), "mouth_pucker": ("mouth_pucker",)}),
    (
        "Eyes and brows",
        {
            "blink": ("blink_left", "blink_right"),
            "brow_raise": ("brow_raise_left", "brow_raise_right"),
            "gaze_x": ("gaze_x",),
            "gaze_y": ("gaze_y",),
        },
    ),
)

BACKGROUND, PANEL, GRID, ZERO = (22, 24, 29), (31, 35, 43), (46, 52, 63), (84, 93, 110)
TEXT, DIM = (214, 220, 228), (146, 155, 168)
LOST = (72, 38, 42)
CURVES: tuple[Colour, ...] = ((96, 190, 255), (255, 170, 92), (120, 220, 140), (225, 140, 255))
WAVE = (110, 125, 150)
PLAYHEAD = np.array((255, 220, 110), np.float32)

SKIN, EDGE = np.array((58, 70, 92), np.float32), np.array((96, 118, 152), np.float32)
LOST_SKIN, LOST_EDGE = np.array((84, 56, 60), np.float32), np.array((150, 96, 100), np.float32)
LIPS, EYES, BROWS, MOUTH_INSIDE, EYE_WHITE = (
    (255, 128, 152),
    (130, 225, 255),
    (226, 190, 120),
    (14, 12, 16),
    (26, 32, 42),
)
# A triangle's outline is dimmer on the far side of the head; light comes from the viewer.
AMBIENT = 0.35


def read_controls(clip: MotionClip, face_model: FaceModel, names: Sequence[str]) -> np.ndarray:
    """How much of each named control a clip contains, (T, len(names)): the least-squares answer, 1 = fully on.

    Raises UserError for another face model's clip and for unknown names.
    """
    clip.check(face_model.hash)
    unknown = [name for name in names if name not in face_model.controls]
    if unknown:
        raise UserError(
            f"There is no expression control called '{unknown[0]}'. "
            f"Choose from: {', '.join(sorted(face_model.controls))}."
        )
    directions = torch.stack([face_model.controls[name].float() for name in names], 1)  # (64, K)
    return (clip.expression @ torch.linalg.pinv(directions).T).numpy()


def curves_of(clip: MotionClip, face_model: FaceModel) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    """What the plot shows: (title, unit, curve name -> values (T,)) per panel."""
    panels = []
    for title, curves in PANELS:
        names = [control for controls in curves.values() for control in controls]
        values = dict(zip(names, read_controls(clip, face_model, names).T, strict=True))
        if "jaw_open" in values:
            # Read together, the lips' finer movements would be set off against the jaw, which moves most by far.
            values["jaw_open"] = read_controls(clip, face_model, ("jaw_open",))[:, 0]
        panels.append(
            (title, "", {name: np.mean([values[c] for c in controls], 0) for name, controls in curves.items()})
        )
    pose = clip.pose.numpy().astype(np.float64)
    turn = dict(zip(("pitch", "yaw", "roll"), np.degrees(pose[:, :3]).T, strict=True))
    shift = {"x": 100 * pose[:, 3], "y": 100 * pose[:, 4], "zoom": 100 * np.expm1(pose[:, 5])}
    return [*panels, ("Head turn", "°", turn), ("Head shift", "% of eye distance", shift)]


def _columns(values: int, columns: int) -> np.ndarray:
    """Index of the first value of each column of a plot."""
    return np.linspace(0, values, columns + 1).astype(int)[:-1]


def _nice_step(span: float, count: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides `span` into at most `count` parts."""
    rough = span / count
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999) * power)


def _time_step(seconds: float, count: int) -> float:
    step = _nice_step(seconds, count)
    if step <= 10:
        return step
    return next((float(s) for s in (15, 30, 60, 120, 300, 600, 900, 1800) if s * count >= seconds), 3600.0)


def _range(curves: dict[str, np.ndarray], least: float) -> tuple[float, float]:
    """Value range of a panel: zero is inside, and noise is not blown up to look like movement."""
    low = min(0.0, *(float(v.min()) for v in curves.values()))
    high = max(0.0, *(float(v.max()) for v in curves.values()))
    missing = max(0.0, least - (high - low))
    low, high = low - missing / 2, high + missing / 2
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _clock(seconds: float, step: float) -> str:
    if seconds >= 60 or step >= 60:
        return f"{int(seconds // 60)}:{seconds % 60:02.0f}"
    return f"{seconds:g} s" if step >= 1 else f"{seconds:.1f} s"


class _Plot:
    """Draws at twice the size, for smooth lines; `finish` scales down. Places below are in final pixels."""

    SCALE = 2

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * self.SCALE, height * self.SCALE), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.text_size = max(10, round(min(width / 50, height / 40)))
        self.font = ImageFont.load_default(self.text_size * self.SCALE)

    def text(self, x: float, y: float, text: str, colour: Colour = TEXT, anchor: str = "la") -> float:
        """Write, and return the width of the text."""
        self.draw.text((x * self.SCALE, y * self.SCALE), text, colour, self.font, anchor)
        return self.draw.textlength(text, self.font) / self.SCALE

    def text_width(self, text: str) -> float:
        return self.draw.textlength(text, self.font) / self.SCALE

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.draw.rectangle([v * self.SCALE for v in (x0, y0, x1, y1)], colour)

    def line(self, points: np.ndarray, colour: Colour, width: float = 1.0) -> None:
        flat = (points * self.SCALE).ravel().tolist()
        self.draw.line(flat, colour, max(1, round(width * self.SCALE)), "curve")

    def curve(self, x0: float, x1: float, y: np.ndarray, colour: Colour) -> None:
        """A curve over x0..x1; of more values than pixels, the mean of each column."""
        columns = int(x1 - x0)
        if len(y) > 2 * columns:
            y = np.add.reduceat(y, starts := _columns(len(y), columns)) / np.diff([*starts, len(y)])
        x = np.linspace(x0, x1, max(len(y), 2))
        y = np.broadcast_to(y, x.shape) if len(y) == 1 else y
        self.line(np.stack([x, y], 1), colour, 1.4)

    def band(self, x0: float, x1: float, y: np.ndarray, colour: Colour) -> None:
        """The range that a curve of more values than pixels covers in each column."""
        columns = int(x1 - x0)
        if len(y) <= 2 * columns:
            return
        starts = _columns(len(y), columns)
        faint = tuple((np.array(colour) * 0.3 + np.array(PANEL) * 0.7).astype(int).tolist())
        lows, highs = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
        for x, low, high in zip(np.linspace(x0, x1, columns), lows, highs, strict=True):
            self.line(np.array([[x, low], [x, high]]), faint)

    def finish(self) -> np.ndarray:
        return np.asarray(self.image.resize((self.width, self.height), Image.Resampling.BOX)).copy()


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise UserError(f"The preview would have {width} x {height} pixels. Use at least {MIN_SIDE} a side.")


def plot_area(size: tuple[int, int]) -> tuple[int, int]:
    """Left and right end of the time axis in a plot of (width, height), in pixels."""
    width = size[0]
    return round(max(34, width * 0.07)), width - round(width * 0.02)


def plot_motion(
    clip: MotionClip,
    face_model: FaceModel,
    size: tuple[int, int] = PLOT_SIZE,
    samples: np.ndarray | None = None,
    rate: int = 16000,
) -> np.ndarray:
    """Curves of the named controls and of the head pose over time, uint8 (height, width, 3).

    size: (width, height) in pixels, at least 64 each. samples: float (N,) sound at `rate` Hz, drawn as a waveform on
    top. Frames in which tracking had lost the face are shaded. Raises UserError for another face model's clip.
    """
    width, height = size
    _check_size(width, height)
    plot = _Plot(width, height)
    gap, line = plot.text_size * 0.7, plot.text_size * 1.5
    left, right = plot_area(size)
    length = f"{clip.duration:.1f} s" if clip.duration < 60 else _clock(clip.duration, 60)
    seconds = f"{length}, {len(clip)} frame{'s' * (len(clip) != 1)} at {clip.fps:g} per second"
    blinks = f"{len(find_blinks(clip, face_model)) / clip.duration * 60:.0f} blinks per minute"
    plot.text(left, gap, f"{seconds}, {blinks}", DIM)
    top, bottom = gap + line, height - line - gap * 0.6
    panels = curves_of(clip, face_model)
    weights = [1.0, 1.0, 0.9, 0.7]
    if samples is not None:
        panels, weights = [("Sound", "", {}), *panels], [0.5, *weights]
    unit = (bottom - top) / sum(weights)
    for (title, what, curves), weight in zip(panels, weights, strict=True):
        low_edge = top + unit * weight - gap
        _draw_panel(plot, clip, (left, top, right, low_edge), title, what, curves, samples, rate)
        top += unit * weight
    step = _time_step(clip.duration, max(2, int((right - left) / (plot.text_size * 7))))
    for tick in np.arange(0, clip.duration + step * 1e-6, step):
        x = left + tick / clip.duration * (right - left)
        plot.text(x, height - gap * 0.6, _clock(float(tick), step), DIM, "lb" if tick == 0 else "mb")
    return plot.finish()


def _draw_panel(plot, clip, box, title, unit, curves, samples, rate) -> None:
    """One panel: ground, lost frames, grid, curves, and a legend in its top line."""
    left, top, right, bottom = box
    head = plot.text_size * 1.5
    plot.box(left, top, right, bottom, PANEL)
    lost = np.flatnonzero(~clip.valid.numpy())
    for run in np.split(lost, np.flatnonzero(np.diff(lost) > 1) + 1) if len(lost) else ():
        x0, x1 = (left + frame / len(clip) * (right - left) for frame in (run[0], run[-1] + 1))
        plot.box(x0, top, x1, bottom, LOST)
    inner_top, inner_bottom = top + head, bottom - plot.text_size * 0.3
    if not curves:
        _draw_wave(plot, clip, (left, top, right, bottom), samples, rate)
    else:
        least = {"": 0.5, "°": 6.0}.get(unit, 10.0)
        low, high = _range(curves, least)
        step = _nice_step(high - low, max(4, int((inner_bottom - inner_top) / (plot.text_size * 1.8))))
        for tick in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step + 0.0:
            y = inner_bottom - (tick - low) / (high - low) * (inner_bottom - inner_top)
            plot.line(np.array([[left, y], [right, y]]), ZERO if abs(tick) < step / 2 else GRID, 0.7)
            plot.text(left - plot.text_size * 0.4, y, f"{tick:g}", DIM, "rm")
        heights = [inner_bottom - (v - low) / (high - low) * (inner_bottom - inner_top) for v in curves.values()]
        for draw in (plot.band, plot.curve):
            for y, colour in zip(heights, CURVES, strict=False):
                draw(left, right, y, colour)
    plot.box(left, top, left + plot.text_size + plot.text_width(title), top + head, PANEL)
    used = plot.text(left + plot.text_size * 0.5, top + plot.text_size * 0.25, title)
    x, y = right - plot.text_size * 0.5, top + plot.text_size * 0.25
    for name, colour in reversed(list(zip(curves, CURVES, strict=False))):
        x -= plot.text_width(name)
        plot.text(x, y, name, colour)
        x -= plot.text_size
    if unit:
        plot.text(left + used + plot.text_size, y, f"in {'degrees' if unit == '°' else unit}", DIM)


def _draw_wave(plot, clip, box, samples, rate) -> None:
    left, top, right, bottom = box
    mono = np.atleast_2d(np.asarray(samples, np.float32)).mean(0)[: max(1, round(clip.duration * rate))]
    mono = np.nan_to_num(mono)
    columns = int(right - left)
    share = min(1.0, len(mono) / rate / clip.duration)
    edges = np.unique(np.linspace(0, len(mono), max(1, round(columns * share)) + 1).astype(int)[:-1])
    loud = np.maximum.reduceat(np.abs(mono), edges)
    loud = loud / max(float(loud.max()), 1e-3)
    middle, reach = (top + bottom) / 2, (bottom - top) * 0.46
    for column, value in enumerate(loud):
        x = left + column * share * columns / len(loud)
        plot.box(x, middle - reach * value - 0.3, x + 0.6, middle + reach * value + 0.3, WAVE)


class _Wireframe:
    """Draws one frame of the face; everything that does not change from frame to frame is prepared once."""

    SCALE = 2

    def __init__(self, face_model: FaceModel, width: int, height: int, alpha: torch.Tensor | None):
        _check_size(width, height)
        self.model, self.width, self.height = face_model, width, height
        self.alpha = torch.zeros(N_IDENTITY) if alpha is None else torch.as_tensor(alpha).float().cpu()
        shape = face_model.mean + torch.einsum("k,kvc->vc", self.alpha, face_model.id_basis)
        low, high = shape.min(0).values, shape.max(0).values
        # Head room for turns and an open jaw.
        fit = 0.8 / float((high - low)[1])
        self.rest = torch.tensor([0.0, 0.0, 0.0, *(-(low + high) / 2)[:2].tolist(), float(np.log(fit))])
        triangles = face_model.triangles.numpy()
        corners = shape.numpy()[triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        behind = shape.numpy().mean(0) + (0, 0, 1.0)
        inward = ((corners.mean(1) - behind) * normals).sum(-1) < 0
        triangles = np.where(inward[:, None], triangles[:, ::-1], triangles)
        irises = set(IRIS_LEFT) | set(IRIS_RIGHT)
        # Those at the irises stretch with every glance: they only fill the lids, without an outline.
        self.outlined = np.array([not irises & set(row) for row in triangles.tolist()])
        self.triangles = triangles

    def points(self, expression: torch.Tensor, pose: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (N, 478, 3) in drawing pixels, z towards the back, and how open the eyes are (N,)."""
        vertices = self.model.vertices(self.alpha.expand(len(expression), -1), expression)
        side = self.height * self.SCALE
        points = self.model.project(vertices, self.rest + pose, side).numpy()
        points[..., 0] += (self.width - self.height) * self.SCALE / 2
        return points, eye_opening(vertices).numpy()

    def frame(self, points: np.ndarray, open_eyes: bool, valid: bool) -> Image.Image:
        image = Image.new("RGB", (self.width * self.SCALE, self.height * self.SCALE), BACKGROUND)
        draw = ImageDraw.Draw(image)
        corners = points[self.triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        facing = -normals[:, 2] / np.maximum(np.linalg.norm(normals, axis=1), 1e-9)
        order = np.argsort(-corners[..., 2].mean(1))
        order = order[facing[order] > 0]
        light = (AMBIENT + (1 - AMBIENT) * facing[order])[:, None]
        skin, edge = (SKIN, EDGE) if valid else (LOST_SKIN, LOST_EDGE)
        edge = np.where(self.outlined[order][:, None], edge, skin)
        fills, outlines = (np.round(colour * light).astype(int).tolist() for colour in (skin, edge))
        flat = corners[order, :, :2].reshape(len(order), 6).tolist()
        for triangle, fill, outline in zip(flat, fills, outlines, strict=True):
            draw.polygon(triangle, tuple(fill), tuple(outline))
        self._features(image, draw, points[:, :2], open_eyes)
        return image.reduce(self.SCALE)

    def _features(self, image: Image.Image, draw: ImageDraw.ImageDraw, points: np.ndarray, open_eyes: bool) -> None:
        thick = max(2, round(self.height * self.SCALE / 230))

        def contour(indices, colour, closed=True) -> None:
            place = points[list(indices)].ravel().tolist()
            draw.line(place + (place[:4] if closed else []), colour, thick, "curve")

        for eye, iris in ((EYE_RIGHT, IRIS_RIGHT), (EYE_LEFT, IRIS_LEFT)):
            outline = points[list(eye)]
            if open_eyes:
                _draw_eye(image, draw, outline, points[list(iris)])
            contour(eye, EYES)
        for brow in (BROW_RIGHT, BROW_LEFT):
            contour(brow, BROWS)
        draw.polygon(points[list(LIPS_INNER)].ravel().tolist(), MOUTH_INSIDE)
        contour(LIPS_OUTER, LIPS)
        contour(LIPS_INNER, LIPS)


def _draw_eye(image: Image.Image, draw: ImageDraw.ImageDraw, outline: np.ndarray, iris: np.ndarray) -> None:
    """Dark eye with an iris that the lids cover."""
    draw.polygon(outline.ravel().tolist(), EYE_WHITE)
    low, high = np.floor(outline.min(0)).astype(int) - 1, np.ceil(outline.max(0)).astype(int) + 2
    size = tuple(int(v) for v in high - low)
    inside = Image.new("L", size)
    ImageDraw.Draw(inside).polygon((outline - low).ravel().tolist(), 255)
    eye = image.crop((*low.tolist(), *high.tolist()))
    centre, radius = iris[0] - low, float(np.linalg.norm(iris[1:] - iris[0], axis=1).mean())
    brush = ImageDraw.Draw(eye)
    for colour, share in ((EYES, 1.0), (EYE_WHITE, 0.45)):
        brush.ellipse([*(centre - radius * share).tolist(), *(centre + radius * share).tolist()], colour)
    image.paste(eye, tuple(low.tolist()), inside)


def wireframe_frames(
    clip: MotionClip,
    face_model: FaceModel,
    size: int | tuple[int, int] = 384,
    alpha: torch.Tensor | None = None,
) -> Iterator[np.ndarray]:
    """The moving face as a wire-frame, one uint8 (height, width, 3) per frame of the clip.

    size: side of the picture, or (width, height), in pixels, at least 64. alpha: (80,) identity of a portrait; default
    the mean face. Frames in which tracking had lost the face are reddish. Memory does not grow with the clip.
    Raises UserError for another face model's clip.
    """
    clip.check(face_model.hash)
    width, height = (size, size) if isinstance(size, int) else size
    return _frames(clip, _Wireframe(face_model, width, height, alpha))


def _frames(clip: MotionClip, wireframe: _Wireframe, batch: int = 64) -> Iterator[np.ndarray]:
    for start in range(0, len(clip), batch):
        part = slice(start, start + batch)
        points, opening = wireframe.points(clip.expression[part], clip.pose[part])
        for place, eyes, valid in zip(points, opening, clip.valid[part].tolist(), strict=True):
            yield np.asarray(wireframe.frame(place, eyes > IRIS_HIDDEN, valid))


def preview_frames(
    clip: MotionClip,
    face_model: FaceModel,
    samples: np.ndarray | None = None,
    rate: int = 16000,
    alpha: torch.Tensor | None = None,
) -> Iterator[np.ndarray]:
    """Wire-frame above the plot with a moving playhead, uint8 (940, 640, 3) per frame of the clip."""
    size = (VIDEO_WIDTH, VIDEO_PLOT_HEIGHT)
    plot = plot_motion(clip, face_model, size, samples, rate)
    left, right = plot_area(size)
    canvas = np.concatenate([np.zeros((FACE_HEIGHT, VIDEO_WIDTH, 3), np.uint8), plot])
    for number, face in enumerate(wireframe_frames(clip, face_model, (VIDEO_WIDTH, FACE_HEIGHT), alpha)):
        picture = canvas.copy()
        picture[:FACE_HEIGHT] = face
        x = min(left + round((number + 0.5) / len(clip) * (right - left)), VIDEO_WIDTH - 2)
        line = picture[FACE_HEIGHT + TITLE_HEIGHT :, x : x + 2]
        line[:] = (0.35 * line + 0.65 * PLAYHEAD).astype(np.uint8)
        yield picture


def write_preview(
    clip: MotionClip,
    face_model: FaceModel,
    path: str | Path,
    samples: np.ndarray | None = None,
    rate: int = 16000,
    alpha: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write `preview_frames` with the sound to an .mp4; at most 30 frames per second, which motion does not exceed.

    samples: float (C, N) or (N,) at `rate` Hz, cut or padded with silence to the clip's length. Cancelling through
    `progress` leaves nothing behind. Raises UserError for another face model's clip and for unwritable folders.
    """
    from ..video.writer import SegmentedWriter

    clip.check(face_model.hash)
    if clip.fps > PREVIEW_FPS:
        clip = clip.resampled(PREVIEW_FPS)
    if samples is not None:
        samples = np.nan_to_num(np.atleast_2d(np.asarray(samples, np.float32)))
        wanted = max(1, round(clip.duration * rate))
        samples = np.pad(samples[:, :wanted], ((0, 0), (0, max(0, wanted - samples.shape[1]))))
    writer = SegmentedWriter(path, clip.fps, (VIDEO_WIDTH, FACE_HEIGHT + VIDEO_PLOT_HEIGHT), settings_key="preview")
    try:
        for number, picture in enumerate(preview_frames(clip, face_model, samples, rate, alpha)):
            if progress:
                progress(number, len(clip))
            writer.write(picture[None])
        writer.finish(samples, rate)
    finally:
        shutil.rmtree(writer.partial, ignore_errors=True)
    if progress:
        progress(len(clip), len(clip))
    return Path(path)
