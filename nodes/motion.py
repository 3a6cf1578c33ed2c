"""Stage 1: Generate Motion from Audio."""

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

# Kept as literals, because importing the pack must load nothing heavy; a test compares them with fd2talk_core.
SAMPLERS = ("dpm++", "ddim")
DRIVING_MODES = ("replace", "add")
DRIVING_ENDS = ("generated", "loop", "hold")
AS_GENERATED = -1.0


def gain_input(id: str, tooltip: str, max: float = 3.0, **options) -> io.Float.Input:
    return io.Float.Input(id, default=1.0, min=0.0, max=max, step=0.05, tooltip=tooltip, **options)


def blink_rate_input(as_it_is: str) -> io.Float.Input:
    return io.Float.Input(
        "blink_rate",
        default=AS_GENERATED,
        min=AS_GENERATED,
        max=60.0,
        step=1.0,
        optional=True,
        tooltip="Blinks per minute: missing ones are added, surplus ones removed. People blink 10 to 20 times. "
        f"0 keeps the eyes open; -1 {as_it_is}.",
    )


def schedule_input(id: str, what: str) -> io.String.Input:
    return io.String.Input(
        id,
        default="",
        optional=True,
        placeholder="0: 1, 2.5: 0.3, 4: 1",
        tooltip=f"{what} over time, as seconds: factor, for example 0: 1, 2.5: 0.3, 4: 1, with smooth changes between. "
        "Empty is off.",
        advanced=True,
    )


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
                    default=6,
                    min=1,
                    max=100,
                    tooltip="Diffusion steps. 6 are enough; more is slower and only slightly different.",
                    advanced=True,
                ),
                io.Float.Input(
                    "guidance",
                    default=1.5,
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
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second of the motion and so of the video. "
                    "Motion is generated at 25 and resampled.",
                ),
                gain_input("expression_strength", "Scales all facial expression; 1 is as generated, 0 is still.", 10.0),
                gain_input("pose_strength", "Scales the head movement; 1 is as generated, 0 is still.", 10.0),
                AppearanceType.Input(
                    "appearance",
                    optional=True,
                    tooltip="Optional, from Encode Portrait: the motion then departs from this portrait's own "
                    "expression and pose.",
                ),
                io.Float.Input(
                    "energy",
                    default=0.0,
                    min=-2.0,
                    max=2.0,
                    step=0.1,
                    optional=True,
                    tooltip="Liveliness of the speaker: 0 is usual, negative calmer, positive livelier. "
                    "It changes how the motion is made, not only its size.",
                ),
                blink_rate_input("keeps what the network makes, with no stare of more than five seconds"),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.0,
                    max=1.5,
                    step=0.05,
                    optional=True,
                    tooltip="How much seeds differ: 0 makes every seed the same average motion, above 1 is wilder.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "sampler",
                    options=list(SAMPLERS),
                    default="dpm++",
                    optional=True,
                    tooltip="Diffusion sampler. dpm++ needs fewer steps; ddim is the plain one.",
                    advanced=True,
                ),
                schedule_input("strength_schedule", "Multiplies expression_strength"),
                schedule_input("pose_schedule", "Multiplies pose_strength"),
                io.Boolean.Input(
                    "close_in_silence",
                    default=True,
                    optional=True,
                    tooltip="Closes the mouth within a few frames wherever the recording is silent.",
                    advanced=True,
                ),
                MotionType.Input(
                    "driving_pose",
                    optional=True,
                    tooltip="Optional: motion whose head movement is used, for example from Track Motion from Video. "
                    "Its expression is ignored.",
                ),
                io.Combo.Input(
                    "driving_mode",
                    options=list(DRIVING_MODES),
                    default="replace",
                    optional=True,
                    tooltip="What driving_pose does to the generated head movement: it takes its place, or is added.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "driving_end",
                    options=list(DRIVING_ENDS),
                    default="generated",
                    optional=True,
                    tooltip="When driving_pose is shorter than the audio. generated: over to the generated movement. "
                    "loop: back and forth. hold: the head rests in its last pose.",
                    advanced=True,
                ),
                io.AudioEncoderOutput.Input(
                    "speech_features",
                    optional=True,
                    tooltip="Only for motion models of your own that were trained on wav2vec 2.0 or Whisper features: "
                    "from Audio Encoder Encode, for the same audio. The shipped model does not use it.",
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
        energy: float = 0.0,
        blink_rate: float = AS_GENERATED,
        temperature: float = 1.0,
        sampler: str = "dpm++",
        strength_schedule: str = "",
        pose_schedule: str = "",
        close_in_silence: bool = True,
        driving_pose=None,
        driving_mode: str = "replace",
        driving_end: str = "generated",
        speech_features=None,
    ) -> io.NodeOutput:
        from ..fd2talk_core.audio.features import feature_frames
        from ..fd2talk_core.audio.loading import to_mono_16k
        from ..fd2talk_core.motion.sampling import generate_motion
        from ..fd2talk_core.motion.schedule_text import parse_schedule
        from ..fd2talk_core.motion.speech_features import from_audio_encoder_output

        samples = to_mono_16k(*audio_samples(audio))
        features = None
        if speech_features is not None:
            features = from_audio_encoder_output(speech_features, feature_frames(len(samples)))
        motion = generate_motion(
            loaded(motion_model),
            samples,
            fps,
            seed=seed,
            steps=steps,
            guidance=guidance,
            temperature=temperature,
            energy=energy,
            expression_strength=expression_strength,
            pose_strength=pose_strength,
            strength_schedule=parse_schedule(strength_schedule, "strength_schedule"),
            pose_schedule=parse_schedule(pose_schedule, "pose_schedule"),
            blink_rate=None if blink_rate < 0 else blink_rate,
            driving_pose=driving_pose,
            driving_mode=driving_mode,
            driving_end=driving_end,
            close_in_silence=close_in_silence,
            reference_expression=None if appearance is None else appearance.beta,
            reference_pose=None if appearance is None else appearance.pose,
            sampler=sampler,
            features=features,
            progress=progress_bar(),
        )
        return io.NodeOutput(motion)
