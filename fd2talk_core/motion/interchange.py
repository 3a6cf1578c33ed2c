"""Motion clips as readable JSON, for other programs and for the eye."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from ..face.model import FaceModel
from .clip import KIND, N_EXPRESSION, N_POSE, MotionClip

VERSION = 1
POSE_CHANNELS = ("pitch", "yaw", "roll", "x", "y", "log_scale")
UNITS = {"time": "seconds", "pitch, yaw, roll": "radians", "x, y": "inter-ocular distances", "log_scale": "natural log"}


def control_readings(clip: MotionClip, face_model: FaceModel, names: list[str] | None = None) -> torch.Tensor:
    """How far each named control is on: (T, number of names), 1.0 = fully on.

    Each control is read alone, by projecting the expression on it; overlapping ones therefore share what they read.
    names: all controls in alphabetical order when left out.
    """
    clip.check(face_model.hash)
    directions = torch.stack([face_model.controls[name].float().cpu() for name in names or sorted(face_model.controls)])
    return clip.expression @ (directions / (directions**2).sum(1, keepdim=True)).T


def to_json(clip: MotionClip, path: str | Path | None = None, face_model: FaceModel | None = None) -> str | None:
    """Write a clip as JSON, one line per frame: to `path`, atomically, or as the returned text when there is none.

    Numbers are the shortest that give the same float32 again, so nothing is lost. With a `face_model`, each frame also
    says how far the named controls are on, for people to read; `from_json` leaves them aside.
    """
    lines = _lines(clip, face_model)
    if path is None:
        return "".join(lines)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8") as file:
            file.writelines(lines)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"The motion clip cannot be written to {path} ({error}). Choose a writable folder with free space."
        ) from error
    return None


def _lines(clip: MotionClip, face_model: FaceModel | None) -> Iterator[str]:
    head = {
        "kind": KIND,
        "version": VERSION,
        "fps": clip.fps,
        "face_model": clip.face_model,
        "frame_count": len(clip),
        "pose_channels": POSE_CHANNELS,
        "units": UNITS,
    }
    names = sorted(face_model.controls) if face_model else []
    readings = control_readings(clip, face_model, names).numpy() if face_model else None
    yield json.dumps(head, indent=1)[:-2] + ',\n "frames": [\n'
    for index in range(len(clip)):
        frame = {
            "time": round(index / clip.fps, 6),
            "valid": bool(clip.valid[index]),
            "pose": _shortest(clip.pose[index].numpy()),
            "expression": _shortest(clip.expression[index].numpy()),
        }
        if readings is not None:
            frame["controls"] = dict(zip(names, np.round(readings[index].astype(float), 3).tolist(), strict=True))
        yield "  " + json.dumps(frame) + ("," if index + 1 < len(clip) else "") + "\n"
    yield " ]\n}\n"


def _shortest(values: np.ndarray) -> list[float]:
    return [float(str(value)) for value in values]


def strict_json(text: str, what: str):
    """Parse JSON without its dialects: names given twice and NaN are refused with a UserError about `what`."""

    def once(pairs):
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"'{twice}' occurs twice")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(f"{constant} is not a number")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"The {what} cannot be read as JSON ({error}). Check brackets, commas and quotes.") from error


def from_json(source: str | Path) -> MotionClip:
    """Read a clip from a JSON file, or from the text itself (a str that begins with a brace).

    Raises UserError when it is damaged, no motion clip, or has wrong lengths or values.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        text, name = source, "JSON text"
    else:
        path = Path(source)
        name = f"file {path.name}"
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise UserError(f"The motion clip {path} does not exist. Check the path.") from error
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name no system allows
            raise UserError(f"The {name} cannot be read as text ({error}). Choose a motion clip in JSON.") from error
    content = strict_json(text, name)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"The {name} is not an FD2Talk motion clip. Choose one written by Save Motion.")
    if content.get("version") != VERSION:
        raise UserError(f"The {name} has format {content.get('version')}, unknown to this version. Update FD2Talk.")
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"The {name} has no list of frames. Export the clip again.")
    said = content.get("frame_count", len(frames))
    if said != len(frames):
        raise UserError(f"The {name} has {len(frames)} frames instead of the {said} it names. Export the clip again.")
    fps, face_model = content.get("fps"), content.get("face_model", "")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not _moderate([fps]):
        raise UserError(f'The {name} does not say its frame rate. Add "fps": 25, say.')
    if not isinstance(face_model, str):
        raise UserError(f"The {name} does not say its face model as text. Export the clip again.")
    valid = [frame.get("valid", True) for frame in frames]
    if not all(isinstance(mark, bool) for mark in valid):
        raise UserError(f'The {name} has a frame whose "valid" is neither true nor false. Export the clip again.')
    expression = _column(frames, "expression", N_EXPRESSION, name)
    pose = _column(frames, "pose", N_POSE, name)
    return MotionClip(expression, pose, fps, face_model, torch.tensor(valid, dtype=torch.bool))


def _column(frames: list[dict], key: str, width: int, name: str) -> np.ndarray:
    rows = np.empty((len(frames), width), dtype=np.float32)
    for index, frame in enumerate(frames):
        values = frame.get(key)
        usual = isinstance(values, list) and len(values) == width
        if not usual or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise UserError(
                f"Frame {index} of the {name} does not have {width} numbers of {key}. Export the clip again."
            )
        with np.errstate(over="ignore"):  # beyond float32 they become infinite, which the clip refuses
            rows[index] = np.array(values, dtype=np.float64) if _moderate(values) else np.inf
    return rows


def _moderate(values: list[float]) -> bool:
    """Whether all fit a double; JSON knows whole numbers of any size."""
    return all(abs(value) < 1e300 for value in values)
