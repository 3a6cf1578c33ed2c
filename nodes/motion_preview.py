"""Preview Motion."""

from __future__ import annotations

import os
import uuid

import folder_paths
import torch
from comfy_api.latest import InputImpl, io, ui

from .common import CATEGORY, AppearanceType, MotionType, audio_samples, explained, progress_bar, tell


class PreviewMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkPreviewMotion",
            display_name="Preview Motion",
            category=CATEGORY,
            description="Shows motion without making frames: a moving wire-frame face above curves of the named "
            "controls and of the head's pose, with the sound. Takes seconds.",
            search_aliases=["plot motion", "show motion", "wireframe", "motion curves", "face mesh"],
            inputs=[
                MotionType.Input("motion", tooltip="The motion to look at, from any FD2Talk motion node."),
                io.Audio.Input("audio", optional=True, tooltip="Optional: the sound, drawn as a waveform and played."),
                AppearanceType.Input(
                    "appearance",
                    optional=True,
                    tooltip="Optional, from Encode Portrait: the wire-frame takes the shape of this portrait's face.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=36000.0,
                    step=0.1,
                    optional=True,
                    tooltip="Where the preview begins, in seconds.",
                    advanced=True,
                ),
                io.Float.Input(
                    "seconds",
                    default=30.0,
                    min=0.0,
                    max=36000.0,
                    step=1.0,
                    optional=True,
                    tooltip="Length of the preview, in seconds; 0 shows all. A minute takes half a minute on a CPU.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Image.Output("plot", tooltip="The curves of the whole motion as a picture of 960 x 720 pixels."),
                io.Video.Output("video", tooltip="What the node shows, for Save Video."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @explained
    def execute(cls, motion, audio=None, appearance=None, start: float = 0.0, seconds: float = 30.0) -> io.NodeOutput:
        from ..fd2talk_core.face.model import FaceModel
        from ..fd2talk_core.motion.preview import plot_motion, write_preview
        from ..fd2talk_core.motion.tools import crop

        face_model = FaceModel.load()
        samples, rate = audio_samples(audio) if audio is not None else (None, 16000)
        plot = plot_motion(motion, face_model, samples=samples, rate=rate)
        shown = crop(motion, start, start + seconds if seconds else None)
        if len(shown) < len(motion):
            end = start + shown.duration
            tell(cls.hidden.unique_id, f"Shown: {start:.1f} to {end:.1f} s of {motion.duration:.1f} s.")
        if samples is not None:
            samples = samples[:, round(start * rate) :]
        folder = folder_paths.get_temp_directory()
        os.makedirs(folder, exist_ok=True)
        name = f"fd2talk_{uuid.uuid4().hex}.mp4"
        path = write_preview(
            shown,
            face_model,
            os.path.join(folder, name),
            samples,
            rate,
            alpha=None if appearance is None else appearance.alpha,
            progress=progress_bar(),
        )
        return io.NodeOutput(
            torch.from_numpy(plot).float()[None] / 255,
            InputImpl.VideoFromFile(str(path)),
            ui=ui.PreviewVideo([ui.SavedResult(name, "", io.FolderType.temp)]),
        )
