"""Pairs of frames of one person for stage 2: warped and encoded once, kept as arrays on disk."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..device import autocast
from ..face.geometry import dense_flow, warp
from ..face.landmarks import EYE_LEFT, EYE_RIGHT, LIPS_OUTER
from ..face.model import FaceModel
from ..face.paint import OpeningPainter
from ..frames.autoencoder import LATENT_FACTOR, Autoencoder
from ..frames.sampling import make_guide, make_reference, motion_windows
from .data import Clip, list_clips

log = logging.getLogger(__name__)

SIZE = 256
CELLS = SIZE // LATENT_FACTOR
REFERENCES_PER_CLIP = 3
# Coefficients at the ends of a clip are padded like in sampling; a still is a clip of one frame.
FIELDS = ("target", "warped", "guide", "reference", "expression", "offset", "beta", "pose", "centres", "pixels")


def _resized(frames: list[np.ndarray]) -> torch.Tensor:
    pictures = [Image.fromarray(f).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for f in frames]
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)


def _flipped_labels(landmarks: np.ndarray, size: int, mirror: torch.Tensor) -> np.ndarray:
    flipped = landmarks[:, mirror.numpy()].copy()
    flipped[..., 0] = size - flipped[..., 0]
    return flipped


@torch.no_grad()
def clip_pairs(
    clip: Clip, count: int, face: FaceModel, autoencoder: Autoencoder, radius: int, rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """`count` pairs (reference frame, target frame) of one clip with all that training needs; None if unusable."""
    labels = clip.labels()
    valid = np.flatnonzero(labels.valid)
    if len(valid) == 0 or labels.valid.mean() < 0.9:
        return None
    frames, landmarks, size = clip.frames(), labels.landmarks.copy(), clip.size
    frames, landmarks, valid = frames[: len(landmarks)], landmarks[: len(frames)], valid[valid < len(frames)]
    if rng.random() < 0.5:
        frames = [frame[:, ::-1] for frame in frames]
        landmarks = _flipped_labels(landmarks, size, face.mirror)
    # A frame without a face takes the coefficients of its nearest neighbour that has one.
    nearest = valid[np.abs(np.arange(len(landmarks))[:, None] - valid).argmin(1)]
    fit = face.fit(torch.from_numpy(landmarks[nearest]), size)
    targets = np.sort(rng.choice(valid, min(count, len(valid)), replace=len(valid) < count and not clip.still))
    references = rng.choice(valid, min(REFERENCES_PER_CLIP, len(valid)), replace=False)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in FIELDS}
    for number, reference in enumerate(references):
        own = torch.from_numpy(targets[number :: len(references)])
        if len(own) == 0:
            continue
        picture = _resized([frames[reference]]).float() / 255
        pixels = _resized([frames[i] for i in own])
        start = (fit.beta[reference], fit.pose[reference])
        target = (fit.beta[own], fit.pose[own])
        flow = torch.cat([
            dense_flow(face, fit.alpha, start, (target[0][i : i + 8], target[1][i : i + 8]))
            for i in range(0, len(own), 8)
        ])  # fmt: skip
        painted = OpeningPainter(face, picture[0], fit.alpha, *start)(warp(picture[0], flow), *target)
        encoded = []
        with autocast(torch.device("cpu")):
            for source in (picture, pixels.float() / 255, painted):
                encoded.append(torch.cat([
                    autoencoder.encode(source[i : i + 8].contiguous(memory_format=torch.channels_last)).float()
                    for i in range(0, len(source), 8)
                ]))  # fmt: skip
        look = make_reference(face, encoded[0], fit.alpha, *start)
        points = face.landmarks(fit.alpha.expand(len(own), -1), *target, 1.0)[..., :2]
        centres = [points[:, list(group)].mean(1) for group in (LIPS_OUTER, EYE_RIGHT, EYE_LEFT)]
        values = (
            encoded[1], encoded[2], make_guide(face, fit.alpha, *target, flow, CELLS),
            look.expand(len(own), -1, -1, -1),
            motion_windows(fit.beta, own, radius), motion_windows(fit.pose - start[1], own, radius),
            start[0].expand(len(own), -1), start[1].expand(len(own), -1), torch.stack(centres, 1), pixels,
        )  # fmt: skip
        for name, value in zip(FIELDS, values, strict=True):
            parts[name].append(value if value.dtype == torch.uint8 else value.half())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def build_pairs(
    folders: list[Path], cache: Path, held_back: bool, pairs: int, face: FaceModel, autoencoder: Autoencoder,
    radius: int,
) -> dict[str, np.ndarray]:
    """Pairs of all clips as memory-mapped arrays; about `pairs` of them, made once.

    Every identity gets a like share, but a talker with hundreds of clips one of a few clips only; stills give one
    pair without motion each, which tells the network to leave good pictures alone.
    """
    files = {name: cache / f"{name}.npy" for name in FIELDS}
    if not files[FIELDS[-1]].is_file():
        cache.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(int(held_back))
        clips = [clip for folder in folders for clip in list_clips(folder) if clip.held_back == held_back]
        videos = [clip for clip in clips if not clip.still]
        talkers = {clip.identity for clip in videos}
        stills = [clip for clip in clips if clip.still][: 0 if held_back else pairs // 25]
        by_identity = {name: [clip for clip in videos if clip.identity == name] for name in sorted(talkers)}
        share = max(1, pairs // len(talkers))
        plan = [(clip, 1) for clip in stills]
        for group in by_identity.values():
            many = len(group) >= 50
            chosen = group[:: max(1, len(group) // (10 if held_back else 60))] if many else group
            plan += [(clip, max(3, (2 if many and not held_back else 1) * share // len(chosen))) for clip in chosen]
        collected: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
        for clip, count in tqdm(plan, desc=f"pairs {'held back' if held_back else 'training'}"):
            found = clip_pairs(clip, count, face, autoencoder, radius, rng)
            if found:
                for name in FIELDS:
                    collected[name].append(found[name])
        for name in FIELDS:
            np.save(files[name], np.concatenate(collected[name]))
            collected[name].clear()
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}
