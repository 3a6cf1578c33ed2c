"""Stage 2: Sample Talking Frames, Paste Face Back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..fd2talk_core.device import usual_batch
from ..fd2talk_core.errors import UserError
from .common import (
    CATEGORY,
    AppearanceType,
    FrameModelType,
    MotionType,
    cancellable,
    explained,
    loaded,
    own_id,
    progress_bar,
    rgb,
    seed_input,
    tell,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..fd2talk_core.frames.vae import VaeCoder

# Activations take 240 bytes per pixel of one frame (measured, fp32, 256 and 512); twice that leaves room for cuDNN.
BYTES_PER_PIXEL = 500
BATCH = 8  # frames pasted at once
SHORT_MEMORY = "The graphics memory is short, so fewer frames than batch_size are made at once."
TORSO = ("follow", "stay")


@dataclass
class SharingCoder:
    """A VAE beside our network: each of its calls may push the network off a small graphics card; this fetches it."""

    coder: VaeCoder
    patcher: ModelPatcher

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        latents = self.coder.encode(pictures)
        loaded(self.patcher)
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pictures = self.coder.decode(latents)
        loaded(self.patcher)
        return pictures


def steps_input(advanced: bool | None = None) -> io.Int.Input:
    return io.Int.Input(
        "steps",
        default=2,
        min=1,
        max=50,
        tooltip="Diffusion steps per frame, to which time is proportional: 1 is fast, 2 usual, 4 careful; "
        "20 and more are a reference.",
        advanced=advanced,
    )


def guidance_inputs() -> list[io.Float.Input]:
    def guidance(id: str, what: str) -> io.Float.Input:
        return io.Float.Input(
            id, default=1.0, min=1.0, max=5.0, step=0.05, tooltip=f"{what} 1 is off and faster.", advanced=True
        )

    return [
        guidance("motion_guidance", "Guidance scale of the motion: above 1 the face follows it more strongly."),
        guidance("appearance_guidance", "Guidance scale of the portrait's look: above 1 it is kept more strongly."),
    ]


def batch_size_input(optional: bool = False) -> io.Int.Input:
    return io.Int.Input(
        "batch_size",
        default=0,
        min=0,
        max=64,
        optional=optional,
        tooltip="The most frames made at once; 0 = what suits the device (32 on a GPU, 8 on a CPU). "
        "Fewer are made when memory is short.",
        advanced=True,
    )


def torso_input(tooltip: str) -> io.Combo.Input:
    return io.Combo.Input("torso", options=list(TORSO), default=TORSO[0], optional=True, tooltip=tooltip, advanced=True)


def vae_input() -> io.Vae.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Optional, to experiment: FLUX.1's VAE (ae.safetensors, from Load VAE) in the place of the "
        "small one that comes with FD2Talk. Much slower, and not always better. Other VAEs are refused.",
    )


def batch_that_fits(patcher: ModelPatcher, batch_size: int, frames: int, size: int) -> int:
    """At most `batch_size` frames of `size` pixels, 0 = what suits the device, that are made at once in the memory that
    is free there.

    Loads the network: until then the memory may be full of models of other nodes, which ComfyUI unloads for it.
    """
    wanted = min(batch_size or usual_batch(patcher.load_device), frames)
    needed = size * size * BYTES_PER_PIXEL
    loaded(patcher, wanted * needed)
    return max(1, min(wanted, int(mm.get_free_memory(patcher.load_device) // needed)))


def frame_store(count: int, height: int, width: int) -> torch.Tensor:
    """Uninitialised IMAGE for the whole clip. Raises UserError when the machine cannot hold it."""
    device, dtype = mm.intermediate_device(), mm.intermediate_dtype()
    needed, free = count * height * width * 3 * dtype.itemsize, mm.get_free_memory(device)
    if needed > free:
        raise UserError(
            f"{count} frames of {width} x {height} pixels need {needed / 2**30:.1f} GB of memory, but only "
            f"{free / 2**30:.1f} GB are free. Use shorter audio or a smaller portrait."
        )
    return torch.empty((count, height, width, 3), device=device, dtype=dtype)


class SampleFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkSampleFrames",
            display_name="Sample Talking Frames",
            category=CATEGORY,
            description="Makes one face crop per frame of motion with the portrait's own look, by diffusion in few "
            "steps. All frames are held in memory, so use it for clips up to about a minute.",
            search_aliases=["talking head", "render frames", "animate portrait", "lip sync", "talking face"],
            inputs=[
                FrameModelType.Input("frame_model", tooltip="From Load FD2Talk Models."),
                AppearanceType.Input("appearance", tooltip="The portrait, from Encode Portrait."),
                MotionType.Input("motion", tooltip="From Generate Motion from Audio or Edit Motion."),
                seed_input("Seed of the diffusion noise. All frames share the noise, so that they do not flicker."),
                steps_input(),
                *guidance_inputs(),
                batch_size_input(),
                vae_input(),
                torso_input(
                    "Below the chin: follow takes a part of the head's motion, as necks and shoulders do; stay "
                    "keeps the torso still. Choose the same in Paste Face Back."
                ),
            ],
            outputs=[
                io.Image.Output("frames", tooltip="Face crops, one per frame of the motion. For Paste Face Back."),
                io.Float.Output("fps", tooltip="The motion's frames per second. For Combine Frames and Audio."),
            ],
            hidden=[io.Hidden.unique_id],
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
        motion_guidance: float,
        appearance_guidance: float,
        batch_size: int,
        vae=None,
        torso: str = TORSO[0],
    ) -> io.NodeOutput:
        from ..fd2talk_core.frames.limits import soft_limit, torso_share
        from ..fd2talk_core.frames.sampling import sample_frames
        from ..fd2talk_core.frames.vae import checked_coder

        motion.check(frame_model.face_model.hash)
        motion, note = soft_limit(motion, frame_model.face_model, appearance)
        notes = [note] if note else []
        if notes:
            tell(own_id(cls), note)
        total, size = len(motion), appearance.size
        batch = batch_that_fits(frame_model.patcher, batch_size, total, size)
        coder = None
        if vae is not None:
            checked = checked_coder(vae, loaded(frame_model.patcher).autoencoder, appearance.crop)
            coder = SharingCoder(checked, frame_model.patcher)
        network = loaded(frame_model.patcher, batch * size * size * BYTES_PER_PIXEL)
        result = frame_store(total, size, size)
        progress, done = progress_bar(), 0
        with cancellable(network):
            while done < total:
                full = False
                try:
                    for frames in sample_frames(
                        network,
                        frame_model.face_model,
                        appearance,
                        motion,
                        steps=steps,
                        motion_guidance=motion_guidance,
                        appearance_guidance=appearance_guidance,
                        seed=seed,
                        batch_size=batch,
                        start=done,
                        dtype=frame_model.dtype,
                        coder=coder,
                        torso=torso_share(torso),
                    ):
                        result[done : done + len(frames)] = frames.to(result.device, result.dtype)
                        done += len(frames)
                        progress(done, total, frames[-1])
                except mm.OOM_EXCEPTION:
                    if batch == 1:
                        raise
                    full = True
                # Not in the except clause: while it lasts, the exception holds all that the batch had allocated.
                if full:
                    batch //= 2
                    mm.soft_empty_cache()
                    if SHORT_MEMORY not in notes:
                        notes.append(SHORT_MEMORY)
                        tell(own_id(cls), "\n".join(notes))
        return io.NodeOutput(result, motion.fps)


class PasteBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkPasteBack",
            display_name="Paste Face Back",
            category=CATEGORY,
            description="Puts face crops back into the portrait at its own resolution, with a soft, colour-matched "
            "edge.",
            search_aliases=["composite", "uncrop", "paste face", "stitch", "full picture"],
            inputs=[
                io.Image.Input("frames", tooltip="Face crops from Sample Talking Frames, in their original size."),
                AppearanceType.Input("appearance", tooltip="The same portrait that the frames were made from."),
                MotionType.Input(
                    "motion",
                    optional=True,
                    tooltip="Optional: the motion that the frames were made with. Then the fine detail of a large "
                    "portrait moves with the face, and the result is as sharp as the picture.",
                ),
                torso_input("The same as in Sample Talking Frames. It matters when the motion is connected."),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="Optional: frames to paste into instead of the still portrait, of the portrait's size. "
                    "With those of another Paste Face Back, two people of one picture talk. "
                    "The shorter of the two holds its last frame.",
                ),
            ],
            outputs=[io.Image.Output("images", tooltip="The whole portrait, once per frame.")],
        )

    @classmethod
    @explained
    def execute(cls, frames, appearance, motion=None, torso: str = TORSO[0], background=None) -> io.NodeOutput:
        from ..fd2talk_core.face.model import FaceModel
        from ..fd2talk_core.frames.detail import DetailLayer
        from ..fd2talk_core.frames.limits import soft_limit, torso_share
        from ..fd2talk_core.video.people import GroupCompositor

        frames = rgb(frames, "frame input")
        height, width = appearance.picture.shape[:2]
        if tuple(frames.shape[1:3]) != (appearance.size, appearance.size):
            raise UserError(
                f"The frames have {frames.shape[2]} x {frames.shape[1]} pixels, but the portrait was encoded with a "
                f"crop of {appearance.size} x {appearance.size}. Connect frames that Sample Talking Frames made from "
                "this very portrait."
            )
        if motion is not None and len(motion) != len(frames):
            raise UserError(
                f"There are {len(frames)} frames, but the motion has {len(motion)}. Connect the motion that these "
                "frames were made with, or none."
            )
        if background is not None:
            background = rgb(background, "background input")
            if tuple(background.shape[1:3]) != (height, width):
                raise UserError(
                    f"The background has {background.shape[2]} x {background.shape[1]} pixels, but the portrait "
                    f"{width} x {height}. Connect the images of another Paste Face Back with the same picture."
                )
        detail = None
        if motion is not None:
            face_model = FaceModel.load()
            motion.check(face_model.hash)
            motion, _ = soft_limit(motion, face_model, appearance)  # as it was drawn; Sample Talking Frames told of it
            detail = DetailLayer(face_model, appearance, torso_share(torso))
        total = len(frames) if background is None else max(len(frames), len(background))
        result = frame_store(total, height, width)
        compositor = GroupCompositor(appearance, frames.device)
        progress = progress_bar()
        for start in range(0, total, BATCH):
            progress(start, total)
            out = result[start : start + BATCH]
            if background is None:
                compositor.fill(out)
            else:
                # An index, not the whole background held to the new length: that would be a copy of everything.
                index = torch.arange(start, start + len(out)).clamp(max=len(background) - 1)
                out.copy_(background[index])
            first = min(start, len(frames) - 1)
            part = frames[first : first + len(out)]
            held = len(out) - len(part)
            compositor.paste_into(out[: len(part)], part, detail(motion, first, len(part)) if detail else None)
            for picture in out[len(out) - held :]:
                last = detail(motion, len(frames) - 1, 1) if detail else None
                compositor.paste_into(picture[None], frames[-1:], last)
        progress(total, total)
        return io.NodeOutput(result)
