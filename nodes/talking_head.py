"""Talking Head: both stages in one node."""

from __future__ import annotations

from comfy_api.latest import InputImpl, io

from .common import (
    CATEGORY,
    FrameModelType,
    MotionModelType,
    audio_samples,
    explained,
    loaded,
    progress_bar,
    rgb,
    seed_input,
    to_uint8,
)
from .frames import steps_input
from .models import load_models
from .motion import gain_input
from .portrait import size_input
from .rendering import HIDDEN, Target, render_to_file


class TalkingHead(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkTalkingHead",
            display_name="Talking Head",
            category=CATEGORY,
            description="One portrait and one voice recording become a talking video, with the models that come with "
            "FD2Talk. The other FD2Talk nodes do the same step by step, with everything in between open to edit.",
            search_aliases=["talking head", "lip sync", "talking avatar", "animate portrait", "fd2talk", "speak"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The portrait: photo, painting or drawing, seen from the front, with a face at least "
                    "48 pixels wide. The largest face is animated.",
                ),
                io.Audio.Input(
                    "audio",
                    tooltip="The voice: any length and sample rate, at least 0.2 seconds. All of it is in the video.",
                ),
                seed_input("Another seed gives other head movement, blinks and small variations of the mouth."),
                size_input(" The video always has the portrait's size."),
                gain_input("expression_strength", "Scales all facial expression; 1 is natural, 0 is still."),
                gain_input("pose_strength", "Scales the head movement; 1 is natural, 0 keeps the head still."),
                steps_input(advanced=True),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second of the video, to which time is proportional.",
                    advanced=True,
                ),
                MotionModelType.Input(
                    "motion_model",
                    optional=True,
                    tooltip="Optional, from Load FD2Talk Models: your own model in the place of the shipped one.",
                ),
                FrameModelType.Input(
                    "frame_model",
                    optional=True,
                    tooltip="Optional, from Load FD2Talk Models: your own model in the place of the shipped one.",
                ),
            ],
            outputs=[io.Video.Output("video", tooltip="The video with sound, for Save Video.")],
            hidden=HIDDEN,
        )

    @classmethod
    @explained
    def execute(
        cls,
        image,
        audio,
        seed: int,
        size: str,
        expression_strength: float,
        pose_strength: float,
        steps: int,
        fps: float,
        motion_model=None,
        frame_model=None,
    ) -> io.NodeOutput:
        from ..fd2talk_core.audio.loading import to_mono_16k
        from ..fd2talk_core.motion.sampling import generate_motion
        from ..fd2talk_core.render import RenderSettings
        from ..fd2talk_core.video.faces import encode_largest
        from ..fd2talk_core.video.writer import exact_rate

        picture, voice = rgb(image, "portrait"), to_mono_16k(*audio_samples(audio))
        if motion_model is None or frame_model is None:
            shipped_motion, shipped_frames = load_models()
            motion_model, frame_model = motion_model or shipped_motion, frame_model or shipped_frames
        appearance = encode_largest(to_uint8(picture[0]), frame_model.tracker, frame_model.face_model, int(size))
        motion = generate_motion(
            loaded(motion_model),
            voice,
            float(exact_rate(fps)),
            seed=seed,
            expression_strength=expression_strength,
            pose_strength=pose_strength,
            reference_expression=appearance.beta,
            reference_pose=appearance.pose,
            progress=progress_bar(),
        )
        path = render_to_file(
            frame_model,
            appearance,
            motion,
            audio,
            RenderSettings(steps=steps, seed=seed),
            Target(),
            cls.hidden,
            notes=tuple(appearance.notes),
        )
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)))
