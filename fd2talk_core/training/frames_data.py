"""Pairs of frames of one person for stage 2: first their geometry, then their latents, kept as arrays on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from ..face.geometry import dense_flow, warp
from ..face.landmarks import EYE_LEFT, EYE_RIGHT, LIPS_OUTER, eye_opening, mouth_opening
from ..face.model import FaceModel
from ..face.paint import OpeningPainter
from ..frames.autoencoder import LATENT_FACTOR, Autoencoder
from ..frames.refine import WarpRefiner
from ..frames.sampling import encode_pictures, make_guide, make_reference, motion_windows, warped_portraits
from .data import Clip, list_clips
from .frame_augment import changed_landmarks, changed_pictures, colour_change, shape_change

log = logging.getLogger(__name__)

SIZE = 256
CELLS = SIZE // LATENT_FACTOR
REFERENCES_PER_CLIP = 8
BATCH = 16
# Stills teach many faces, though they do not move: each also serves as the truth for itself warped to another face's
# expression and pose.
MADE_PER_STILL, MOVES_PER_CLIP = 2, 12
# Closing eyes and opening mouths are rare in video, and what the warp does worst: such pairs come more often.
BLINK_FACTOR, SPEECH_FACTOR = 6.0, 2.0
# Moves beyond this tear the warp: radians of each angle, and expression in standard deviations.
FARTHEST_TURN, FARTHEST_EXPRESSION = 0.12, 1.5
# Coefficients at the ends of a clip are padded like in sampling; a still is a clip of one frame.
PAIR_FIELDS = (
    "pixels", "portrait", "flow", "guide", "expression", "offset", "alpha", "beta", "pose", "made", "centres",
)  # fmt: skip
LATENT_FIELDS = ("target", "warped", "bare", "reference")


def _resized(frames: list[np.ndarray], size: int) -> torch.Tensor:
    pictures = [Image.fromarray(f).resize((size, size), Image.Resampling.LANCZOS) for f in frames]
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)


def _flipped_labels(landmarks: np.ndarray, size: int, mirror: torch.Tensor) -> np.ndarray:
    flipped = landmarks[:, mirror.numpy()].copy()
    flipped[..., 0] = size - flipped[..., 0]
    return flipped


@dataclass
class Moves:
    """Differences between two moments of real clips, for stills to take: expressions (M, 64) and poses (M, 6)."""

    beta: list[torch.Tensor] = field(default_factory=list)
    pose: list[torch.Tensor] = field(default_factory=list)

    def collect(self, beta: torch.Tensor, pose: torch.Tensor, rng: np.random.Generator) -> None:
        """Remember some differences within a clip of expressions (T, 64) and poses (T, 6)."""
        first, second = (torch.from_numpy(rng.integers(0, len(beta), MOVES_PER_CLIP)) for _ in range(2))
        self.beta += list(beta[first] - beta[second])
        self.pose += list(pose[first] - pose[second])

    def some(
        self, count: int, expression_std: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random ones of moderate size: (count, 64), (count, 6)."""
        chosen = rng.integers(0, len(self.beta), count)
        pose = torch.stack([self.pose[i] for i in chosen])
        pose[:, :3] = pose[:, :3].clamp(-FARTHEST_TURN, FARTHEST_TURN)
        reach = FARTHEST_EXPRESSION * expression_std
        return torch.stack([self.beta[i] for i in chosen]).clamp(-reach, reach), pose


