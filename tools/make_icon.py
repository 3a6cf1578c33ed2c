"""Icon and banner of the pack: `python tools/make_icon.py assets`.

The mean face of our own face model as a wire-frame, which turns into the bars of a sound wave: icon.svg, icon.png
(400 x 400) and banner.png (21:9). Nobody's face, no foreign art.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import Delaunay

from fd2talk_core.face import landmarks
from fd2talk_core.face.model import FaceModel

GROUND = (20, 24, 36)
TEAL, VIOLET, CORAL = (70, 224, 205), (140, 132, 255), (255, 126, 121)
FILLING = 90  # vertices of the wire-frame between the outlines
OVERSAMPLING = 4


def mixed(a: tuple, b: tuple, share: float) -> tuple[int, int, int]:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def colour_at(x: float) -> tuple[int, int, int]:
    """Teal at the left of the face (x = -1), violet in the middle, coral where the wave ends."""
    return mixed(TEAL, VIOLET, min(1, x + 1)) if x < 0 else mixed(VIOLET, CORAL, min(1, x / 1.6))


def face_points() -> tuple[np.ndarray, dict[str, list[int]]]:
    """Vertices (N, 3) of a coarse face, x to the right and y down in half heights of the face, and outlines in them."""
    mean = FaceModel.load().mean.numpy().astype(float)
    mean[:, 0] -= mean[list(landmarks.FACE_OVAL), 0].mean()
    top, bottom = mean[10, 1], mean[152, 1]
    flip = np.sign(bottom - top)
    mean = np.stack([mean[:, 0], (mean[:, 1] - (top + bottom) / 2) * flip, mean[:, 2]], 1) / (abs(bottom - top) / 2)
    outlines = {
        "oval": list(landmarks.FACE_OVAL)[::2],
        "eye_right": list(landmarks.EYE_RIGHT)[::2],
        "eye_left": list(landmarks.EYE_LEFT)[::2],
        "brow_right": list(landmarks.BROW_RIGHT),
        "brow_left": list(landmarks.BROW_LEFT),
        "lips": list(landmarks.LIPS_OUTER)[::2],
        "mouth": list(landmarks.LIPS_INNER)[::2],
    }
    chosen = list(dict.fromkeys(index for outline in outlines.values() for index in outline))
    distance = np.linalg.norm(mean[:, None, :2] - mean[None, chosen, :2], axis=-1).min(1)
    for _ in range(FILLING):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(mean[:, :2] - mean[chosen[-1], :2], axis=-1))
    place = {index: i for i, index in enumerate(chosen)}
    return mean[chosen], {name: [place[index] for index in outline] for name, outline in outlines.items()}


def shapes(bars: int) -> list[tuple]:
    """("line" | "area" | "bar", points (N, 2) in half heights of the face, colour, width or 0, opacity)."""
    points, outlines = face_points()
    flat = points[:, :2]
    result = []
    normals = []
    triangles = Delaunay(flat).simplices
    inside = set(outlines["mouth"])
    for triangle in triangles:
        a, b, c = points[triangle]
        normal = np.cross(b - a, c - a)
        normals.append(normal / (np.linalg.norm(normal) or 1))
    for triangle, normal in zip(triangles, normals, strict=True):
        middle = flat[triangle].mean(0)
        fading = np.clip((0.1 - middle[0]) / 0.3, 0, 1)  # the right half is sound
        if fading <= 0 or set(triangle) <= inside:
            continue
        light = 0.10 + 0.5 * max(0.0, float(np.dot(normal * np.sign(normal[2] or 1), (-0.45, -0.5, 0.74))) - 0.45)
        result.append(("area", flat[triangle], colour_at(middle[0]), 0, light * fading))
        for i in range(3):
            edge = flat[[triangle[i], triangle[i - 1]]]
            result.append(("line", edge, colour_at(edge[:, 0].mean()), 0.009, 0.65 * fading))
    for name, outline in outlines.items():
        for i in range(len(outline)):
            ends = flat[[outline[i], outline[i - 1]]]
            fading = float(ends[:, 0].mean() < 0.02)
            if fading > 0:
                width = 0.028 if name != "oval" else 0.022
                result.append(("line", ends, colour_at(ends[:, 0].mean()), width, fading))

    oval = flat[outlines["oval"]]
    edge = oval[:, 0].max()
    for i, x in enumerate(np.arange(bars) * 0.115 + 0.14):
        beat = 0.5 + 0.5 * np.sin(2.3 * i + 1.2) * np.cos(0.55 * i + 0.3)
        if x < edge:  # along the face's own outline
            right = oval[oval[:, 0] > 0]
            order = right[right[:, 1] < 0], right[right[:, 1] >= 0]
            heights = [np.interp(x, *part[part[:, 0].argsort()].T) for part in order]
            share = 1 - 0.55 * (x / edge) ** 2
            top, bottom = heights[0] * share * (0.6 + 0.4 * beat), heights[1] * share * (0.6 + 0.4 * beat)
        else:
            reach = 0.5 * beat * np.exp(-0.8 * (x - edge)) + 0.03
            top, bottom = -reach, reach
        opacity = np.clip((x + 0.15) / 0.5, 0.4, 1)
        result.append(("bar", np.array([[x, top], [x, bottom]]), colour_at(x), 0.05, opacity))
    return result


def svg(parts: list[tuple], side: int, scale: float, centre: tuple[float, float]) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" width="{side}" height="{side}">',
        f'<rect width="{side}" height="{side}" rx="{side * 0.18:g}" fill="rgb{GROUND}"/>',
    ]
    for kind, points, colour, width, opacity in parts:
        at = [f"{x:.1f},{y:.1f}" for x, y in points * scale + np.array(centre)]
        if kind == "area":
            lines.append(f'<polygon points="{" ".join(at)}" fill="rgb{colour}" fill-opacity="{opacity:.2f}"/>')
        else:
            lines.append(
                f'<polyline points="{" ".join(at)}" stroke="rgb{colour}" stroke-width="{width * scale:.1f}" '
                f'stroke-opacity="{opacity:.2f}" stroke-linecap="round" fill="none"/>'
            )
    return "\n".join([*lines, "</svg>"]).replace(", ", ",") + "\n"


def paint(picture: Image.Image, parts: list[tuple], scale: float, centre: tuple[float, float]) -> None:
    draw = ImageDraw.Draw(picture, "RGBA")
    for kind, points, colour, width, opacity in parts:
        at = [tuple(point) for point in points * scale + np.array(centre)]
        colour = (*mixed(GROUND, colour, opacity if kind != "area" else 1), 255 if kind != "area" else 0)
        if kind == "area":
            draw.polygon(at, fill=(*colour[:3], round(255 * opacity)))
        else:
            line = width * scale
            draw.line(at, fill=colour, width=round(line))
            for x, y in at:
                draw.ellipse((x - line / 2, y - line / 2, x + line / 2, y + line / 2), fill=colour)


def icon_png(parts: list[tuple], side: int, scale: float, centre: tuple[float, float]) -> Image.Image:
    big = side * OVERSAMPLING
    picture = Image.new("RGB", (big, big), GROUND)
    paint(picture, parts, scale * OVERSAMPLING, tuple(OVERSAMPLING * value for value in centre))
    corners = Image.new("L", (big, big), 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, big - 1, big - 1), big * 0.18, fill=255)
    picture.putalpha(corners)
    return picture.resize((side, side), Image.LANCZOS)


def banner_png(width: int) -> Image.Image:
    w, h = width * 2, width * 2 * 9 // 21
    picture = Image.new("RGB", (w, h), GROUND)
    paint(picture, shapes(36), h * 0.38, (w * 0.19, h * 0.5))
    draw = ImageDraw.Draw(picture)
    for text, font, size, y, colour in (
        ("FD2Talk", "DejaVuSans-Bold.ttf", 0.17, 0.24, (240, 243, 250)),
        ("one portrait + one voice = a talking video", "DejaVuSans.ttf", 0.056, 0.78, (176, 186, 206)),
    ):
        draw.text((w * 0.43, h * y), text, font=ImageFont.truetype(font, round(h * size)), fill=colour, anchor="lm")
    return picture.resize((width, width * 9 // 21), Image.LANCZOS)


def main(folder: Path) -> None:
    parts, scale, centre = shapes(11), 165, (172, 200)
    (folder / "icon.svg").write_text(svg(parts, 400, scale, centre), encoding="utf-8")
    icon_png(parts, 400, scale, centre).save(folder / "icon.png", optimize=True)
    banner_png(1680).save(folder / "banner.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
