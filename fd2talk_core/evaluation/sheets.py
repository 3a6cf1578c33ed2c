"""Contact sheets: what was measured, for the eye. They show real people's faces, so they go where the user says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import UserError
from ..face.landmarks import EYE_LEFT, EYE_RIGHT, LIPS_OUTER, inter_ocular_distance

COLUMNS, CELL, MARGIN = 8, 192, 84
# Enlarged windows: name, contours around whose middle they lie, width and height in inter-ocular distances.
WINDOWS = (("mouth", LIPS_OUTER, (0.96, 0.72)), ("eyes", EYE_RIGHT + EYE_LEFT, (1.36, 0.51)))


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture.permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).byte().numpy())


def _window(picture: Image.Image, landmarks: np.ndarray, contour: tuple[int, ...], shape: tuple[float, float]):
    """The part of a picture around a contour, CELL px wide."""
    unit = float(inter_ocular_distance(landmarks))
    x, y = landmarks[list(contour), :2].mean(0)
    width, height = (unit * side for side in shape)
    box = tuple(round(float(v)) for v in (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return picture.crop(box).resize((CELL, round(CELL * shape[1] / shape[0])), Image.Resampling.BICUBIC)


def contact_sheet(rows: dict[str, Tensor], landmarks: np.ndarray, enlarged: tuple[str, ...]) -> Image.Image:
    """Named rows of pictures (T, 3, S, S) in 0..1 at COLUMNS evenly spread instants; then mouth and eyes, enlarged.

    landmarks: (T, 478, 3) px, where mouth and eyes should be. enlarged: the rows whose details are shown.
    """
    instants = np.linspace(0, len(landmarks) - 1, COLUMNS).round().astype(int)
    pictures = {name: [_image(frames[i]) for i in instants] for name, frames in rows.items()}
    square = (CELL, CELL)
    shown = [(name, [p.resize(square, Image.Resampling.LANCZOS) for p in line]) for name, line in pictures.items()]
    for what, contour, shape in WINDOWS:
        for name in enlarged:
            cut = [_window(p, landmarks[i], contour, shape) for p, i in zip(pictures[name], instants, strict=True)]
            shown.append((f"{name}\n{what}", cut))
    sheet = Image.new("RGB", (MARGIN + COLUMNS * CELL, sum(line[0].height for _, line in shown)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for name, line in shown:
        draw.multiline_text((4, top + line[0].height // 2 - 12), name, fill="black")
        for column, picture in enumerate(line):
            sheet.paste(picture, (MARGIN + column * CELL, top))
        top += line[0].height
    return sheet


def save_sheet(path: Path, rows: dict[str, Tensor], landmarks: np.ndarray, enlarged: tuple[str, ...]) -> None:
    """Write a `contact_sheet` as JPEG. Raises UserError when the place cannot be written."""
    sheet = contact_sheet(rows, landmarks, enlarged)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "JPEG", quality=92)
    except OSError as error:
        raise UserError(f"The contact sheet {path} cannot be written ({error}). Choose another folder.") from error
