"""Blend Motion, Retime Motion."""

from __future__ import annotations

from comfy_api.latest import io

from ..fd2talk_core.errors import UserError
from .common import CATEGORY, MotionType, audio_samples, explained

MIX, SEQUENCE = "mix", "one after the other"
SHARES = {
    "gaze": "the eye movement",
    "eyelids": "blinks and squints",
    "brows": "the brow movement",
    "mouth": "mouth and jaw movement",
    "rest": "cheeks, nose and everything else",
    "pose": "the head movement",
}
AS_IT_IS, STRETCH, LOOP, CUT_OR_HOLD = "as it is", "stretch", "loop", "cut or hold"
SCHEDULE_EXAMPLE = "0: 0, 1.5: 1"


class BlendMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkBlendMotion",
            display_name="Blend Motion",
            category=CATEGORY,
            description="Makes one motion of two: mixes them by face region and over time, or plays one after the "
            "other with a cross-fade.",
            search_aliases=["mix motion", "combine motion", "concatenate motion", "join motion", "crossfade", "merge"],
            inputs=[
                MotionType.Input(
                    "motion_a", tooltip="The first motion. It gives the frame rate; when mixing, the length too."
                ),
                MotionType.Input(
                    "motion_b",
                    tooltip="The second motion. When mixing, its last moment is held if it is shorter than the first.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[MIX, SEQUENCE],
                    default=MIX,
                    tooltip="mix: both at once, by the weights below. one after the other: the second follows.",
                ),
                io.Float.Input(
                    "weight",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="For mixing: 0 is all the first motion, 1 all the second.",
                ),
                *(
                    io.Float.Input(
                        f"{region}_amount",
                        default=1.0,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        tooltip=f"For mixing: share of the weight that counts for {what}; 0 keeps the first motion.",
                        advanced=region == "rest",
                    )
                    for region, what in SHARES.items()
                ),
                io.Float.Input(
                    "crossfade",
                    default=0.3,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="For one after the other: seconds in which the end of the first overlaps the start of the "
                    "second. 0 cuts.",
                ),
                io.String.Input(
                    "weight_schedule",
                    default="",
                    optional=True,
                    placeholder=SCHEDULE_EXAMPLE,
                    tooltip="For mixing: the weight over time as seconds: value, for example 0: 0, 1.5: 1, with smooth "
                    "changes between. It replaces weight; empty is off.",
                    advanced=True,
                ),
            ],
            outputs=[MotionType.Output("motion", tooltip="The blended motion, at the first one's frame rate.")],
        )

    @classmethod
    @explained
    def execute(
        cls, motion_a, motion_b, mode: str, weight: float, crossfade: float, weight_schedule: str = "", **amounts: float
    ) -> io.NodeOutput:
        from ..fd2talk_core.motion.schedule import strength_curve
        from ..fd2talk_core.motion.schedule_text import parse_schedule
        from ..fd2talk_core.motion.tools import blend, concatenate

        if mode == SEQUENCE:
            return io.NodeOutput(concatenate([motion_a, motion_b], crossfade))
        over_time = parse_schedule(weight_schedule, "weight_schedule")
        if over_time:
            weight = strength_curve(over_time, len(motion_a), motion_a.fps, motion_a.fps, "weight_schedule")
        regions = {region: amounts[f"{region}_amount"] for region in SHARES}
        return io.NodeOutput(blend(motion_a, motion_b, weight, regions))


class RetimeMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkRetimeMotion",
            display_name="Retime Motion",
            category=CATEGORY,
            description="Cuts a part out of motion, changes its speed and frame rate, and brings it to a length: "
            "stretched, looped without a seam, or cut.",
            search_aliases=["loop motion", "motion speed", "resample motion", "trim motion", "cut motion", "fps"],
            inputs=[
                MotionType.Input("motion", tooltip="From any FD2Talk motion node."),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=36000.0, step=0.05, tooltip="Where the part begins, in seconds."
                ),
                io.Float.Input(
                    "end",
                    default=0.0,
                    min=0.0,
                    max=36000.0,
                    step=0.05,
                    tooltip="Where the part ends, in seconds; 0 is the motion's end.",
                ),
                io.Float.Input(
                    "speed", default=1.0, min=0.1, max=10.0, step=0.05, tooltip="2 is twice as fast, 0.5 half as fast."
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=240.0,
                    step=0.01,
                    tooltip="New frames per second, 1 to 240; 0 keeps the motion's own.",
                ),
                io.Combo.Input(
                    "fit",
                    options=[AS_IT_IS, LOOP, STRETCH, CUT_OR_HOLD],
                    default=AS_IT_IS,
                    tooltip="How the motion is brought to the length below. loop: repeated without a visible seam, "
                    "for idle movement. stretch: slower or faster. cut or hold: cut, or the last moment held.",
                ),
                io.Float.Input(
                    "length",
                    default=0.0,
                    min=0.0,
                    max=14400.0,
                    step=0.1,
                    tooltip="The length in seconds, when no audio is connected.",
                ),
                io.Float.Input(
                    "crossfade",
                    default=0.4,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="For loop: seconds in which the end of a round fades into its start.",
                    advanced=True,
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Optional: the motion is brought to the length of this sound."
                ),
            ],
            outputs=[MotionType.Output("motion", tooltip="The retimed motion; carries its new frame rate.")],
        )

    @classmethod
    @explained
    def execute(
        cls,
        motion,
        start: float,
        end: float,
        speed: float,
        fps: float,
        fit: str,
        length: float,
        crossfade: float,
        audio=None,
    ) -> io.NodeOutput:
        from ..fd2talk_core.motion import tools

        motion = tools.retime(tools.crop(motion, start, end or None), fps or None, speed)
        if fit == AS_IT_IS:
            return io.NodeOutput(motion)
        if audio is not None:
            samples, rate = audio_samples(audio)
            length = samples.shape[1] / rate
        if length <= 0:
            raise UserError(f"There is no length to {fit} the motion to. Set length in seconds, or connect audio.")
        if fit == LOOP:
            motion = tools.loop(motion, length, crossfade=crossfade)
        elif fit == STRETCH:
            motion = tools.retime(motion, duration=length)
        else:
            motion = tools.fitted(motion, length)
        return io.NodeOutput(motion)
