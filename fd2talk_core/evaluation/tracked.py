"""What the labels of a talking clip say about its face, in the terms of the face model; shared by the parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..face.landmarks import LIPS_INNER, LIPS_OUTER, eye_opening, inter_ocular_distance, mouth_opening
from ..face.model import FaceModel
from ..training.data import Clip

LIPS = tuple(sorted(set(LIPS_INNER + LIPS_OUTER)))
MIN_VALID = 0.9


def filled(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Values (T, ...) with the invalid ones interpolated over time."""
    if valid.all():
        return values
    instants, flat = np.arange(len(values)), values.reshape(len(values), -1)
    columns = [np.interp(instants, instants[valid], column[valid]) for column in flat.T]
    return np.stack(columns, 1).reshape(values.shape).astype(values.dtype)


@dataclass
class TrackedClip:
    """One talking clip with its labelled face.

    samples: float32 (N,), 16 kHz. alpha: (80,). expression: (T, 64). pose: (T, 6), absolute. opening, eyes: (T,), of
    the labels themselves, not of the fitted face. Frames without a label are interpolated.
    """

    name: str
    identity: str
    samples: np.ndarray
    alpha: Tensor
    expression: Tensor
    pose: Tensor
    opening: np.ndarray
    eyes: np.ndarray

    def __len__(self) -> int:
        return len(self.expression)


def track_clip(clip: Clip, face_model: FaceModel) -> TrackedClip | None:
    """Fit the face model to a clip's labels; None without sound, or where a tenth of the frames has no label."""
    samples, labels = clip.samples(), clip.labels()
    if samples is None or len(labels.valid) < 2 or labels.valid.mean() < MIN_VALID:
        return None
    valid = labels.valid
    fit = face_model.fit(torch.from_numpy(labels.landmarks[valid]), clip.size)

    def spread_out(values: Tensor) -> Tensor:
        whole = np.zeros((len(valid), values.shape[1]), np.float32)
        whole[valid] = values.numpy()
        return torch.from_numpy(filled(whole, valid))

    # A frame without a face has all its points at 0, where no ratio is defined.
    points = np.where(valid[:, None, None], labels.landmarks, labels.landmarks[valid][:1])
    return TrackedClip(
        clip.name, clip.identity, samples, fit.alpha, spread_out(fit.beta), spread_out(fit.pose),
        filled(mouth_opening(points), valid), filled(eye_opening(points), valid),
    )  # fmt: skip


def face_points(face_model: FaceModel, alpha: Tensor, expression: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lips, mouth opening and eye opening of a face without head pose.

    alpha (80,), expression (T, 64) -> lips (T, 40, 3) in inter-ocular distances of the face at rest, opening (T,),
    eyes (T,).
    """
    vertices = face_model.vertices(alpha, expression)
    rest = inter_ocular_distance(face_model.vertices(alpha, torch.zeros(expression.shape[-1])))
    lips = vertices[:, list(LIPS)] / rest
    return lips.numpy(), mouth_opening(vertices).numpy(), eye_opening(vertices).numpy()
