"""What the motion editor in the browser needs: the face model, a motion on its way through Edit Motion, its sound.

All three are files that a browser reads in one piece: safetensors with 16-bit integers, and FLAC. The editor's own
arithmetic is in web/motion_editor/; tests compare both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file
from torch import Tensor

from ..errors import UserError
from ..face.landmarks import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
)
from ..face.model import FaceModel
from .clip import MotionClip
from .edit import scale_pose, scale_regions

PEAKS_PER_SECOND = 100
STEPS = 32767  # largest 16-bit integer
CONTOURS = {
    "lips_outer": LIPS_OUTER,
    "lips_inner": LIPS_INNER,
    "eye_right": EYE_RIGHT,
    "eye_left": EYE_LEFT,
    "brow_right": BROW_RIGHT,
    "brow_left": BROW_LEFT,
    "iris_right": IRIS_RIGHT,
    "iris_left": IRIS_LEFT,
}


@dataclass(frozen=True)
class EditStages:
    """A motion on its way through Edit Motion; all four clips have the same length.

    source: before any gain. shaped: after gains, pose preset and blink rate, before controls and keyframes.
    keyed: after controls and keyframes. result: what the node gives, after added blinks and the pose limit.
    """

    source: MotionClip
    shaped: MotionClip
    keyed: MotionClip
    result: MotionClip


def quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of numbers (N, C) as int16 (N, C) and the float32 step of each column (C,): values ≈ integers x step.

    The error is at most half a step, 1/65534 of the column's largest magnitude.
    """
    values = values.detach().float()
    step = values.abs().amax(0) / STEPS
    integers = torch.round(values / torch.where(step > 0, step, 1.0))
    return integers.to(torch.int16).contiguous(), step.contiguous()


def face_for_editor(face_model: FaceModel) -> bytes:
    """The face model as a safetensors file of about 200 KB.

    Tensors: mean (478, 3), basis int16 (64, 1434) with basis_step (1434,), controls (K, 64), triangles int16 (n, 3),
    and one contour int16 each for lips, eyes, brows and irises. Metadata: the controls' names, the regions' columns as
    "name:start:stop", and the hash.
    """
    names = sorted(face_model.controls)
    basis, step = quantised(face_model.exp_basis.reshape(len(face_model.exp_basis), -1))
    tensors = {
        "mean": face_model.mean.float().contiguous(),
        "basis": basis,
        "basis_step": step,
        "controls": torch.stack([face_model.controls[name].float() for name in names]),
        "triangles": face_model.triangles.to(torch.int16).contiguous(),
        **{f"contour.{name}": torch.tensor(indices, dtype=torch.int16) for name, indices in CONTOURS.items()},
    }
    regions = [f"{name}:{columns.start}:{columns.stop}" for name, columns in face_model.slices.items()]
    return save(tensors, {"controls": ",".join(names), "regions": ",".join(regions), "hash": face_model.hash})


def write_editor_motion(
    path: str | Path,
    stages: EditStages,
    face_model: FaceModel,
    gains: Mapping[str, float],
    rotation: float,
    translation: float,
    peaks: np.ndarray | None = None,
) -> Path:
    """Write what the editor plays: the motion before the gains, and what is added to it that the editor cannot redo.

    gains, rotation, translation: as the clip `stages.shaped` was scaled. peaks: see `sound_peaks`.
    Tensors, each int16 (T, C) with its step (C,): expression, pose; and, where they are not all zero, blinks and preset
    (added before controls and keyframes), late_expression and late_pose (added after them). `*_columns` says which
    columns of the expression those have. valid uint8 (T,), peaks uint8. Metadata: fps.
    """
    gained = scale_pose(scale_regions(stages.source, face_model, gains), rotation, translation)
    tensors = {
        "valid": stages.source.valid.to(torch.uint8),
        **_block("expression", stages.source.expression),
        **_block("pose", stages.source.pose),
        **_changes("blinks", stages.shaped.expression - gained.expression),
        **_changes("preset", stages.shaped.pose - gained.pose),
        **_changes("late_expression", stages.result.expression - stages.keyed.expression),
        **_changes("late_pose", stages.result.pose - stages.keyed.pose),
    }
    if peaks is not None and len(peaks):
        tensors["peaks"] = torch.from_numpy(peaks)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"fps": repr(stages.source.fps), "face_model": stages.source.face_model})
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The data of the motion editor cannot be written to {path} ({error}). Free some space in ComfyUI's "
            "temp folder, or choose another one with --temp-directory."
        ) from error
    return path


def _block(name: str, values: Tensor) -> dict[str, Tensor]:
    integers, step = quantised(values)
    return {name: integers, f"{name}_step": step}


def _changes(name: str, values: Tensor) -> dict[str, Tensor]:
    """Only the columns in which something happens; rounding alone does not count."""
    columns = torch.nonzero((values.abs() > 1e-6).any(0))[:, 0]
    if not len(columns):
        return {}
    return {**_block(name, values[:, columns]), f"{name}_columns": columns.to(torch.int16)}


def sound_peaks(samples: np.ndarray, rate: int) -> np.ndarray:
    """How loud each hundredth of a second is: uint8 (N,), 255 is the loudest. samples: float (C, N) or (N,)."""
    mono = np.abs(np.nan_to_num(np.atleast_2d(np.asarray(samples, np.float32)))).max(0)
    edges = (np.arange(max(1, int(np.ceil(len(mono) / rate * PEAKS_PER_SECOND)))) * rate / PEAKS_PER_SECOND).astype(int)
    loud = np.maximum.reduceat(mono, np.minimum(edges, len(mono) - 1))
    return np.round(loud / max(float(loud.max()), 1e-3) * 255).astype(np.uint8)


def write_sound(path: str | Path, samples: np.ndarray, rate: int) -> Path:
    """Write sound that browsers play from its first sample on, without a codec's delay: mono FLAC with 16 bits.

    samples: float (C, N) in -1..1 at `rate` Hz. The file appears when it is complete.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    mono = np.nan_to_num(np.atleast_2d(np.asarray(samples, np.float32)).mean(0)).clip(-1, 1)
    integers = np.round(mono * 32767).astype(np.int16)[None]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(partial), "w", format="flac") as container:
            stream = container.add_stream("flac", rate=rate, layout="mono")
            for start in range(0, integers.shape[1], rate):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(integers[:, start : start + rate]), format="s16", layout="mono"
                )
                frame.sample_rate, frame.pts = rate, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    except (OSError, av.error.FFmpegError) as error:
        raise UserError(
            f"The sound for the motion editor cannot be written to {path} ({error}). Free some space in ComfyUI's "
            "temp folder, or choose another one with --temp-directory."
        ) from error
    return path
