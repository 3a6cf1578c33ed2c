"""The demo portrait without its background, for the workflow Upscale and Background.

    python tools/make_cutout.py assets

Writes assets/portrait_cutout.png: the colours of portrait.png, and an alpha channel.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HEAD = ((256, 240), (128, 178))  # centre and half axes of an ellipse around head and hair, in pixels
SHOULDERS = [(0, 462), (60, 430), (150, 385), (190, 350), (320, 350), (362, 385), (450, 425), (511, 455)]
UNSURE = 14  # pixels on both sides of that outline, between which GrabCut decides
FEATHER = 1.6  # standard deviation of the edge's softness, in pixels


def main(folder: Path) -> None:
    picture = np.asarray(Image.open(folder / "portrait.png").convert("RGB"))
    outline = np.zeros(picture.shape[:2], np.uint8)
    cv2.ellipse(outline, *HEAD, 0, 0, 360, 1, -1)
    cv2.fillPoly(outline, [np.array([*SHOULDERS, (511, 511), (0, 511)])], 1)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * UNSURE + 1, 2 * UNSURE + 1))
    labels = np.full_like(outline, cv2.GC_PR_BGD)
    labels[outline == 1] = cv2.GC_PR_FGD
    labels[cv2.erode(outline, around, borderType=cv2.BORDER_REPLICATE) == 1] = cv2.GC_FGD
    labels[cv2.dilate(outline, around) == 0] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(picture[..., ::-1].copy(), labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 8, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    inside = cv2.medianBlur(inside, 5)
    alpha = cv2.GaussianBlur(inside, (0, 0), FEATHER, borderType=cv2.BORDER_REPLICATE)
    alpha = np.clip(alpha * 1.3 - 0.3, 0, 1)  # a little inside: the outermost hair has the old background's colour
    rgba = np.dstack([picture, np.round(alpha * 255).astype(np.uint8)])
    Image.fromarray(rgba).save(folder / "portrait_cutout.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
