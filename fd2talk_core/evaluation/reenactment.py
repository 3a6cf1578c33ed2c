"""Stage 2 driven by tracked motion: a clip re-enacts itself from its first frame, and is compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..face.landmarks import face_box
from ..face.model import FaceModel
from ..frames.appearance import Appearance, square_crop
from ..frames.sampling import geometry_only_frames, sample_frames
from ..motion.clip import MotionClip
from ..prepare.run import FPS
from ..training.data import Clip
from . import metrics
from .flicker import compare_flicker
from .learned import LearnedMeasures
from .parts import SIZE, as_batch
from .sheets import save_sheet

FRAMES = 50
MS_SSIM_FROM = 176  # px; the fifth scale needs 161, and an even number of blocks


def tracked_motion(clip: Clip, face_model: FaceModel, frames: int = FRAMES, size: int = SIZE):
    """What a re-enactment needs: (appearance of the first labelled frame, motion, real frames, landmarks).

    The motion comes from the clip's labels: expression coefficients, and pose as an offset from the first frame's.
    It covers up to `frames` neighbouring frames from a third into the clip, where the head has left its first pose.
    Real frames are (T, 3, size, size) in 0..1, landmarks (T, 478, 3) in pixels of them. None without enough labels.
    """
    labels = clip.labels()
    if len(labels.valid) < 12 or labels.valid.mean() < 0.9:
        return None
    pictures = clip.frames()
    usable = np.flatnonzero(labels.valid)
    usable = usable[usable < len(pictures)]
    landmarks = torch.from_numpy(labels.landmarks[usable]) * (size / clip.size)
    fit = face_model.fit(landmarks, size)
    start = min(len(usable) // 3, max(0, len(usable) - frames))
    part = slice(max(start, 1), start + frames)
    motion = MotionClip(fit.beta[part], fit.pose[part] - fit.pose[0], FPS, face_model.hash)
    first = pictures[usable[0]]
    appearance = Appearance(
        picture=first,
        crop_box=(0, 0, first.shape[0]),
        size=size,
        crop=square_crop(first, (0, 0, first.shape[0]), size),
        landmarks=landmarks[0],
        alpha=fit.alpha,
        beta=fit.beta[0],
        pose=fit.pose[0],
        confidence=1.0,
        face_model=face_model.hash,
    )
    return appearance, motion, as_batch([pictures[i] for i in usable[part]], size), landmarks[part].numpy()


def face_region(landmarks: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """Pixel box of a face's landmarks (478, 3), inside a picture of side `size`."""
    x0, y0, x1, y1 = face_box(landmarks)
    return max(int(x0), 0), max(int(y0), 0), min(int(x1) + 1, size), min(int(y1) + 1, size)


def _regions(landmarks: np.ndarray, size: int) -> dict[str, tuple]:
    return {"mouth": (metrics.mouth_box(landmarks, size),), "eye": metrics.eye_boxes(landmarks, size)}


def compare_frames(made: torch.Tensor, real: torch.Tensor, landmarks: np.ndarray) -> dict[str, float]:
    """Means over frames (T, 3, S, S) of pixel measures.

    Returns psnr, ssim, ms_ssim (from 176 px on) and gmsd of the whole frame, face_psnr in the landmarks' box; mouth_l1
    in the lips' box widened by 0.15 inter-ocular distances, eye_l1 in the boxes of both eyes widened by 0.12, and
    mouth_sharpness and eye_sharpness, the ratio of the Laplacian's energy there.
    """
    size = real.shape[-1]
    face = []
    errors, energies = {"mouth": [], "eye": []}, {"mouth": np.zeros(2), "eye": np.zeros(2)}
    for index, points in enumerate(landmarks):
        one, truth = made[index : index + 1], real[index : index + 1]
        box = face_region(points, size)
        face.append(metrics.psnr(metrics.crop_box(one, box), metrics.crop_box(truth, box)).item())
        for name, boxes in _regions(points, size).items():
            parts = [(metrics.crop_box(one, box), metrics.crop_box(truth, box)) for box in boxes]
            errors[name].append(float(np.mean([(a - b).abs().mean().item() for a, b in parts])))
            energies[name] += np.sum([[metrics.laplacian_energy(x).item() for x in pair] for pair in parts], axis=0)
    scores = {
        "psnr": metrics.psnr(made, real).mean().item(),
        "ssim": metrics.ssim(made, real).mean().item(),
        "gmsd": metrics.gmsd(made, real).mean().item(),
        "face_psnr": float(np.mean(face)),
    }
    if size >= MS_SSIM_FROM:
        scores["ms_ssim"] = metrics.ms_ssim(made, real).mean().item()
    for name in errors:
        scores[f"{name}_l1"] = float(np.mean(errors[name]))
        scores[f"{name}_sharpness"] = float(energies[name][0] / max(energies[name][1], 1e-9))
    return scores


