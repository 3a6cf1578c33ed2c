"""Face-model coefficients of prepared clips, stored beside their landmarks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ..face.model import N_EXPRESSION, N_POSE, FaceModel


def add_coefficients(path: Path, face: FaceModel) -> bool:
    """Fit `face` to the landmarks of one prepared clip and store alpha (80,), beta (T, 64), pose (T, 6) in its file.

    Frames without a face get zeros. Returns False when the file already had the coefficients of this face model.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    if metadata.get("face_model") == face.hash:
        return False
    tensors = load_file(path)
    valid = tensors["valid"]
    beta = np.zeros((len(valid), N_EXPRESSION), np.float32)
    pose = np.zeros((len(valid), N_POSE), np.float32)
    fit = face.fit(torch.from_numpy(tensors["landmarks"][valid]), 1.0)
    beta[valid], pose[valid] = fit.beta.numpy(), fit.pose.numpy()
    tensors |= {"alpha": fit.alpha.numpy(), "beta": beta, "pose": pose}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata | {"face_model": face.hash})
    os.replace(partial, path)
    return True
