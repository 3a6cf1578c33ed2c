"""Stage 2 driven by tracked motion: a clip re-enacts itself from its first frame, and is compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Iterable

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
from .parts import SIZE, as_batch

FRAMES = 50


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


def compare_frames(made: torch.Tensor, real: torch.Tensor, landmarks: np.ndarray) -> dict[str, float]:
    """Means over frames (T, 3, S, S) of pixel measures.

    Returns psnr, ssim and gmsd of the whole frame, face_psnr in the landmarks' box, mouth_l1 in the lips' box
    widened by 0.15 inter-ocular distances, and mouth_sharpness, the ratio of the Laplacian's energy there.
    """
    size = real.shape[-1]
    face, mouth, energy_made, energy_real = [], [], 0.0, 0.0
    for index, points in enumerate(landmarks):
        one, truth = made[index : index + 1], real[index : index + 1]
        box = face_region(points, size)
        face.append(metrics.psnr(metrics.crop_box(one, box), metrics.crop_box(truth, box)).item())
        box = metrics.mouth_box(points, size)
        one, truth = metrics.crop_box(one, box), metrics.crop_box(truth, box)
        mouth.append((one - truth).abs().mean().item())
        energy_made += metrics.laplacian_energy(one).item()
        energy_real += metrics.laplacian_energy(truth).item()
    return {
        "psnr": metrics.psnr(made, real).mean().item(),
        "ssim": metrics.ssim(made, real).mean().item(),
        "gmsd": metrics.gmsd(made, real).mean().item(),
        "face_psnr": float(np.mean(face)),
        "mouth_l1": float(np.mean(mouth)),
        "mouth_sharpness": energy_made / max(energy_real, 1e-9),
    }


def _collect(batches: Iterable[torch.Tensor]) -> torch.Tensor:
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
) -> list[dict]:
    """Compare our frames, the geometry-only frames and the unmoved reference with the real ones.

    Geometry-only is the same warp through the same autoencoder without the diffusion network. Measures as in
    `compare_frames`, ours plain, with the prefixes `geometry_` and `still_` for the others, and mouth_l1_ratio =
    ours / geometry-only.
    """
    rows = []
    for clip in tqdm([c for c in clips if not c.still], desc="frames", unit="clip"):
        tracked = tracked_motion(clip, face_model, frames, size)
        if tracked is None:
            continue
        appearance, motion, real, landmarks = tracked
        start = time.perf_counter()
        ours = _collect(sample_frames(model, face_model, appearance, motion, steps=steps, seed=seed))
        seconds = time.perf_counter() - start
        geometry = _collect(geometry_only_frames(model, face_model, appearance, motion))
        row = {"clip": clip.name, "frames": len(real), **compare_frames(ours, real, landmarks)}
        others = {"geometry": geometry, "still": appearance.crop[None].expand_as(real)}
        for name, made in others.items():
            row |= {f"{name}_{key}": value for key, value in compare_frames(made, real, landmarks).items()}
        row["mouth_l1_ratio"] = row["mouth_l1"] / max(row["geometry_mouth_l1"], 1e-9)
        row["frames_per_second"] = len(real) / seconds
        rows.append(row)
    return rows
