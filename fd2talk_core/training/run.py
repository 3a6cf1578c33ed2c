"""`fd2talk train PART`: which task trains which part."""

from __future__ import annotations

import importlib
import logging
from dataclasses import fields, replace
from pathlib import Path

from ..errors import UserError
from .loop import TrainSettings
from .loop import train as run_loop

log = logging.getLogger(__name__)

PARTS = {
    "tracker": "tracker",
    "autoencoder": "autoencoder",
    "audio-encoder": "audio_encoder",
    "lip-expert": "lip_expert",
    "motion": "motion",
    "warp": "warp",
    "frames": "frames",
    "baseline": "baseline",
}


def train(part: str, data: list[Path], out: Path, export_to: Path | None = None, **options) -> float:
    """Train one part.

    Args:
        part: one of PARTS.
        data: prepared folders (`fd2talk prepare`).
        out: run folder (checkpoint, log, tensorboard).
        export_to: where the best weights go; default inside `out`.
        options: TrainSettings fields, and whatever the part's `make_task` takes (batch_size, ...); None = default.

    Returns the best validation score.
    """
    if part not in PARTS:
        raise UserError(f"There is no part called '{part}'. Choose one of: {', '.join(PARTS)}.")
    module = importlib.import_module(f".{PARTS[part]}", __package__)
    options = {key: value for key, value in options.items() if value is not None}
    names = {field.name for field in fields(TrainSettings)}
    settings = replace(module.SETTINGS, **{key: options.pop(key) for key in list(options) if key in names})
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger("fd2talk_core").addHandler(handler)
    logging.getLogger("fd2talk_core").setLevel(logging.INFO)
    try:
        task = module.make_task([Path(folder) for folder in data], **options)
        return run_loop(task, settings, out, export_to)
    finally:
        logging.getLogger("fd2talk_core").removeHandler(handler)
        handler.close()
