"""Stage 1 and what users do to its result: Generate Motion from Audio, Edit Motion."""

from __future__ import annotations

from comfy_api.latest import io

from .common import (
    CATEGORY,
    AppearanceType,
    MotionModelType,
    MotionType,
    audio_samples,
    explained,
    loaded,
    progress_bar,
    seed_input,
)

REGIONS = {
    "gaze": "eye movement",
    "eyelids": "blinks and squints",
    "brows": "brow movement",
    "mouth": "mouth and jaw movement",
    "rest": "cheeks, nose and everything else",
}

# Left and right are the person's own sides. Rarely used ones are folded away in Nodes 2.0.
CONTROLS = {
    "jaw_open": "Opens the jaw.",
    "mouth_wide": "Stretches the mouth sideways.",
    "mouth_pucker": "Rounds the lips, as for a kiss.",
    "smile_left": "Lifts the person's left mouth corner.",
    "smile_right": "Lifts the person's right mouth corner.",
    "brow_raise_left": "Raises the person's left eyebrow.",
    "brow_raise_right": "Raises the person's right eyebrow.",
    "brow_furrow": "Draws the eyebrows down and together.",
    "blink_left": "Closes the person's left eye; 1 is shut.",
    "blink_right": "Closes the person's right eye; 1 is shut.",
    "gaze_x": "Turns the eyes to the right side of the picture; negative values to the left.",
    "gaze_y": "Turns the eyes up; negative values down.",
    "squint": "Narrows both eyes.",
    "eye_wide": "Opens both eyes wide.",
    "mouth_funnel": "Pushes the lips forward and open, as for 'oh'.",
    "mouth_left": "Moves the mouth to the person's left.",
    "mouth_right": "Moves the mouth to the person's right.",
    "lip_press": "Presses the lips together.",
    "lip_roll": "Rolls the lips inwards.",
    "upper_lip_up": "Raises the upper lip.",
    "lower_lip_down": "Lowers the lower lip.",
}
BASIC_CONTROLS = ("jaw_open", "smile_left", "smile_right", "brow_raise_left", "brow_raise_right", "gaze_x", "gaze_y")


def gain_input(id: str, tooltip: str, **options) -> io.Float.Input:
    return io.Float.Input(id, default=1.0, min=0.0, max=3.0, step=0.05, tooltip=tooltip, **options)


class AudioToMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkAudioToMotion",
            display_name="Generate Motion from Audio",
            category=CATEGORY,
            description="Turns a voice into facial expression and head movement, one value per video frame. "
            "No picture is needed yet; the result can be edited before frames are made.",
            search_aliases=["audio to motion", "speech to motion", "lip sync", "audio2face", "talking head"],
            inputs=[
                MotionModelType.Input("motion_model", tooltip="From Load FD2Talk Models."),
                io.Audio.Input(
                    "audio",
                    tooltip="The voice: any sample rate, mono or stereo, at least 0.2 seconds. "
                    "Music and noise behind the voice make the lips less exact.",
                ),
                seed_input("Another seed gives other head movement, blinks and small variations of the mouth."),
                io.Int.Input(
                    "steps",
                    default=10,
                    min=1,
                    max=100,
                    tooltip="Diffusion steps. 10 is enough; more is slower and only slightly different.",
                    advanced=True,
                ),
                io.Float.Input(
                    "guidance",
                    default=1.2,
                    min=1.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Guidance scale: how strongly the voice shapes the motion. 1 is off and faster; "
                    "high values exaggerate the mouth.",
                    advanced=True,
                ),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=5.0,
                    max=60.0,
                    step=0.01,
                    tooltip="Frames per second of the motion and so of the video. "
                    "Motion is generated at 25 and resampled.",
                ),
                gain_input("expression_strength", "Scales all facial expression; 1 is as generated, 0 a still face."),
                gain_input("pose_strength", "Scales the head movement; 1 is as generated, 0 holds the head still."),
                AppearanceType.Input(
                    "appearance",
                    optional=True,
                    tooltip="Optional, from Encode Portrait: the motion then departs from this portrait's own "
                    "expression and pose.",
                ),
            ],
            outputs=[
                MotionType.Output(
                    "motion", tooltip="Expression coefficients and head pose for every frame; carries its frame rate."
                )
            ],
        )

    @classmethod
    @explained
    def execute(
        cls,
        motion_model,
        audio,
        seed: int,
        steps: int,
        guidance: float,
        fps: float,
        expression_strength: float,
        pose_strength: float,
        appearance=None,
    ) -> io.NodeOutput:
        from ..fd2talk_core.audio.loading import to_mono_16k
        from ..fd2talk_core.motion.sampling import generate_motion

        samples = to_mono_16k(*audio_samples(audio))
        motion = generate_motion(
            loaded(motion_model),
            samples,
            fps,
            seed=seed,
            steps=steps,
            guidance=guidance,
            expression_strength=expression_strength,
            pose_strength=pose_strength,
            reference_expression=None if appearance is None else appearance.beta,
            reference_pose=None if appearance is None else appearance.pose,
            progress=progress_bar(),
        )
        return io.NodeOutput(motion)


class EditMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkEditMotion",
            display_name="Edit Motion",
            category=CATEGORY,
            description="Changes motion before frames are made: smooths it, scales single face regions and the head "
            "movement, adds expressions by name and extra blinks.",
            search_aliases=["expression editor", "blendshapes", "smile", "blink", "motion gain", "smooth motion"],
            inputs=[
                MotionType.Input("motion", tooltip="From Generate Motion from Audio or another Edit Motion."),
                io.Float.Input(
                    "smoothing",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Evens out expression and head movement over time; 0 is off. "
                    "High values blur fast mouth closures.",
                ),
                *(
                    gain_input(f"{region}_gain", f"Scales {what}; 1 keeps it, 0 mutes it.", advanced=region == "rest")
                    for region, what in REGIONS.items()
                ),
                gain_input("rotation_gain", "Scales nodding, turning and tilting of the head; 0 holds it upright."),
                gain_input(
                    "translation_gain",
                    "Scales movement of the head sideways, up and down, and towards the camera.",
                    advanced=True,
                ),
                *(
                    io.Float.Input(
                        control,
                        default=0.0,
                        min=-2.0,
                        max=2.0,
                        step=0.05,
                        tooltip=f"{what} 0 adds nothing, 1 is fully on.",
                        advanced=control not in BASIC_CONTROLS,
                    )
                    for control, what in CONTROLS.items()
                ),
                io.Float.Input(
                    "extra_blinks",
                    default=0.0,
                    min=0.0,
                    max=60.0,
                    step=1.0,
                    tooltip="Blinks added per minute at random moments, on top of those already in the motion.",
                ),
                seed_input("Another seed puts the extra blinks at other moments.", id="blink_seed", advanced=True),
            ],
            outputs=[MotionType.Output("motion", tooltip="The changed motion, of the same length and frame rate.")],
        )

    @classmethod
    @explained
    def execute(
        cls,
        motion,
        smoothing: float,
        rotation_gain: float,
        translation_gain: float,
        extra_blinks: float,
        blink_seed: int,
        **values: float,
    ) -> io.NodeOutput:
        from ..fd2talk_core.face.model import FaceModel
        from ..fd2talk_core.motion import edit

        face_model = FaceModel.load()
        # Smoothing first, so that it does not blur the blinks that are added.
        motion = edit.smooth(motion, smoothing)
        motion = edit.scale_regions(motion, face_model, {region: values[f"{region}_gain"] for region in REGIONS})
        motion = edit.scale_pose(motion, rotation_gain, translation_gain)
        motion = edit.apply_controls(motion, face_model, {name: values[name] for name in CONTROLS if values[name]})
        motion = edit.add_blinks(motion, face_model, extra_blinks, blink_seed)
        return io.NodeOutput(motion)
