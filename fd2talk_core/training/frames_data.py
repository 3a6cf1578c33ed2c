"""Pairs of frames of one person for stage 2, kept as arrays on disk: first their geometry, then their latents."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..face.geometry import dense_flow, warp
from ..face.landmarks import EYE_LEFT, EYE_RIGHT, LIPS_OUTER
from ..face.model import FaceModel
from ..face.paint import OpeningPainter
from ..frames.autoencoder import LATENT_FACTOR, Autoencoder
from ..frames.refine import WarpRefiner
from ..frames.sampling import encode_pictures, make_guide, make_reference, motion_windows, warped_portraits
from .data import Clip, list_clips

log = logging.getLogger(__name__)

SIZE = 256
CELLS = SIZE // LATENT_FACTOR
REFERENCES_PER_CLIP = 5
BATCH = 16
# Coefficients at the ends of a clip are padded like in sampling; a still is a clip of one frame.
PAIR_FIELDS = (
    "pixels", "portrait", "flow", "guide", "expression", "offset", "alpha", "beta", "pose", "centres",
)  # fmt: skip
LATENT_FIELDS = ("target", "warped", "bare", "reference")


def _resized(frames: list[np.ndarray], size: int) -> torch.Tensor:
    pictures = [Image.fromarray(f).resize((size, size), Image.Resampling.LANCZOS) for f in frames]
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)


def _flipped_labels(landmarks: np.ndarray, size: int, mirror: torch.Tensor) -> np.ndarray:
    flipped = landmarks[:, mirror.numpy()].copy()
    flipped[..., 0] = size - flipped[..., 0]
    return flipped


def colour_change(rng: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """A random change of light and colour, the same for reference and target: fewer people pass for more.

    Takes and returns uint8 (N, 3, H, W).
    """
    gain = torch.from_numpy(rng.uniform(0.8, 1.15) * rng.uniform(0.88, 1.12, 3)).float()
    gamma, saturation = rng.uniform(0.8, 1.25), 0.0 if rng.random() < 0.08 else rng.uniform(0.6, 1.3)

    def change(pictures: torch.Tensor) -> torch.Tensor:
        values = (pictures.float() / 255) ** gamma * gain[:, None, None]
        grey = values.mean(1, keepdim=True)
        return ((grey + saturation * (values - grey)).clamp(0, 1) * 255 + 0.5).byte()

    return change


@torch.no_grad()
def clip_pairs(
    clip: Clip, count: int, face: FaceModel, radius: int, rng: np.random.Generator, augment: bool, side: int
) -> dict[str, np.ndarray] | None:
    """`count` pairs (reference frame, target frame) of one clip with their geometry at `side`² px; None if unusable."""
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
    targets = rng.choice(valid, min(count, len(valid)), replace=len(valid) < count and not clip.still)
    references = rng.choice(valid, min(REFERENCES_PER_CLIP, len(valid)), replace=False)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in PAIR_FIELDS}
    for number, reference in enumerate(references):
        own = torch.from_numpy(np.sort(targets[number :: len(references)]))
        if len(own) == 0:
            continue
        change = colour_change(rng) if augment and rng.random() < 0.6 else lambda pictures: pictures
        portrait, pixels = (
            change(_resized(chosen, side)) for chosen in ([frames[reference]], [frames[i] for i in own])
        )
        start = (fit.beta[reference], fit.pose[reference])
        target = (fit.beta[own], fit.pose[own])
        flow = torch.cat([
            dense_flow(face, fit.alpha, start, (target[0][i : i + 8], target[1][i : i + 8]))
            for i in range(0, len(own), 8)
        ])  # fmt: skip
        points = face.landmarks(fit.alpha.expand(len(own), -1), *target, 1.0)[..., :2]
        centres = [points[:, list(group)].mean(1) for group in (LIPS_OUTER, EYE_RIGHT, EYE_LEFT)]
        values = (
            pixels, portrait.expand(len(own), -1, -1, -1), flow,
            make_guide(face, fit.alpha, *target, flow, side // LATENT_FACTOR),
            motion_windows(fit.beta, own, radius), motion_windows(fit.pose - start[1], own, radius),
            fit.alpha.expand(len(own), -1), start[0].expand(len(own), -1), start[1].expand(len(own), -1),
            torch.stack(centres, 1),
        )  # fmt: skip
        for name, value in zip(PAIR_FIELDS, values, strict=True):
            parts[name].append(value if value.dtype == torch.uint8 else value.half())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def _plan(folders: list[Path], held_back: bool, pairs: int) -> list[tuple[Clip, int]]:
    """Which clips to take, and how many pairs of each.

    Every identity gets a like share, but a talker with hundreds of clips one of a few clips only; stills give one
    pair without motion each, which tells the network to leave good pictures alone.
    """
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
    return plan


def _load(cache: Path, fields: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    files = {name: cache / f"{name}.npy" for name in fields}
    if not files[fields[-1]].is_file():
        return None
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


def build_pairs(
    folders: list[Path], cache: Path, held_back: bool, pairs: int, face: FaceModel, radius: int, side: int = SIZE
) -> dict[str, np.ndarray]:
    """About `pairs` pairs with their geometry (PAIR_FIELDS) as memory-mapped arrays, made once."""
    found = _load(cache, PAIR_FIELDS)
    if found is None:
        cache.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(int(held_back))
        collected: dict[str, list[np.ndarray]] = {name: [] for name in PAIR_FIELDS}
        plan = _plan(folders, held_back, pairs)
        for clip, count in tqdm(plan, desc=f"pairs {'held back' if held_back else 'training'}"):
            made = clip_pairs(clip, count, face, radius, rng, not held_back, side)
            if made:
                for name in PAIR_FIELDS:
                    collected[name].append(made[name])
        for name in PAIR_FIELDS:
            np.save(cache / f"{name}.npy", np.concatenate(collected.pop(name)))
        found = _load(cache, PAIR_FIELDS)
    return found


def take(source: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Rows of all arrays as tensors: bytes as they are, everything else as float32."""
    batch = {name: torch.from_numpy(np.stack([values[i] for i in rows])) for name, values in source.items()}
    return {name: value if value.dtype == torch.uint8 else value.float() for name, value in batch.items()}


