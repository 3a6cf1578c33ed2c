"""What each part of stage 2 brings: the same clips with one part switched off, or with other numbers of steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..face.model import FaceModel
from ..frames.model import FrameModel
from ..frames.sampling import FrameSampler, geometry_only_frames, sample_frames
from ..training.data import Clip
from .reenactment import collect, compare_frames, tracked_motion

STEPS = (1, 2, 4, 8, 20)


class _NoAppearance(nn.Module):
    """Null tokens in place of the portrait's, as in training when appearance is dropped."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.null = encoder.null

    def forward(self, reference: torch.Tensor) -> list[torch.Tensor]:
        return [null.expand(len(reference), -1, -1) for null in self.null]


class _NoMotion(nn.Module):
    """Null tokens in place of the motion window's."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.null = encoder.null
        self.register_buffer("expression_std", encoder.expression_std)

    def forward(self, expression: torch.Tensor, *_) -> torch.Tensor:
        return self.null.expand(*expression.shape[:2], -1)


def without(model: FrameModel, **changes) -> FrameModel:
    """A copy of a model, sharing its weights, with some submodules replaced."""
    other = copy.copy(model)
    other._modules = {**model._modules, **changes}  # noqa: SLF001 - a shallow copy shares the dictionary
    return other


def variants(model: FrameModel, others: dict[str, FrameModel]) -> Iterator[tuple[str, FrameModel, dict]]:
    """Name, model and sampling options of each row of the table; `others` are networks that were trained apart."""
    for steps in STEPS:
        yield f"{steps} step{'s' if steps > 1 else ''}", model, {"steps": steps}
    yield "appearance path off", without(model, appearance_encoder=_NoAppearance(model.appearance_encoder)), {}
    yield "motion path off", without(model, motion_encoder=_NoMotion(model.motion_encoder)), {}
    if model.refiner is not None:
        yield "warp not corrected", without(model, refiner=None), {}
    yield "drawn frame alone, not joined with the warp", model, {"finished": False}
    yield "noise at full strength", model, {"temperature": 1.0}
    yield "no noise", model, {"temperature": 0.0}
    for name, other in others.items():
        yield name, other, {}


def _warp_alone(
    model: FrameModel, face_model: FaceModel, appearance, motion, finished: bool
) -> Iterator[torch.Tensor]:  # fmt: skip
    """The corrected and painted warp through the autoencoder, what the frame network starts from; finished like frames,
    or as decoded."""
    sampler = FrameSampler(model, face_model, appearance)
    for rows in torch.arange(len(motion)).split(8):
        given = sampler.geometry(sampler.motion(motion, rows))
        yield sampler.decode(given.latents, given if finished else None)


@torch.inference_mode()
def evaluate_ablation(
    clips: list[Clip], model: FrameModel, face_model: FaceModel, frames: int, others: dict[str, Path] | None = None
) -> list[dict]:
    """One row per variant: means over the clips of the measures of `compare_frames`, and ratios to geometry-only.

    others: frames weights trained as another variant, by the name they have in the table.
    """
    tracked = [tracked_motion(clip, face_model, frames) for clip in clips if not clip.still]
    tracked = [found for found in tracked if found is not None]
    bare = [
        compare_frames(collect(geometry_only_frames(model, face_model, *found[:2])), *found[2:]) for found in tracked
    ]
    loaded = {name: FrameModel.load(path) for name, path in (others or {}).items()}
    rows = [_row("geometry alone", bare, bare)]
    for name, finished in (("no frame network, corrected warp", False), ("the same, finished", True)):
        started = [compare_frames(collect(_warp_alone(model, face_model, *f[:2], finished)), *f[2:]) for f in tracked]
        rows.append(_row(name, started, bare))
    for name, variant, options in tqdm(list(variants(model, loaded)), desc="ablation"):
        made = [
            compare_frames(collect(sample_frames(variant, face_model, *found[:2], **options)), *found[2:])
            for found in tracked
        ]
        rows.append(_row(name, made, bare))
    return rows


def _row(name: str, made: list[dict], bare: list[dict]) -> dict:
    row = {"variant": name, "clips": len(made), **{key: float(np.mean([m[key] for m in made])) for key in made[0]}}
    for key in ("mouth_l1", "eye_l1"):
        if key in made[0]:
            row[f"{key}_ratio"] = float(np.mean([m[key] / b[key] for m, b in zip(made, bare, strict=True)]))
    row["psnr_gain"] = float(np.mean([m["psnr"] - b["psnr"] for m, b in zip(made, bare, strict=True)]))
    return row
