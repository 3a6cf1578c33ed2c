"""Dub Video."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import comfy.model_management as mm
import numpy as np
import torch
from comfy_api.latest import io

from .common import (
    CATEGORY,
    FrameModelType,
    MotionModelType,
    MotionType,
    audio_samples,
    cancellable,
    explained,
    loaded,
    own_id,
    progress_bar,
    rgb,
    seed_input,
    tell,
    to_uint8,
)
from .faces import FACE_ORDERS, face_choice, index_input, mark_inputs, order_inputs
from .frames import BYTES_PER_PIXEL, SHORT_MEMORY, batch_size_input, batch_that_fits, frame_store, steps_input
from .motion import gain_input
from .portrait import size_input

# Literals, because importing the pack must load nothing heavy; a test compares them with fd2talk_core.
LONGER_SOUND = ("back and forth", "hold last frame")
NO_FACE = ("keep", "error")


class Frames(Sequence):
    """An IMAGE as 8-bit pictures, converted one by one when they are looked at."""

    def __init__(self, images: torch.Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self.images):
            raise IndexError(index)
        return to_uint8(self.images[index])


class DubVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkDubVideo",
            display_name="Dub Video",
            category=CATEGORY,
            description="Makes the mouth in a video follow a new recording. Head, eyes, brows and background stay as "
            "they are, to the pixel. All frames are held in memory, so use it for clips up to about a minute.",
            search_aliases=["lip sync", "dub", "dubbing", "translate video", "lips only", "mouth replacement"],
            inputs=[
                MotionModelType.Input("motion_model", tooltip="From Load FD2Talk Models."),
                FrameModelType.Input("frame_model", tooltip="From Load FD2Talk Models."),
                io.Image.Input(
                    "images",
                    tooltip="The video's frames, from Get Video Components, with a face at least 48 pixels wide.",
                ),
                io.Audio.Input(
                    "audio",
                    tooltip="The new recording, at least 0.2 seconds. When it is shorter than the video, the mouth "
                    "rests afterwards.",
                ),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second of the video. Connect fps of Get Video Components, or the lips run "
                    "away from the sound.",
                ),
                seed_input("Another seed gives small variations of the mouth."),
                gain_input("mouth_strength", "Scales how far the mouth moves; 1 is natural."),
                io.Combo.Input(
                    "longer_sound",
                    options=list(LONGER_SOUND),
                    default=LONGER_SOUND[0],
                    tooltip="What is seen when the sound is longer than the video: the video plays back and forth, or "
                    "its last frame is held. The sound is never cut.",
                ),
                io.Combo.Input(
                    "no_face",
                    options=list(NO_FACE),
                    default=NO_FACE[0],
                    tooltip="Frames in which the face is not found. keep: leave them as they are. error: stop and say "
                    "where.",
                ),
                index_input("dub"),
                size_input(advanced=True),
                steps_input(advanced=True),
                MotionType.Input(
                    "motion",
                    optional=True,
                    tooltip="Optional: motion whose mouth is used in place of one made from the sound, for example "
                    "from Edit Motion. It is brought to fps, and its end is held when it is short.",
                ),
                *mark_inputs("dub"),
                *order_inputs(),
                batch_size_input(optional=True),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The dubbed frames, of the video's size."),
                io.Float.Output("fps", tooltip="Their frames per second. For Combine Frames and Audio."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @explained
    def execute(
        cls,
        motion_model,
        frame_model,
        images,
        audio,
        fps: float,
        seed: int,
        mouth_strength: float,
        longer_sound: str,
        no_face: str,
        face_index: int,
        size: str,
        steps: int,
        motion=None,
        mask=None,
        box=None,
        face_order: str = FACE_ORDERS[0],
        point_x: float = 0.5,
        point_y: float = 0.5,
        batch_size: int = 0,
    ) -> io.NodeOutput:
        from ..fd2talk_core.audio.loading import SAMPLE_RATE, to_mono_16k
        from ..fd2talk_core.dubbing import (
            dub_frames,
            dubbed_expression,
            follow_person,
            frame_order,
            padded_voice,
            usual_expression,
        )
        from ..fd2talk_core.motion.sampling import generate_motion
        from ..fd2talk_core.video.faces import FaceChooser
        from ..fd2talk_core.video.writer import exact_rate

        images = rgb(images, "video")
        voice, fps = to_mono_16k(*audio_samples(audio)), float(exact_rate(fps))
        voice, wanted = padded_voice(voice, SAMPLE_RATE, len(images), fps)
        order = frame_order(len(images), wanted, longer_sound)
        result = frame_store(len(order), *images.shape[1:3])
        frames, face_model = Frames(images), frame_model.face_model
        choice = face_choice(face_index, face_order, (point_x, point_y), mask, box)
        chooser = FaceChooser(frame_model.tracker, choice)
        progress = progress_bar()
        performance = follow_person(
            frames, fps, chooser, face_model, no_face=no_face, progress=lambda done: progress(done, len(frames))
        )
        if motion is None:
            motion = generate_motion(
                loaded(motion_model),
                voice,
                fps,
                seed=seed,
                expression_strength=mouth_strength,
                reference_expression=usual_expression(performance),
                progress=progress_bar(),
            )
        expression = dubbed_expression(performance, motion.resampled(fps), order, face_model)
        notes = [chooser.note]
        if chooser.missing:
            notes.append(f"{chooser.missing} frames show no such face; they stay as they are.")
        if wanted > len(images):
            notes.append(f"The sound is longer than the video by {(wanted - len(images)) / fps:.1f} s: {longer_sound}.")
        tell(own_id(cls), "\n".join(notes), logging.WARNING if len(notes) > 1 else logging.INFO)

        def free_memory() -> None:
            mm.soft_empty_cache()
            if SHORT_MEMORY not in notes:
                notes.append(SHORT_MEMORY)
                tell(own_id(cls), "\n".join(notes))

        batch = batch_that_fits(frame_model.patcher, batch_size, len(order), int(size))
        network = loaded(frame_model.patcher, batch * int(size) ** 2 * BYTES_PER_PIXEL)
        live = progress_bar()
        with cancellable(network):
            patches = dub_frames(
                frames,
                performance,
                expression,
                order,
                network,
                face_model,
                size=int(size),
                steps=steps,
                seed=seed,
                batch_size=batch,
                dtype=frame_model.dtype,
                out_of_memory=mm.OOM_EXCEPTION,
                free_memory=free_memory,
            )
            for done, patch in enumerate(patches):
                result[done].copy_(images[order[done]])
                if patch is not None:
                    patch.paste_into(result[done])
                live(done + 1, len(order), result[done])
        return io.NodeOutput(result, fps)