def gains(row: dict) -> dict[str, float]:
    """Ours against geometry-only, from one row: ratios of L1 (below 1 is better), gains of the rest (above 0 is)."""
    keys = ("mouth_l1", "eye_l1")
    result = {f"{key}_ratio": row[key] / max(row[f"geometry_{key}"], 1e-9) for key in keys}
    result["psnr_gain"] = row["psnr"] - row["geometry_psnr"]
    if "ms_ssim" in row:
        result["ms_ssim_gain"] = row["ms_ssim"] - row["geometry_ms_ssim"]
    return result | {"gmsd_gain": row["geometry_gmsd"] - row["gmsd"]}


def collect(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Batches (b, S, S, 3) as the samplers yield them -> float32 (T, 3, S, S) in 0..1."""
    return torch.cat([batch.float().cpu() for batch in batches]).permute(0, 3, 1, 2).clamp(0, 1)


@torch.inference_mode()
def evaluate_frames(
    clips: list[Clip],
    model,
    face_model: FaceModel,
    frames: int = FRAMES,
    steps: int = 2,
    seed: int = 0,
    size: int = SIZE,
    *,
    learned: LearnedMeasures | None = None,
    sheets: Path | None = None,
) -> list[dict]:
    """Compare our frames, the geometry-only frames and the unmoved reference with the real ones.

    Geometry-only is the same warp through the same autoencoder without the diffusion network. Measures as in
    `compare_frames`, ours plain, with the prefixes `geometry_` and `still_` for the others; ours against
    geometry-only as in `gains`; flicker as in `compare_flicker`. learned: measures by networks, if there are any.
    sheets: folder for a contact sheet per clip.
    """
    rows = []
    for clip in tqdm([c for c in clips if not c.still], desc="frames", unit="clip"):
        tracked = tracked_motion(clip, face_model, frames, size)
        if tracked is None:
            continue
        appearance, motion, real, landmarks = tracked
        start = time.perf_counter()
        ours = collect(sample_frames(model, face_model, appearance, motion, steps=steps, seed=seed))
        seconds = time.perf_counter() - start
        geometry = collect(geometry_only_frames(model, face_model, appearance, motion))
        row = {"clip": clip.name, "frames": len(real), **compare_frames(ours, real, landmarks)}
        others = {"geometry": geometry, "still": appearance.crop[None].expand_as(real)}
        for name, made in others.items():
            row |= {f"{name}_{key}": value for key, value in compare_frames(made, real, landmarks).items()}
        row |= gains(row) | compare_flicker(ours, real, landmarks)
        if learned is not None:
            row |= learned.compare(ours, real, appearance, landmarks)
        row["frames_per_second"] = len(real) / seconds
        rows.append(row)
        if sheets is not None:
            shown = {"reference": others["still"], "geometry only": geometry, "ours": ours, "real": real}
            save_sheet(sheets / f"frames_{clip.name}.jpg", shown, landmarks, ("ours", "real"))
    return rows
