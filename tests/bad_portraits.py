"""Portraits that are hard or impossible to animate, made from the project's own (people who do not exist)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from fd2talk_core.face.geometry import dense_flow, warp
from fd2talk_core.face.landmarks import EYE_LEFT, EYE_RIGHT, FACE_OVAL
from fd2talk_core.frames.appearance import Appearance, encode_portrait
from fd2talk_core.frames.composite import paste_back
from fd2talk_core.frames.sampling import sample_frames
from fd2talk_core.motion.clip import MotionClip

ASSETS = Path(__file__).parents[1] / "assets"
# Lower half of the face's outline, ear to ear.
JAW = FACE_OVAL[8:29]


def portrait(name: str = "portrait") -> np.ndarray:
    return np.asarray(Image.open(ASSETS / f"{name}.png").convert("RGB"))


def rendered(model, face_model, look: Appearance, **controls) -> np.ndarray:
    """The portrait with another expression, drawn by stage 2: uint8 (H, W, 3)."""
    beta = look.beta + face_model.control_vector(controls)
    clip = MotionClip(beta[None], torch.zeros(1, 6), 25.0, face_model.hash)
    frames = next(sample_frames(model, face_model, look, clip))
    return (paste_back(look, frames)[0] * 255).round().to(torch.uint8).numpy()


def turned(tracker, face_model, picture: np.ndarray, step: float, times: int) -> np.ndarray:
    """The face warped to a head that is turned by `step` radians, `times` times after each other; 512 pixels."""
    for _ in range(times):
        look = encode_portrait(picture, tracker, face_model, size=512)
        pose = look.pose.clone()
        pose[1] += step
        flow = dense_flow(face_model, look.alpha, (look.beta, look.pose), (look.beta[None], pose[None]), grid=128)
        picture = (warp(look.crop, flow)[0].movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return picture


def _points(look: Appearance, indices) -> list[tuple[float, float]]:
    x0, y0, side = look.crop_box
    return [tuple((look.landmarks[i, :2] * (side / look.size) + torch.tensor([x0, y0])).tolist()) for i in indices]


def glasses(look: Appearance, dark: bool) -> np.ndarray:
    image = Image.fromarray(look.picture)
    draw = ImageDraw.Draw(image)
    rims = []
    for eye in (EYE_RIGHT, EYE_LEFT):
        points = np.array(_points(look, eye))
        centre, reach = points.mean(0), np.ptp(points[:, 0]) * 0.85
        rims.append((centre, reach))
        box = (*(centre - reach), *(centre + reach))
        draw.ellipse(box, fill=(15, 15, 18) if dark else None, outline=(20, 18, 16), width=5)
    (a, reach), (b, _) = sorted(rims, key=lambda rim: rim[0][0])
    draw.line([(a[0] + reach, a[1]), (b[0] - reach, b[1])], fill=(20, 18, 16), width=5)
    return np.asarray(image)


def beard(look: Appearance) -> np.ndarray:
    """Dark curls over jaw, chin and upper lip; the lips show."""
    mask = Image.new("L", look.picture.shape[1::-1])
    draw = ImageDraw.Draw(mask)
    draw.polygon(_points(look, (*JAW, 205, 2, 425)), fill=255)
    draw.polygon(_points(look, (61, 84, 314, 291, 267, 37)), fill=0)
    curls = np.random.default_rng(0).integers(20, 90, (*look.picture.shape[:2], 1)).repeat(3, 2)
    return np.where(np.asarray(mask)[..., None] > 0, curls, look.picture).astype(np.uint8)


def hand(look: Appearance) -> np.ndarray:
    """Fingers of skin's colour from below over chin, half of the mouth and a cheek."""
    image = Image.fromarray(look.picture)
    draw = ImageDraw.Draw(image)
    (x, y), (left, _), (right, _) = _points(look, (14, 61, 291))
    finger = (right - left) * 0.3
    for number in range(4):
        middle, top = x + (number - 0.5) * finger, y - finger * (1.5 - abs(number - 1.5) * 0.4)
        box = (middle - finger / 2, top, middle + finger / 2, y + 6 * finger)
        draw.rounded_rectangle(box, finger / 2, fill=(205 - 8 * number, 160, 135), outline=(140, 95, 80), width=2)
    return np.asarray(image)


def cut_at_edge(look: Appearance, share: float) -> np.ndarray:
    """The picture cut so that `share` of the face's width is missing on the left."""
    points = np.array(_points(look, range(478)))
    low, high = points[:, 0].min(), points[:, 0].max()
    return look.picture[:, round(low + share * (high - low)) :]


def on_canvas(picture: np.ndarray, width: int, height: int, side: int) -> np.ndarray:
    """The picture, `side` pixels large, in the middle of a plain one of another shape."""
    canvas = Image.new("RGB", (width, height), (120, 125, 130))
    canvas.paste(Image.fromarray(picture).resize((side, side)), ((width - side) // 2, (height - side) // 2))
    return np.asarray(canvas)


def grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))


def scaled(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
