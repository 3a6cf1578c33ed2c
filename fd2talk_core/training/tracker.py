"""Training of the face tracker: the detector and the landmark regressor, in turns, on MediaPipe's labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from ..checkpoint import save_checkpoint
from ..face.landmarks import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
    inter_ocular_distance,
)
from ..face.regressor import ANCHORS
from ..face.tracker import FaceTracker
from .loop import TrainSettings
from .tracker_data import Sample, face_view, load_cache, mirror_permutation
from .tracker_samples import Source, detector_sample, detector_targets, regressor_sample
from .tracker_validation import agreement

log = logging.getLogger(__name__)

SETTINGS = TrainSettings(
    minutes=15,
    lr=2e-3,
    final_lr=0.01,
    warmup=150,
    weight_decay=0.02,
    ema=0.998,
    clip_norm=3.0,
    validate_minutes=5.0,
    log_steps=51,  # odd, so that both networks have their turn in the log
)
REGRESSOR_SHARES = {"clip": 0.45, "official": 0.26, "unusual": 0.13, "photo": 0.06, "grid": 0.1}
DETECTOR_SHARES = {"clip": 0.3, "official": 0.25, "unusual": 0.33, "photo": 0.08, "grid": 0.04}
# Vertical gaps of lips and eyes: small distances that decide how speech and blinks look.
GAPS = ((13, 14), (82, 87), (312, 317), (159, 145), (158, 153), (386, 374), (385, 380))


class TrackerTask:
    """Both networks in one model; batches for them alternate."""

    name = "tracker"

    def __init__(self, samples: list[Sample], mirror: np.ndarray, batch_size: int, scenes: int, seed: int):
        self.model = FaceTracker()
        self.training = [sample for sample in samples if not sample.held_back]
        self.mirror = mirror
        self.batch_size, self.scenes, self.seed = batch_size, scenes, seed
        self.weights = torch.ones(478)
        for group, weight in (
            (BROW_RIGHT + BROW_LEFT, 1.5), (LIPS_OUTER + LIPS_INNER, 2.5), (EYE_RIGHT + EYE_LEFT, 2.5),
            (IRIS_RIGHT + IRIS_LEFT, 2.5),
        ):  # fmt: skip
            self.weights[list(group)] = weight
        self.weights /= self.weights.mean()
        rng = np.random.default_rng(seed)
        source = Source(self.training, REGRESSOR_SHARES)
        labels = []
        for _ in range(4000):
            sample = source.draw(rng)
            labels.append(face_view(rng, sample, rng.random() < 0.5).move(sample.landmarks, 192, mirror))
        self.model.regressor.initialise_mesh(torch.from_numpy(np.stack(labels)))
        self.model.to(memory_format=torch.channels_last)
        # One frame in a few of each held-back clip says as much as all of them.
        held_back = [sample for sample in samples if sample.held_back]
        self.held_back = [s for kind in {s.kind for s in held_back} for s in _thin(held_back, kind, 60)]

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng(self.seed + 1)
        crop_size, scene_size = self.model.regressor.config.size, self.model.detector.config.size
        crops, scenes = Source(self.training, REGRESSOR_SHARES), Source(self.training, DETECTOR_SHARES)
        while True:
            made = [regressor_sample(rng, crops, self.mirror, crop_size) for _ in range(self.batch_size)]
            yield {
                "crops": torch.from_numpy(np.stack([m[0] for m in made])),
                "landmarks": torch.from_numpy(np.stack([m[1] for m in made])),
                "present": torch.tensor([m[2] for m in made]),
            }
            made = [detector_sample(rng, scenes, self.mirror, scene_size) for _ in range(self.scenes)]
            targets = [detector_targets(boxes, scene_size) for _, boxes in made]
            heat, values, weight = (torch.from_numpy(np.stack(part)) for part in zip(*targets, strict=True))
            pictures = torch.from_numpy(np.stack([scene for scene, _ in made]))
            yield {"pictures": pictures, "heat": heat, "values": values, "weight": weight}

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        pictures = (batch["crops"] if "crops" in batch else batch["pictures"]).permute(0, 3, 1, 2).float() / 255
        if "crops" not in batch:
            return self._detector_loss(model.detector(pictures), batch)
        landmarks, logits, anchors = model.regressor(pictures)
        return self._regressor_loss(landmarks, logits, anchors, batch)

    def _regressor_loss(self, landmarks, logits, anchors, batch):
        present, labels = batch["present"], batch["landmarks"]
        faces = present.clamp(min=0)[:, None, None] / present.sum().clamp(min=1)
        scale = inter_ocular_distance(labels).clamp(min=1e-3)[:, None, None]
        error = (landmarks - labels) / scale
        axes = error.new_tensor([1.0, 1.0, 0.3])
        mesh = (_rounded(error) * axes * self.weights.to(error)[:, None] * faces).sum() / 478
        anchor = (_rounded((anchors - labels[:, list(ANCHORS), :2]) / scale) * faces).sum() / len(ANCHORS)
        upper, lower = (list(index) for index in zip(*GAPS, strict=True))
        gap = (error[:, upper, :2] - error[:, lower, :2]).abs()
        gaps = (gap * faces).sum() / len(GAPS)
        sure = nn.functional.binary_cross_entropy_with_logits(logits, present)
        with torch.no_grad():
            nme = (error[..., :2].norm(dim=-1, keepdim=True) * faces).sum() / 478
        loss = mesh + 0.5 * anchor + 0.5 * gaps + 0.1 * sure
        return loss, {name: float(value.detach()) for name, value in (("nme", nme), ("gaps", gaps), ("bce", sure))}

    def _detector_loss(self, output, batch):
        heat, logits = batch["heat"], output[:, 0]
        probability = logits.sigmoid()
        positive = heat >= 1.0
        number = positive.sum().clamp(min=1)
        hit = (1 - probability) ** 2 * nn.functional.softplus(-logits) * positive
        miss = (1 - heat) ** 4 * probability**2 * nn.functional.softplus(logits) * ~positive
        focal = (hit.sum() + miss.sum()) / number
        error = _rounded(output[:, 1:] - batch["values"]) * batch["weight"][:, None]
        boxes = error.sum() / number
        return 0.5 * focal + 2 * boxes, {"focal": float(focal.detach()), "boxes": float(boxes.detach())}

    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        numbers = agreement(model, [(s.picture, s.landmarks, s.kind) for s in self.held_back])
        return numbers["nme"] + 0.5 * (1 - numbers["recall"]), numbers

    def export(self, model: nn.Module, path: Path, provenance: dict) -> None:
        facts = {
            "labels": "MediaPipe Face Landmarker (Apache-2.0)",
            "pictures": len(self.training),
            "clips": len({sample.clip for sample in self.training}),
        }
        save_checkpoint(path, "tracker", model.state_dict(), model.config, provenance | facts)


def _rounded(error: torch.Tensor, beta: float = 0.01) -> torch.Tensor:
    """Absolute error with a rounded tip."""
    return nn.functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)


def _thin(samples: list[Sample], kind: str, most: int) -> list[Sample]:
    chosen = [sample for sample in samples if sample.kind == kind]
    return chosen[:: max(1, -(-len(chosen) // most))]


def make_task(
    data: list[Path], cache: Path | None = None, batch_size: int = 64, scenes: int = 24, seed: int = 0
) -> TrackerTask:
    """Tracker task on prepared folders; small frames of them are kept in `cache` (default: beside the first)."""
    samples = load_cache(data, cache or data[0].parent / "cache" / "tracker")
    frontal = np.stack([s.landmarks for s in samples if s.kind in ("clip", "official") and not s.held_back])
    return TrackerTask(samples, mirror_permutation(frontal), batch_size, scenes, seed)