def _pairs(
    face: FaceModel, radius: int, alpha: torch.Tensor, start: tuple[torch.Tensor, torch.Tensor], portrait: torch.Tensor,
    pixels: torch.Tensor, expressions: torch.Tensor, poses: torch.Tensor, made: bool,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """PAIR_FIELDS of one portrait (1, 3, S, S) with target pictures (N, 3, S, S), given the windows of their motion."""
    count, side = len(pixels), pixels.shape[-1]
    target = (expressions[:, radius], poses[:, radius])
    flow = torch.cat([
        dense_flow(face, alpha, start, (target[0][i : i + 8], target[1][i : i + 8])) for i in range(0, count, 8)
    ])  # fmt: skip
    points = face.landmarks(alpha.expand(count, -1), *target, 1.0)[..., :2]
    centres = [points[:, list(group)].mean(1) for group in (LIPS_OUTER, EYE_RIGHT, EYE_LEFT)]
    values = (
        pixels, portrait.expand(count, -1, -1, -1), flow,
        make_guide(face, alpha, *target, flow, side // LATENT_FACTOR), expressions, poses - start[1],
        alpha.expand(count, -1), start[0].expand(count, -1), start[1].expand(count, -1),
        torch.full((count,), int(made), dtype=torch.uint8), torch.stack(centres, 1),
    )  # fmt: skip
    return dict(zip(PAIR_FIELDS, values, strict=True))


@torch.no_grad()
def clip_pairs(
    clip: Clip, count: int, face: FaceModel, radius: int, rng: np.random.Generator, augment: bool, side: int,
    moves: Moves | None = None, in_a_row: float = 0.0,
) -> dict[str, np.ndarray] | None:  # fmt: skip
    """`count` pairs (reference frame, target frame) of one clip with their geometry at `side`² px; None if unusable.

    A still is its own reference, and `count` - 1 times its own target from where `moves` have taken it. `in_a_row`:
    share of references whose targets follow each other in time.
    """
    labels = clip.labels()
    valid = np.flatnonzero(labels.valid)
    if len(valid) == 0 or labels.valid.mean() < 0.9:
        return None
    frames, landmarks, size = clip.frames(), labels.landmarks.copy(), clip.size
    frames, landmarks, valid = frames[: len(landmarks)], landmarks[: len(frames)], valid[valid < len(frames)]
    if rng.random() < 0.5:
        frames = [frame[:, ::-1] for frame in frames]
        landmarks = _flipped_labels(landmarks, size, face.mirror)
    shape = shape_change(rng) if augment and rng.random() < 0.7 else None
    if shape is not None:
        landmarks = changed_landmarks(landmarks, shape, size)

    def pictures(chosen: list[int]) -> torch.Tensor:
        own = [frames[i] for i in chosen]
        return _resized(own, side) if shape is None else changed_pictures(own, shape, side)

    # A frame without a face takes the coefficients of its nearest neighbour that has one.
    nearest = valid[np.abs(np.arange(len(landmarks))[:, None] - valid).argmin(1)]
    fit = face.fit(torch.from_numpy(landmarks[nearest]), size)
    targets = rng.choice(valid, min(count, len(valid)), replace=len(valid) < count and not clip.still)
    references = rng.choice(valid, min(REFERENCES_PER_CLIP, len(valid)), replace=False)
    parts: list[dict[str, torch.Tensor]] = []
    for number, reference in enumerate(references):
        own = torch.from_numpy(np.sort(targets[number :: len(references)]))
        if len(own) == 0:
            continue
        if rng.random() < in_a_row and len(valid) >= len(own):
            own = torch.from_numpy(valid[rng.integers(0, len(valid) - len(own) + 1) + np.arange(len(own))])
        change = colour_change(rng) if augment and rng.random() < 0.6 else lambda values: values
        portrait, pixels = change(pictures([reference])), change(pictures(own.tolist()))
        start = (fit.beta[reference], fit.pose[reference])
        windows = motion_windows(fit.beta, own, radius), motion_windows(fit.pose, own, radius)
        parts.append(_pairs(face, radius, fit.alpha, start, portrait, pixels, *windows, False))
        if clip.still and count > 1 and moves and moves.beta:
            parts += _moved_still(face, radius, fit.alpha, start, portrait, moves.some(count - 1, face.exp_std, rng))
    if moves is not None and not clip.still:
        moves.collect(fit.beta[valid], fit.pose[valid], rng)
    collected = {name: torch.cat([part[name] for part in parts]) for name in PAIR_FIELDS}
    return {name: (value if value.dtype == torch.uint8 else value.half()).numpy() for name, value in collected.items()}


def _moved_still(face, radius, alpha, start, portrait, moves) -> list[dict[str, torch.Tensor]]:
    """A still as the truth for itself: its references are the still after each move, as sampling would warp it."""
    parts = []
    painter = OpeningPainter(face, portrait[0].float() / 255, alpha, *start)
    expressions, poses = (value.expand(1, 2 * radius + 1, -1) for value in start)
    for beta, pose in zip(start[0] + moves[0], start[1] + moves[1], strict=True):
        flow = dense_flow(face, alpha, start, (beta[None], pose[None]))
        moved = painter(warp(portrait[0].float() / 255, flow), beta[None], pose[None])
        moved = (moved.clamp(0, 1) * 255 + 0.5).byte()
        parts.append(_pairs(face, radius, alpha, (beta, pose), moved, portrait, expressions, poses, True))
    return parts


def _plan(folders: list[Path], held_back: bool, pairs: int) -> list[tuple[Clip, int]]:
    """Which clips to take, and how many pairs of each.

    Every identity gets a like share, but a talker with hundreds of clips one of a few clips only. Stills come last;
    each gives one pair without motion, which tells the network to leave good pictures alone, and some with made motion.
    """
    clips = [clip for folder in folders for clip in list_clips(folder) if clip.held_back == held_back]
    videos = [clip for clip in clips if not clip.still]
    talkers = {clip.identity for clip in videos}
    stills = [clip for clip in clips if clip.still][: 0 if held_back else pairs // 12]
    by_identity = {name: [clip for clip in videos if clip.identity == name] for name in sorted(talkers)}
    share = max(1, pairs // len(talkers))
    plan = []
    for group in by_identity.values():
        many = len(group) >= 50
        chosen = group[:: max(1, len(group) // (10 if held_back else 60))] if many else group
        plan += [(clip, max(3, (2 if many and not held_back else 1) * share // len(chosen))) for clip in chosen]
    return plan + [(clip, 1 + MADE_PER_STILL) for clip in stills]


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
        plan, moves = _plan(folders, held_back, pairs), Moves()
        for clip, count in tqdm(plan, desc=f"pairs {'held back' if held_back else 'training'}"):
            made = clip_pairs(clip, count, face, radius, rng, not held_back, side, moves)
            if made:
                for name in PAIR_FIELDS:
                    collected[name].append(made[name])
        for name in PAIR_FIELDS:
            np.save(cache / f"{name}.npy", np.concatenate(collected.pop(name)))
        found = _load(cache, PAIR_FIELDS)
    return found


def chances(face: FaceModel, expression: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each pair should be drawn, as a multiple of the plainest (N,), and which close the eyes (N,).

    Closing and opening are told by the difference from the reference (N, 64) to the middle of the target's window
    (N, 2r+1, 64).
    """
    openings = []
    for values in (expression[:, expression.shape[1] // 2], beta):
        parts = torch.from_numpy(values.astype(np.float32)).split(1024)
        shapes = [face.vertices(torch.zeros(len(part), 80), part) for part in parts]
        openings.append([torch.cat([measure(s) for s in shapes]) for measure in (eye_opening, mouth_opening)])
    (eyes, mouth), (reference_eyes, reference_mouth) = openings
    blinks = ((eyes < 0.65 * reference_eyes) & (reference_eyes > 0.15)).numpy()
    speaks = (mouth > reference_mouth + 0.08).numpy()
    return 1 + (BLINK_FACTOR - 1) * blinks + (SPEECH_FACTOR - 1) * speaks, blinks


def take(source: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Rows of all arrays as tensors: bytes as they are, everything else as float32."""
    batch = {name: torch.from_numpy(np.stack([values[i] for i in rows])) for name, values in source.items()}
    return {name: value if value.dtype == torch.uint8 else value.float() for name, value in batch.items()}


def warped_pair_pictures(
    batch: dict[str, torch.Tensor], face: FaceModel, refiner: WarpRefiner | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, S, S) of pairs as sampling encodes them, and as the analytic flow alone warps them.

    Pairs of one reference follow each other.
    """
    portrait, middle = batch["portrait"].float() / 255, batch["expression"].shape[1] // 2
    beta, pose = batch["expression"][:, middle], batch["pose"] + batch["offset"][:, middle]
    motion = (batch["expression"], batch["offset"], batch["beta"], batch["pose"])
    firsts = [i for i in range(len(beta)) if i == 0 or not torch.equal(batch["portrait"][i], batch["portrait"][i - 1])]

    def paint(pictures):
        parts = []
        for first, end in zip(firsts, [*firsts[1:], len(beta)], strict=True):
            own, rows = (batch[name][first] for name in ("alpha", "beta", "pose")), slice(first, end)
            parts.append(OpeningPainter(face, portrait[first], *own)(pictures[rows], beta[rows], pose[rows]))
        return torch.cat(parts)

    warped = warped_portraits(portrait, batch["flow"], batch["guide"], motion, refiner, paint)[0]
    return warped, warp(portrait, batch["flow"])


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
    count, device = len(pairs["pose"]), next(autoencoder.parameters()).device
    for start in tqdm(range(0, count, BATCH), desc="latents"):
        batch = take(pairs, np.arange(start, min(start + BATCH, count)))
        pictures = (batch["pixels"].float() / 255, *warped_pair_pictures(batch, face, refiner))
        pictures = (*pictures, batch["portrait"].float() / 255)
        latents = [encode_pictures(autoencoder, part.to(device)).cpu() for part in pictures]
        looks = [
            make_reference(face, latents[3][i : i + 1], batch["alpha"][i], batch["beta"][i], batch["pose"][i])
            for i in range(len(latents[3]))
        ]
        for name, value in zip(LATENT_FIELDS, (*latents[:3], torch.cat(looks)), strict=True):
            collected[name].append(value.half().numpy())
    for name in LATENT_FIELDS:
        np.save(cache / f"{name}.npy", np.concatenate(collected.pop(name)))
    return _load(cache, LATENT_FIELDS)


class StoredPairs:
    """Pairs and their latents as arrays (on disk), drawn for training."""

    def __init__(self, arrays: dict[str, np.ndarray], face: FaceModel):
        self.arrays = arrays
        self.chance, self.blinks = chances(face, arrays["expression"], arrays["beta"])
        self.rng = np.random.default_rng()
        log.info("%d pairs, %d of them blinks", len(self), self.blinks.sum())

    def __len__(self) -> int:
        return len(self.arrays["pose"])

    def take(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Rows of all arrays as tensors, with `blink` (N,) bool."""
        return take(self.arrays, rows) | {"blink": torch.from_numpy(self.blinks[rows])}

    def draw(self, count: int, in_a_row: int = 1) -> dict[str, torch.Tensor]:
        """`count` pairs by chance. Stored pairs are in no order of time: in_a_row must be 1."""
        if in_a_row != 1:
            raise UserError("Temporal layers need frames in a row, which stored pairs are not. Set `fresh` to the "
                            "number of processes that shall make pairs anew.")  # fmt: skip
        return self.take(self.rng.choice(len(self), count, p=self.chance / self.chance.sum()))

    def residuals(self, geometry: bool) -> torch.Tensor:
        """Latent residuals of some pairs, to tell their size."""
        target = torch.from_numpy(self.arrays["target"][::20].astype(np.float32))
        return target - torch.from_numpy(self.arrays["warped"][::20].astype(np.float32)) if geometry else target
