"""Weights files: safetensors with their configuration and provenance in the metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import UserError

FORMAT = "1"
# What users may call the parts by; others have a name that is plain enough.
PARTS = {"motion": "motion model", "frames": "frame model", "tracker": "face tracker"}


@dataclass
class Checkpoint:
    """Content of one weights file; `config` and `provenance` are plain JSON values."""

    state: dict[str, torch.Tensor]
    config: dict
    provenance: dict
    face_model: str


def default_weights(name: str) -> Path:
    """Path of the weights that ship with the pack, by kind."""
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def save_checkpoint(
    path: str | Path,
    kind: str,
    state: dict[str, torch.Tensor],
    config: dict,
    provenance: dict,
    face_model: str = "",
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write `state` with floating-point tensors cast to `dtype`."""
    tensors = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in state.items()
    }
    metadata = {
        "format": FORMAT,
        "kind": f"fd2talk.{kind}",
        "config": json.dumps(config),
        "provenance": json.dumps(provenance),
        "face_model": face_model,
    }
    save_file(tensors, str(path), metadata)


def checkpoint_kind(path: str | Path) -> str:
    """Kind of a weights file without reading its tensors, "" when it is not one of ours."""
    try:
        with safe_open(str(path), framework="pt") as file:
            kind = (file.metadata() or {}).get("kind", "")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The weights file {Path(path).name} is missing or damaged ({error}). "
            "Copy it again, or choose the default checkpoint."
        ) from error
    return kind.removeprefix("fd2talk.") if kind.startswith("fd2talk.") else ""


def part(kind: str) -> str:
    """A kind of weights in words."""
    return PARTS.get(kind, kind.replace("_", " ").replace("-", " "))


def described(kind: str) -> str:
    """What a file of a kind is, "" for a stranger's, to go on "The file x ..."."""
    return f"holds FD2Talk's {part(kind)}" if kind else "is not one of FD2Talk's"


def load_checkpoint(path: str | Path, kind: str) -> Checkpoint:
    """Read a weights file of the wanted kind, tensors as float32.

    Raises UserError when the file is missing, damaged, or of another kind.
    """
    found = checkpoint_kind(path)
    if found != kind:
        raise UserError(f"The file {Path(path).name} {described(found)}, not the {part(kind)}. Choose another file.")
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    return Checkpoint(
        state, json.loads(metadata["config"]), json.loads(metadata["provenance"]), metadata.get("face_model", "")
    )


def load_state(module: torch.nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Fill `module` from `state`, telling which file does not fit instead of torch's key list."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"The weights in {Path(path).name} do not fit the network they describe. "
            "Use a file made by this version of FD2Talk, or the default checkpoint."
        ) from error
