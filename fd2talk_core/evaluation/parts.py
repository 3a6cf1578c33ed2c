"""Measures of tracker, detector and autoencoder, each on prepared clips; one row per clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..face.landmarks import face_box
from ..face.tracker import FaceBox, FaceTracker
from ..training.data import Clip
from . import metrics

FRAMES_PER_CLIP = 8
MIN_IOU = 0.5
SIZE = 256
PHOTOS = ("official_portrait", "portrait_photo", "ai_photo", "photo")
ARTWORKS = ("painting", "stylised", "sculpture", "drawing")


def kind_of(clip: Clip) -> str:
    """Group that a clip is reported under: photo, painting or stylised, the stated kind, still, or video."""
    kind = clip.meta.get("kind", "")
    if kind.startswith(PHOTOS):
        return "photo"
    if kind.startswith(ARTWORKS):
        return "painting or stylised"
    return kind or ("still" if clip.still else "video")


def labelled_frames(clip: Clip, count: int = FRAMES_PER_CLIP) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Up to `count` evenly spread frames with a label: (picture uint8 (S, S, 3), landmarks (478, 3) px)."""
    labels = clip.labels()
    usable = np.flatnonzero(labels.valid)
    if not len(usable):
        return
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, count).astype(int))]
    frames = clip.frames()
    for index in chosen[chosen < len(frames)]:
        yield frames[index], labels.landmarks[index]


def evaluate_tracker(clips: list[Clip], tracker: FaceTracker) -> list[dict]:
    """Normalised mean error against the labels, and detection: two measures from one look at each frame.

    The error of a frame is that of the tracked face which overlaps the label most; when the detector found none,
    that of the landmarks in the label's box, so that hard frames count too.
    """
    rows = []
    for clip in tqdm(clips, desc="tracker", unit="clip"):
        errors, found, extra = [], [], 0
        for picture, truth in labelled_frames(clip):
            box = face_box(truth)
            boxes = [(b.x0, b.y0, b.x1, b.y1) for b in tracker.detect(picture)]
            overlaps = [metrics.box_iou(b, box) for b in boxes]
            found.append(max(overlaps, default=0.0) >= MIN_IOU)
            extra += len(boxes) - found[-1]
            start = boxes[int(np.argmax(overlaps))] if found[-1] else box
            errors.append(float(metrics.nme(tracker.landmarks(picture, FaceBox(*start, 1.0)).landmarks, truth)))
        if errors:
            rows.append(
                {
                    "clip": clip.name,
                    "kind": kind_of(clip),
                    "frames": len(errors),
                    "nme": float(np.mean(errors)),
                    "nme_worst": float(np.max(errors)),
                    "recall": float(np.mean(found)),
                    "extra_faces": extra / len(errors),
                }
            )
    return rows


def as_batch(pictures: Iterable[np.ndarray], size: int) -> torch.Tensor:
    """uint8 pictures (S, S, 3) -> float (N, 3, size, size) in 0..1."""
    resized = [
        p if p.shape[0] == size else np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.LANCZOS))
        for p in pictures
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def evaluate_autoencoder(clips: list[Clip], coders: dict[str, torch.nn.Module], frames: int = 4) -> list[dict]:
    """Reconstruction at 256² of a few frames per clip.

    coders: name -> module with encode((N, 3, H, W) in 0..1) and decode. Rows have psnr, ms_ssim, gmsd and sharpness
    (ratio of the Laplacian's energy) per coder.
    """
    rows = []
    for clip in tqdm(clips, desc="autoencoder", unit="clip"):
        pictures = [picture for picture, _ in labelled_frames(clip, frames)]
        if not pictures:
            continue
        truth = as_batch(pictures, SIZE)
        row = {"clip": clip.name, "kind": kind_of(clip), "frames": len(truth)}
        for name, coder in coders.items():
            made = coder.decode(coder.encode(truth)).clamp(0, 1)
            row[f"{name}_psnr"] = metrics.psnr(made, truth).mean().item()
            row[f"{name}_ms_ssim"] = metrics.ms_ssim(made, truth).mean().item()
            row[f"{name}_gmsd"] = metrics.gmsd(made, truth).mean().item()
            row[f"{name}_sharpness"] = (metrics.laplacian_energy(made) / metrics.laplacian_energy(truth)).mean().item()
        rows.append(row)
    return rows


class TinyCoder(torch.nn.Module):
    """diffusers' AutoencoderTiny with pictures in 0..1 and plain tensors, as our own autoencoder."""

    def __init__(self, tiny):
        super().__init__()
        self.tiny = tiny

    @classmethod
    def load(cls, folder: Path) -> TinyCoder:
        from ..training.autoencoder import load_taef1

        return cls(load_taef1(Path(folder)))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.tiny.encode(pictures * 2 - 1).latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.tiny.decode(latents).sample / 2 + 0.5
