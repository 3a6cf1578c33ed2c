"""The moving picture of README.md: `python tools/make_demo_animation.py assets` writes demo.webp.

Both demo portraits say the beginning of the demo voice, with the same motion, above the sound's waveform.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fd2talk_core.audio.loading import load_audio
from fd2talk_core.pipeline import talk
from fd2talk_core.video.reading import iter_frames

ASSETS = Path(__file__).parents[1] / "assets"
PORTRAITS = ("portrait.png", "portrait_stylised.png")
SECONDS, FPS, RENDERED_FPS = 5.2, 12.5, 25
SIDE, STRIP = 320, 56
GROUND, WAVE, PLAYED = (20, 24, 36), (86, 96, 122), (70, 224, 205)
QUALITY = 72


def waveform(samples: np.ndarray, width: int, bar: int = 6) -> np.ndarray:
    """Loudness 0..1 of as many parts of the sound as bars fit."""
    parts = np.array_split(np.abs(samples).mean(0), width // bar)
    loud = np.array([np.sqrt((part**2).mean()) for part in parts])
    return loud / loud.max()


def composed(faces: tuple[np.ndarray, ...], loud: np.ndarray, share: float) -> Image.Image:
    picture = Image.new("RGB", (SIDE * len(faces), SIDE + STRIP), GROUND)
    for i, face in enumerate(faces):
        picture.paste(Image.fromarray(face).resize((SIDE, SIDE), Image.LANCZOS), (i * SIDE, 0))
    draw = ImageDraw.Draw(picture)
    step = picture.width / len(loud)
    for i, value in enumerate(loud):
        half = 2 + value * (STRIP / 2 - 6)
        left, middle = i * step + 1, SIDE + STRIP / 2
        colour = PLAYED if (i + 0.5) / len(loud) <= share else WAVE
        draw.rounded_rectangle((left, middle - half, left + step - 3, middle + half), 2, fill=colour)
    return picture


def main(folder: Path) -> None:
    samples, rate = load_audio(ASSETS / "voice.wav")
    count = round(SECONDS * FPS)
    with tempfile.TemporaryDirectory() as scratch:
        videos = []
        for name in PORTRAITS:
            videos.append(Path(scratch) / f"{name}.mp4")
            talk(ASSETS / name, ASSETS / "voice.wav", videos[-1], fps=RENDERED_FPS, seed=4)
        frames = zip(*(islice(iter_frames(video, FPS), count) for video in videos), strict=True)
        loud = waveform(samples[:, : round(SECONDS * rate)], SIDE * len(PORTRAITS))
        pictures = [composed(faces, loud, i / count) for i, faces in enumerate(frames)]
    pictures[0].save(
        folder / "demo.webp",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / FPS),
        loop=0,
        quality=QUALITY,
        method=6,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
