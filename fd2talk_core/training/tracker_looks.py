"""How training pictures of the tracker are made to look different: light, colour, damage, style, occlusion."""

from __future__ import annotations

import cv2
import numpy as np

Picture = np.ndarray  # uint8 RGB (h, w, 3)


def light(rng: np.random.Generator, picture: Picture) -> Picture:
    """Exposure, contrast, gamma and white balance as one table look-up; sometimes grey or a light from one side."""
    x = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    gamma, contrast = np.exp(rng.uniform(-0.5, 0.5)), np.exp(rng.uniform(-0.4, 0.35))
    gains = np.exp(rng.uniform(-0.15, 0.15, 3)) * np.exp(rng.uniform(-0.3, 0.3))
    table = ((x**gamma - 0.5) * contrast + 0.5 + rng.uniform(-0.1, 0.1)) * gains
    picture = cv2.LUT(picture, (np.clip(table, 0, 1) * 255).astype(np.uint8)[None])
    draw = rng.random()
    if draw < 0.12:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    elif draw < 0.3:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(rng.integers(-14, 15))) % 180
        hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=float(rng.uniform(0.3, 1.7)))
        picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.random() < 0.12:
        h, w = picture.shape[:2]
        ramp = np.linspace(rng.uniform(0.2, 0.8), 1.2, w if rng.random() < 0.7 else h, dtype=np.float32)
        ramp = ramp[:: 1 if rng.random() < 0.5 else -1]
        ramp = ramp[None, :, None] if len(ramp) == w else ramp[:, None, None]
        picture = np.clip(picture * ramp, 0, 255).astype(np.uint8)
    return picture


def damage(rng: np.random.Generator, picture: Picture) -> Picture:
    """Blur, lost resolution, noise, compression."""
    h, w = picture.shape[:2]
    draw = rng.random()
    if draw < 0.12:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 2.5)))
    elif draw < 0.17:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        start, end = rng.integers(0, length, 2), rng.integers(0, length, 2)
        cv2.line(kernel, tuple(int(v) for v in start), tuple(int(v) for v in end), 1.0)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    elif draw < 0.35:
        factor = rng.uniform(1.3, 5.0)
        small = cv2.resize(picture, (round(w / factor), round(h / factor)), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (w, h), interpolation=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])))
    if rng.random() < 0.15:
        noise = np.empty(picture.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(1 << 30)))
        cv2.randn(noise, 0, float(rng.uniform(2, 16)))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
        picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)
    return picture


def stylise(rng: np.random.Generator, picture: Picture) -> Picture:
    """Make a photo look drawn or painted, roughly."""
    draw = int(rng.integers(6))
    if draw == 0:  # few tones
        step = int(rng.integers(24, 64))
        picture = cv2.medianBlur(picture, 5) // step * step + step // 2
    elif draw == 1:  # flat areas with dark outlines
        flat = cv2.medianBlur(picture, 7)
        grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.2)
        lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 4)
        picture = cv2.bitwise_and(flat, cv2.cvtColor(lines, cv2.COLOR_GRAY2RGB))
    elif draw == 2:  # pencil
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        soft = cv2.GaussianBlur(255 - grey, (0, 0), float(rng.uniform(3, 9)))
        picture = cv2.cvtColor(cv2.divide(grey, 255 - np.minimum(soft, 254), scale=256), cv2.COLOR_GRAY2RGB)
    elif draw == 3:  # brush strokes: each pixel taken from a neighbour, coarse and smooth
        h, w = picture.shape[:2]
        shift = cv2.resize(rng.normal(0, rng.uniform(1, 2.5), (h // 4, w // 4, 2)).astype(np.float32), (w, h))
        ys, xs = np.mgrid[:h, :w].astype(np.float32)
        picture = cv2.remap(picture, xs + shift[..., 0], ys + shift[..., 1], cv2.INTER_LINEAR)
        picture = cv2.medianBlur(picture, 3)
    elif draw == 4:  # false colours
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        colours = cv2.applyColorMap(grey, int(rng.integers(0, 22)))
        picture = cv2.addWeighted(picture, 0.5, colours, 0.5, 0)
    else:  # channels exchanged
        picture = np.ascontiguousarray(picture[..., rng.permutation(3)])
    return picture.astype(np.uint8, copy=False)


def occlude(rng: np.random.Generator, picture: Picture, other: Picture) -> Picture:
    """Hide a part behind a box, an ellipse or a bar, plain or with the texture of another picture."""
    h, w = picture.shape[:2]
    mask = np.zeros((h, w), np.uint8)
    centre = (int(rng.integers(0, w)), int(rng.integers(0, h)))
    axes = (int(rng.uniform(0.05, 0.22) * w), int(rng.uniform(0.05, 0.22) * h))
    if rng.random() < 0.5:
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    else:
        corners = cv2.boxPoints((centre, (axes[0] * 2, axes[1] * 2), float(rng.uniform(0, 90))))
        cv2.fillPoly(mask, [corners.astype(np.int32)], 255)
    if rng.random() < 0.5:
        cover = np.empty_like(picture)
        cover[:] = rng.integers(0, 256, 3, dtype=np.uint8)
    else:
        cover = cv2.resize(other[: other.shape[0] // 3, : other.shape[1] // 3], (w, h))
    return cv2.copyTo(cover, mask, picture.copy())


def background(rng: np.random.Generator, size: int, other: Picture) -> Picture:
    """A square without a face: plain, gradient, noise of several scales, shapes, stripes, or a corner of a picture."""
    draw = rng.random()
    if draw < 0.35:  # corners of portraits hold walls, flags, shoulders
        h, w = other.shape[:2]
        part = int(rng.uniform(0.12, 0.24) * min(h, w))
        x0, y0 = int(rng.choice([0, w - part])), int(rng.choice([0, h - part], p=(0.4, 0.6)))
        picture = cv2.resize(other[y0 : y0 + part, x0 : x0 + part], (size, size), interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:
            picture = cv2.rotate(picture, int(rng.integers(0, 3)))
        return np.ascontiguousarray(picture)
    if draw < 0.5:  # so blurred that no face is left
        cells = int(rng.integers(4, 8))
        small = cv2.resize(other, (cells, cells), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    picture = np.zeros((size, size, 3), np.float32) + rng.uniform(20, 235, 3)
    for cells in (2, 4, 8, 16, 64):
        if rng.random() < 0.5:
            noise = rng.normal(0, rng.uniform(8, 45), (cells, cells, int(rng.choice([1, 3])))).astype(np.float32)
            smooth = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_NEAREST
            noise = cv2.resize(noise, (size, size), interpolation=smooth)
            picture += noise[..., None] if noise.ndim == 2 else noise
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 12)) if draw > 0.6 else 0):
        shape, where = rng.integers(3), tuple(int(v) for v in rng.integers(0, size, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        thick = int(rng.choice([-1, 1, 2, 4]))
        if shape == 0:
            reach = tuple(int(v) for v in rng.integers(4, size // 3, 2))
            cv2.ellipse(picture, where, reach, float(rng.uniform(0, 180)), 0, 360, colour, thick, cv2.LINE_AA)
        elif shape == 1:
            cv2.rectangle(picture, where, tuple(int(v) for v in rng.integers(0, size, 2)), colour, thick)
        else:
            text = "".join(chr(int(v)) for v in rng.integers(65, 122, 6))
            cv2.putText(picture, text, where, int(rng.integers(0, 8)), float(rng.uniform(0.4, 3)), colour, abs(thick))
    return picture
