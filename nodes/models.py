"""Load FD2Talk Models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import comfy.model_management as mm
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.latest import io

from ..fd2talk_core.errors import UserError
from .common import CATEGORY, FrameModelType, LoadedFrameModel, MotionModelType, explained

if TYPE_CHECKING:
    from ..fd2talk_core.face.model import FaceModel

FOLDER = "fd2talk"
SHIPPED = "default (shipped)"
DTYPES = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def checkpoint_options() -> list[str]:
    """The shipped weights first, then the user's files; a new model folder would list every file type."""
    return [SHIPPED, *(name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors"))]


def managed(network: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
    """Put a network under ComfyUI's memory management."""
    # main.py rebinds CoreModelPatcher when dynamic VRAM is on, so it is read at call time.
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(
        network.eval().requires_grad_(False),
        load_device=mm.get_torch_device(),
        offload_device=mm.unet_offload_device(),
    )


def same_face_model(face_model: FaceModel, network_hash: str, part: str) -> None:
    if network_hash != face_model.hash:
        raise UserError(
            f"The {part} weights were trained for face model {network_hash[:12] or 'unknown'}, but this version of "
            f"FD2Talk ships {face_model.hash[:12]}. Choose other weights, or the version of FD2Talk they belong to."
        )


def load_models(checkpoint: str = SHIPPED, dtype: str = "auto"):
    """Stage 1's patcher and stage 2 as LoadedFrameModel; a checkpoint that is not SHIPPED replaces one of the two."""
    from ..fd2talk_core.checkpoint import checkpoint_kind, described
    from ..fd2talk_core.face.model import FaceModel
    from ..fd2talk_core.face.tracker import FaceTracker
    from ..fd2talk_core.frames.model import FrameModel
    from ..fd2talk_core.motion.model import MotionModel

    paths = {}
    if checkpoint != SHIPPED:
        path = folder_paths.get_full_path_or_raise(FOLDER, checkpoint)
        kind = checkpoint_kind(path)
        if kind not in ("motion", "frames"):
            raise UserError(
                f"The file {checkpoint} in models/{FOLDER} {described(kind)}, and cannot be loaded here. "
                "Choose a motion model or a frame model, or the default."
            )
        paths[kind] = path
    # Networks draw random weights before they get their own; other nodes' random numbers must not depend on that.
    with torch.random.fork_rng(devices=[]):
        motion, frames = MotionModel.load(paths.get("motion")), FrameModel.load(paths.get("frames"))
        tracker, face_model = FaceTracker.load(), FaceModel.load()
    same_face_model(face_model, motion.face_model_hash, "motion")
    same_face_model(face_model, frames.face_model_hash, "frame")

    return managed(motion), LoadedFrameModel(managed(frames), DTYPES[dtype], tracker, face_model)


class LoadModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkLoadModels",
            display_name="Load FD2Talk Models",
            category=CATEGORY,
            description="Loads the networks that turn a voice into facial motion and facial motion into frames. "
            "The shipped weights work without any download.",
            search_aliases=["fd2talk", "talking head model", "lip sync model", "load checkpoint"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_options(),
                    default=SHIPPED,
                    tooltip="The weights that ship with FD2Talk, or a .safetensors file of yours in models/fd2talk. "
                    "A motion or frames file replaces that part; the other part stays the shipped one.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Number format in which frames are computed; auto takes what is fast on your device. "
                    "Motion is always made in fp32.",
                    advanced=True,
                ),
            ],
            outputs=[
                MotionModelType.Output(
                    "motion_model", tooltip="Stage 1, from voice to motion. For Generate Motion from Audio."
                ),
                FrameModelType.Output(
                    "frame_model",
                    tooltip="Stage 2, from motion to frames, with the face tracker. "
                    "For Encode Portrait and Sample Talking Frames.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, dtype: str):
        path = None if checkpoint == SHIPPED else folder_paths.get_full_path(FOLDER, checkpoint)
        return (checkpoint, dtype, os.path.getmtime(path) if path else 0)

    @classmethod
    @explained
    def execute(cls, checkpoint: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(*load_models(checkpoint, dtype))
