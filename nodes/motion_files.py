"""Save Motion, Load Motion."""

from __future__ import annotations

import hashlib
import os

import folder_paths
from comfy_api.latest import io, ui

from .common import CATEGORY, MotionType, explained

SUFFIXES = (".safetensors", ".json")
FORMATS = {"safetensors": (".safetensors",), "json": (".json",), "both": SUFFIXES}
NOTHING = "no motion files yet"


def motion_files() -> list[str]:
    """Clips in the input folder, then in the output folder (marked as ComfyUI does); at most one folder deep.

    An output folder may hold many thousand pictures in deep folders; this list is made whenever the page loads.
    """
    found = []
    for root, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        if not os.path.isdir(root):
            continue
        folders = ["", *sorted(entry.name for entry in os.scandir(root) if entry.is_dir())]
        for folder in folders:
            names = sorted(name for name in os.listdir(os.path.join(root, folder)) if name.lower().endswith(SUFFIXES))
            found += [(f"{folder}/{name}" if folder else name) + mark for name in names]
    return found


class SaveMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkSaveMotion",
            display_name="Save Motion",
            category=CATEGORY,
            description="Writes motion to a file in the output folder, for Load Motion, the command line or other "
            "programs.",
            search_aliases=["export motion", "store motion", "motion to json", "save expression", "write motion"],
            inputs=[
                MotionType.Input("motion", tooltip="The motion to keep, from any FD2Talk motion node."),
                io.String.Input(
                    "filename_prefix",
                    default="motion/fd2talk",
                    tooltip="Name of the file in the output folder; a number is added. It may name a folder, and dates "
                    "as in %year%-%month%-%day%.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="safetensors",
                    tooltip="safetensors: small and exact. json: readable text, five times as large, just as exact; "
                    "other programs can read it. both: one file of each.",
                ),
            ],
            outputs=[MotionType.Output("motion", tooltip="The motion, unchanged.")],
            is_output_node=True,
        )

    @classmethod
    @explained
    def execute(cls, motion, filename_prefix: str, format: str) -> io.NodeOutput:
        from ..fd2talk_core.face.model import FaceModel
        from ..fd2talk_core.motion.interchange import to_json

        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        results = []
        for suffix in FORMATS[format]:
            file = f"{name}_{counter:05}_{suffix}"
            path = os.path.join(folder, file)
            if suffix == ".json":
                face_model = FaceModel.load()
                # Named controls are for the reader; a clip of another face model is saved without them.
                to_json(motion, path, face_model if motion.face_model == face_model.hash else None)
            else:
                motion.save(path)
            results.append(ui.SavedResult(file, subfolder, io.FolderType.output))
        return io.NodeOutput(motion, ui={"files": results})


class LoadMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkLoadMotion",
            display_name="Load Motion",
            category=CATEGORY,
            description="Reads motion that Save Motion or fd2talk on the command line wrote: .safetensors or .json.",
            search_aliases=["import motion", "open motion", "motion file", "motion from json"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=motion_files() or [NOTHING],
                    tooltip="A motion file in the input folder, or one that Save Motion wrote, marked [output]. "
                    "The button below uploads one; press R to see new files.",
                ),
            ],
            outputs=[MotionType.Output("motion", tooltip="The motion as it was saved, with its own frame rate.")],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        if file == NOTHING:
            return "There is no motion file. Save one with Save Motion, or put one into ComfyUI's input folder."
        if not file.removesuffix(" [output]").removesuffix(" [input]").lower().endswith(SUFFIXES):
            return f"{file} is not a motion file. Choose a .safetensors or .json file."
        if not folder_paths.exists_annotated_filepath(file):
            return f"The motion file {file} does not exist. Press R to refresh the list, and choose another."
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        with open(folder_paths.get_annotated_filepath(file), "rb") as content:
            return hashlib.sha256(content.read()).hexdigest()

    @classmethod
    @explained
    def execute(cls, file: str) -> io.NodeOutput:
        from ..fd2talk_core.motion.clip import MotionClip

        return io.NodeOutput(MotionClip.load(folder_paths.get_annotated_filepath(file)))
