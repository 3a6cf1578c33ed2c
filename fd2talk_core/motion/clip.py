"""The motion clip: the editable, storable value between stage 1 (motion) and stage 2 (frames)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from ..audio.loading import frame_count
from ..errors import UserError

KIND = "fd2talk.motion_clip"
VERSION = "1"
N_EXPRESSION, N_POSE = 64, 6
MIN_FPS, MAX_FPS = 1.0, 240.0


def _float_rows(values, columns: int, name: str) -> Tensor:
    values = torch.as_tensor(values).detach().to("cpu", torch.float32).contiguous()
    if values.ndim != 2 or values.shape[1] != columns:
        raise UserError(
            f"The motion clip's {name} has shape {tuple(values.shape)} instead of (frames, {columns}). "
            "Make the clip again with FD2Talk."
        )
    if not torch.isfinite(values).all():
        raise UserError(
            f"The motion clip's {name} contains values that are not numbers (NaN or infinity). Make the clip again."
        )
    return values


def checked_fps(fps: float) -> float:
    """A frame rate a clip can have, 1..240 per second; UserError otherwise."""
    fps = float(fps)
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"The motion clip has {fps:g} frames per second. Use a rate from {MIN_FPS:g} to {MAX_FPS:g}.")
    return fps


@dataclass
class MotionClip:
    """Expression and head pose over time. Frame n belongs to the instant n / fps.

    expression: float32 (T, 64), absolute expression coefficients β; zero is the neutral face.
    pose: float32 (T, 6), offset from the rest pose of whoever is animated: pitch, yaw, roll in radians, tx, ty in
        inter-ocular distances, log scale; zero keeps the portrait's own pose.
    fps: frames per second, 1..240.
    face_model: content hash of the face model whose coefficients these are.
    valid: bool (T,), False where tracking lost the face; all True when left out.

    Tensors live on the CPU; arrays are converted. Raises UserError for wrong shapes, no frames or non-finite values.
    """

    expression: Tensor
    pose: Tensor
    fps: float
    face_model: str
    valid: Tensor | None = field(default=None)

    def __post_init__(self) -> None:
        self.expression = _float_rows(self.expression, N_EXPRESSION, "expression")
        self.pose = _float_rows(self.pose, N_POSE, "pose")
        self.fps = float(self.fps)
        frames = len(self.expression)
        if self.valid is None:
            self.valid = torch.ones(frames, dtype=torch.bool)
        self.valid = torch.as_tensor(self.valid).detach().to("cpu", torch.bool)
        if frames == 0:
            raise UserError("The motion clip has no frames. Use longer audio or another clip.")
        if len(self.pose) != frames or self.valid.shape != (frames,):
            raise UserError(
                f"The motion clip has {frames} frames of expression, {len(self.pose)} of pose and "
                f"{self.valid.numel()} validity marks. Make the clip again with FD2Talk."
            )
        checked_fps(self.fps)

    def __len__(self) -> int:
        return len(self.expression)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self) / self.fps

    def check(self, face_model_hash: str) -> None:
        """Raise UserError when the clip speaks another face model than `face_model_hash`."""
        if self.face_model != face_model_hash:
            raise UserError(
                f"The motion clip was made for face model {self.face_model[:12] or 'unknown'}, but the loaded models "
                f"use {face_model_hash[:12]}. Make the clip again with these models, or load the models it came from."
            )

    def resampled(self, fps: float, speed: float = 1.0) -> MotionClip:
        """The same motion at another frame rate (monotone cubic interpolation: no overshoot, lips stay closed).

        fps: new rate, 1..240. speed: how many times as fast the motion plays, above 0; the length in seconds, divided
        by it, is kept to within half a new frame. Raises UserError for a rate out of range.
        """
        fps = checked_fps(fps)
        if fps == self.fps and speed == 1.0:
            return self
        frames = frame_count(self.duration / speed, fps)
        times = np.clip(np.arange(frames) * (speed / fps), 0, (len(self) - 1) / self.fps)
        nearest = np.minimum(np.rint(times * self.fps).astype(int), len(self) - 1)
        if len(self) == 1:
            expression, pose = self.expression[nearest], self.pose[nearest]
        else:
            own = np.arange(len(self)) / self.fps
            expression = PchipInterpolator(own, self.expression.double().numpy())(times)
            pose = PchipInterpolator(own, self.pose.double().numpy())(times)
        return MotionClip(expression, pose, fps, self.face_model, self.valid[nearest])

    def with_changes(self, **changes) -> MotionClip:
        """A copy with some fields replaced (dataclasses.replace)."""
        return replace(self, **changes)

    def save(self, path: str | Path) -> Path:
        """Write a .safetensors file (added when missing) atomically; returns its path.

        A name that ends in .json gives the readable form of `interchange.to_json` instead, with the same values.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            from .interchange import to_json  # it builds on this module

            to_json(self, path)
            return path
        if path.suffix != ".safetensors":
            path = path.with_name(path.name + ".safetensors")
        partial = path.with_name(path.name + ".partial")
        metadata = {"kind": KIND, "version": VERSION, "fps": repr(self.fps), "face_model": self.face_model}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"expression": self.expression, "pose": self.pose, "valid": self.valid}, partial, metadata)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"The motion clip cannot be written to {path} ({error}). Choose a writable folder with free space."
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> MotionClip:
        """Read a clip written by `save`, also a .json one. UserError when it is not an undamaged motion clip."""
        path = Path(path)
        if path.suffix.lower() == ".json":
            from .interchange import from_json  # it builds on this module

            return from_json(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("kind") != KIND:
                    raise UserError(
                        f"The file {path.name} is not an FD2Talk motion clip. Choose one written by Save Motion."
                    )
                if metadata.get("version") != VERSION:
                    raise UserError(
                        f"The motion clip {path.name} has format {metadata.get('version')}, unknown to this version. "
                        "Update FD2Talk."
                    )
                missing = {"expression", "pose", "valid"} - set(file.keys())
                if missing:
                    raise UserError(
                        f"The motion clip {path.name} lacks {', '.join(sorted(missing))}. Save it again with FD2Talk."
                    )
                tensors = {name: file.get_tensor(name) for name in ("expression", "pose", "valid")}
            fps = float(metadata["fps"])
        except FileNotFoundError as error:
            raise UserError(f"The motion clip {path} does not exist. Check the path.") from error
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"The file {path.name} cannot be read as a motion clip ({error}). Choose one written by Save Motion."
            ) from error
        return cls(fps=fps, face_model=metadata.get("face_model", ""), **tensors)
