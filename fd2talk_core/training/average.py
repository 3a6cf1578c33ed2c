"""`fd2talk average`: one network out of several that were trained on from the same weights."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoint import checkpoint_kind, load_checkpoint, save_checkpoint
from ..errors import UserError

KEPT = ("commit", "steps", "training_minutes", "score")  # of each run's provenance


def average(paths: list[Path], out: Path) -> None:
    """Write the mean of several weights files (a "model soup", Wortsman et al. 2022, arXiv 2203.05482).

    What each run has learned by heart differs, and is thinned out; what they have in common stays. All must have been
    trained on from the same weights, or at least be close to each other: this is not checked.

    Raises UserError for fewer than two files, or files of different kinds, shapes or face models.
    """
    if len(paths) < 2:
        raise UserError("There is nothing to average with one file. Give two or more weights files of the same kind.")
    kind = checkpoint_kind(paths[0])
    if not kind:
        raise UserError(f"The file {paths[0].name} is not one of FD2Talk's. Give files made by `fd2talk train`.")
    files = [load_checkpoint(path, kind) for path in paths]
    first = files[0]
    shapes = {name: value.shape for name, value in first.state.items()}
    for path, file in zip(paths[1:], files[1:], strict=True):
        own = {name: value.shape for name, value in file.state.items()}
        if (own, file.config, file.face_model) != (shapes, first.config, first.face_model):
            raise UserError(
                f"The network in {path.name} is another one than that in {paths[0].name}. "
                "Average only files that were trained on from the same weights."
            )
    state = {
        name: torch.stack([file.state[name] for file in files]).mean(0) if value.is_floating_point() else value
        for name, value in first.state.items()
    }
    provenance = {"average_of": [{key: file.provenance.get(key) for key in KEPT} for file in files]}
    save_checkpoint(out, kind, state, first.config, provenance, first.face_model)
