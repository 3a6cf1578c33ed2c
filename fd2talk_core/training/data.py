"""Prepared clips on disk, and which of them are held back from training."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ..errors import UserError
from ..prepare.labels import FrameLabels
from ..video.reading import iter_frames, read_picture

HOLD_BACK_ONE_IN = 8
SPLIT_BY_CLIP_FROM = 50


def is_held_back(key: str) -> bool:
    """True for about one in eight keys, always the same ones on every machine."""
    return int.from_bytes(hashlib.sha1(key.encode()).digest()[:4], "big") % HOLD_BACK_ONE_IN == 0  # noqa: S324


@dataclass
class Clip:
    """One prepared clip or still; `meta` is its manifest row, with the source's own columns when they were given."""

    folder: Path
    name: str
    held_back: bool
    meta: dict = field(default_factory=dict)

    @property
    def still(self) -> bool:
        return self.meta.get("still") in (True, "True")

    @property
    def size(self) -> int:
        return int(self.meta["size"])

    @property
    def identity(self) -> str:
        return self.meta.get("identity") or self.name

    @property
    def synced(self) -> bool:
        """True when sound and lips belong together: as the source says, or by our own check."""
        stated = self.meta.get("lip_sync")
        return stated == "yes" if stated else self.meta.get("disagree") == "False"

    def _tensors(self) -> dict[str, np.ndarray]:
        return load_file(self.folder / f"{self.name}.safetensors")

    def labels(self) -> FrameLabels:
        """Landmarks in pixels of the stored crop, blendshape scores and validity."""
        tensors = self._tensors()
        return FrameLabels(tensors["landmarks"] * self.size, tensors["blendshapes"], tensors["valid"])

    def samples(self) -> np.ndarray | None:
        """Sound as float32 (N,), 16 kHz, or None."""
        audio = self._tensors().get("audio")
        return None if audio is None else audio.astype(np.float32) / 32767

    def frames(self) -> list[np.ndarray]:
        """All frames, uint8 RGB (size, size, 3)."""
        if self.still:
            return [read_picture(self.folder / f"{self.name}.png")]
        return list(iter_frames(self.folder / f"{self.name}.mp4", None))


def list_clips(folder: str | Path) -> list[Clip]:
    """Clips of a prepared folder, by name.

    The held-back ones are chosen by identity. An identity with 50 or more clips is split by clip instead, as there
    the clips are sentences of one talker.
    """
    manifest = Path(folder) / "manifest.csv"
    if not manifest.is_file():
        raise UserError(f"The folder {folder} is not prepared (no manifest.csv). Run `fd2talk prepare` on it first.")
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row.get("identity") or row["clip"] for row in rows)
    clips = []
    for row in rows:
        identity = row.get("identity") or row["clip"]
        key = row["clip"] if counts[identity] >= SPLIT_BY_CLIP_FROM else identity
        clips.append(Clip(Path(folder), row["clip"], is_held_back(key), row))
    return clips