@torch.no_grad()
def build_latents(
    pairs: dict[str, np.ndarray], cache: Path, face: FaceModel, autoencoder: Autoencoder, refiner: WarpRefiner | None
) -> dict[str, np.ndarray]:
    """Latents (LATENT_FIELDS) of pairs, made once: target, warped portrait as in sampling and by the analytic flow
    alone, reference with masks."""
    found = _load(cache, LATENT_FIELDS)
    if found is not None:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    collected: dict[str, list[np.ndarray]] = {name: [] for name in LATENT_FIELDS}
    count = len(pairs["pose"])
    for start in tqdm(range(0, count, BATCH), desc="latents"):
        batch = take(pairs, np.arange(start, min(start + BATCH, count)))
        portrait, pixels = batch["portrait"].float() / 255, batch["pixels"].float() / 255
        middle = batch["expression"].shape[1] // 2
        beta, pose = batch["expression"][:, middle], batch["pose"] + batch["offset"][:, middle]
        motion = (batch["expression"], batch["offset"], batch["beta"], batch["pose"])
        painters = [
            OpeningPainter(face, portrait[i], batch["alpha"][i], batch["beta"][i], batch["pose"][i])
            for i in range(len(beta))
        ]

        def paint(pictures, painters=painters, beta=beta, pose=pose):
            rows = range(len(pictures))
            return torch.cat([painters[i](pictures[i : i + 1], beta[i : i + 1], pose[i : i + 1]) for i in rows])

        warped = warped_portraits(portrait, batch["flow"], batch["guide"], motion, refiner, paint)
        bare = warp(portrait, batch["flow"])
        latents = [encode_pictures(autoencoder, pictures) for pictures in (pixels, warped, bare, portrait)]
        looks = [
            make_reference(face, latents[3][i : i + 1], batch["alpha"][i], batch["beta"][i], batch["pose"][i])
            for i in range(len(beta))
        ]
        for name, value in zip(LATENT_FIELDS, (*latents[:3], torch.cat(looks)), strict=True):
            collected[name].append(value.half().numpy())
    for name in LATENT_FIELDS:
        np.save(cache / f"{name}.npy", np.concatenate(collected.pop(name)))
    return _load(cache, LATENT_FIELDS)
