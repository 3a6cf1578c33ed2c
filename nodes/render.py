"""Render Talking Video."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import InputImpl, io, ui

from .common import CATEGORY, AppearanceType, FrameModelType, MotionType, explained, seed_input
from .frames import TORSO, batch_size_input, guidance_inputs, steps_input, torso_input, vae_input
from .rendering import HIDDEN, Target, render_to_file

# Kept as literals, because importing the pack must load nothing heavy; a test compares them with fd2talk_core.
FORMATS = (
    "mp4",
    "mp4 (H.265)",
    "webm (VP9)",
    "mov (ProRes)",
    "mp4 and gif",
    "mp4 and animated webp",
    "mp4 and png frames",
    "webm (VP9, transparent)",
    "mov (ProRes 4444, transparent)",
)
QUALITIES = ("high", "medium", "small file")
OUTPUT, TEMP = "output folder", "temporary file"
WHOLE, CROP = "whole picture", "face crop"
LIVE, FINISHED = "frames while rendering", "finished video"


def quality_input(optional: bool = False) -> io.Combo.Input:
    return io.Combo.Input(
        "quality",
        options=list(QUALITIES),
        default=QUALITIES[0],
        optional=optional,
        tooltip="high is hard to tell from the frames themselves; small file saves space at the price of detail.",
        advanced=True,
    )


class RenderVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkRenderVideo",
            display_name="Render Talking Video",
            category=CATEGORY,
            description="Makes the talking video and writes it straight to a file, so that hours need no more memory "
            "than seconds. A cancelled render leaves a file that plays, and the next run goes on where it stopped.",
            search_aliases=["long video", "render video", "talking head", "save video", "resume", "lip sync", "mp4"],
            inputs=[
                FrameModelType.Input("frame_model", tooltip="From Load FD2Talk Models."),
                AppearanceType.Input("appearance", tooltip="The portrait, from Encode Portrait."),
                MotionType.Input(
                    "motion",
                    tooltip="From Generate Motion from Audio or Edit Motion. The video has its frames per second.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The sound of the video, all of it. Left out, the video is silent.",
                ),
                seed_input("Seed of the diffusion noise. All frames share the noise, so that they do not flicker."),
                steps_input(),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default=FORMATS[0],
                    tooltip="mp4 (H.264) plays everywhere. H.265 and VP9 are smaller and slower to write, ProRes is "
                    "large and for editing. GIF, WebP (up to a minute) and PNG have no sound, so an mp4 is made too. "
                    "Transparent ones, and PNG, keep the transparency of Encode Portrait.",
                ),
                quality_input(),
                io.String.Input(
                    "filename_prefix",
                    default="video/FD2Talk",
                    tooltip="Folder and beginning of the file's name, in ComfyUI's output folder; a number follows. "
                    "Not used for a temporary file.",
                ),
                io.Combo.Input(
                    "save_to",
                    options=[OUTPUT, TEMP],
                    default=OUTPUT,
                    tooltip="output folder: the file is saved there, and an interrupted render goes on even after "
                    "ComfyUI was restarted. temporary file: for Save Video or other nodes; gone when ComfyUI ends. An "
                    "interrupted render goes on, too.",
                ),
                io.Combo.Input(
                    "picture",
                    options=[WHOLE, CROP],
                    default=WHOLE,
                    tooltip="whole picture: the face is put back into the portrait, at the portrait's size. face crop: "
                    "the crop alone, as Sample Talking Frames gives it.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "preview",
                    options=[LIVE, FINISHED],
                    default=LIVE,
                    tooltip="What the node shows: frames while it renders, or the video at the end. "
                    "The page cannot show both on one node.",
                    advanced=True,
                ),
                *guidance_inputs(),
                batch_size_input(),
                vae_input(),
                torso_input(
                    "Below the chin: follow takes a part of the head's motion, as necks and shoulders do; stay "
                    "keeps the torso still."
                ),
            ],
            outputs=[io.Video.Output("video", tooltip="The video, as a file. For Save Video and other video nodes.")],
            hidden=HIDDEN,
            is_output_node=True,
        )

    @classmethod
    @explained
    def execute(
        cls,
        frame_model,
        appearance,
        motion,
        seed: int,
        steps: int,
        format: str,
        quality: str,
        filename_prefix: str,
        save_to: str,
        picture: str,
        preview: str,
        motion_guidance: float,
        appearance_guidance: float,
        batch_size: int,
        audio=None,
        vae=None,
        torso: str = TORSO[0],
    ) -> io.NodeOutput:
        from ..fd2talk_core.render import RenderSettings

        path = render_to_file(
            frame_model,
            appearance,
            motion,
            audio,
            RenderSettings(steps, motion_guidance, appearance_guidance, seed, torso, paste=picture == WHOLE),
            Target(format, quality, filename_prefix if save_to == OUTPUT else None),
            cls.hidden,
            batch_size=batch_size,
            vae=vae,
            live=preview == LIVE,
        )
        return io.NodeOutput(
            InputImpl.VideoFromFile(str(path)), ui=shown(path, save_to == OUTPUT) if preview == FINISHED else None
        )


def shown(path, saved: bool) -> ui.PreviewVideo:
    """The finished video on the node, which must not have shown live frames: the page mixes them up."""
    root = folder_paths.get_output_directory() if saved else folder_paths.get_temp_directory()
    subfolder, name = os.path.split(os.path.relpath(path, root))
    return ui.PreviewVideo([ui.SavedResult(name, subfolder, io.FolderType.output if saved else io.FolderType.temp)])
