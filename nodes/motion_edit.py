"""Edit Motion."""

from __future__ import annotations

from comfy_api.latest import io

from .common import CATEGORY, MotionType, explained, seed_input
from .motion import AS_GENERATED, blink_rate_input, gain_input
from .motion_editor import shown_in_editor

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

# Kept as literals, because importing the pack must load nothing heavy; a test compares them with fd2talk_core.
SMOOTHING_METHODS = ("savgol", "one_euro")
KEYFRAME_MODES = ("add", "replace")
INTERPOLATIONS = ("smooth", "linear", "hold")
POSE_PRESETS = (
    "natural",
    "still",
    "subtle",
    "lively",
    "nod",
    "shake",
    "look_left",
    "look_right",
    "look_up",
    "look_down",
    "tilt_left",
    "tilt_right",
)
KEYFRAMES_EXAMPLE = '{"smile_left": [[0, 0], [1.5, 0.6]], "yaw": [[0, 0], [2, 10]]}'
USUAL_LIMIT = 30.0  # degrees of yaw, to which the other limits of a pose are in proportion


class EditMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkEditMotion",
            display_name="Edit Motion",
            category=CATEGORY,
            description="Changes motion before frames are made: smooths it, scales single face regions and the head "
            "movement, adds expressions by name, keyframes and blinks. Its motion editor sets keyframes on a timeline.",
            search_aliases=[
                "expression editor",
                "blendshapes",
                "keyframes",
                "motion editor",
                "timeline",
                "animation curves",
                "smile",
                "blink",
                "motion gain",
                "smooth motion",
                "mirror motion",
                "head pose",
            ],
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
                seed_input("Another seed puts added blinks at other moments.", id="blink_seed", advanced=True),
                blink_rate_input("leaves them as they are"),
                io.Combo.Input(
                    "pose_preset",
                    options=list(POSE_PRESETS),
                    default="natural",
                    optional=True,
                    tooltip="What the head does: natural changes nothing; still, subtle and lively scale its movement; "
                    "the others add a gesture or turn it. Left and right are the person's own.",
                ),
                io.Float.Input(
                    "preset_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="How strongly the pose preset acts; 0 is not at all.",
                    advanced=True,
                ),
                io.Float.Input(
                    "pose_limit",
                    default=0.0,
                    min=0.0,
                    max=90.0,
                    step=1.0,
                    optional=True,
                    tooltip="The furthest that the head turns to the side, in degrees, from the portrait's own pose; "
                    "nodding, tilting and moving are limited in proportion, softly. 0 is no limit.",
                ),
                io.Boolean.Input(
                    "mirror", default=False, optional=True, tooltip="Swaps left and right of the face and of the head."
                ),
                io.Float.Input(
                    "speed",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.05,
                    optional=True,
                    tooltip="2 plays the motion twice as fast, 0.5 half as fast. Lips then leave the sound.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "smoothing_method",
                    options=list(SMOOTHING_METHODS),
                    default="savgol",
                    optional=True,
                    tooltip="savgol (Savitzky-Golay) evens out all movement alike. one_euro calms slow jitter and "
                    "leaves fast movement, such as lips and blinks, nearly alone.",
                    advanced=True,
                ),
                io.String.Input(
                    "keyframes",
                    default="",
                    multiline=True,
                    placeholder=KEYFRAMES_EXAMPLE,
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="Values at moments, as JSON: a name, then pairs of seconds and value. Names are the "
                    "controls above, and pitch, yaw, roll (degrees), x, y (eye distances) and zoom. Example: "
                    + KEYFRAMES_EXAMPLE,
                ),
                io.Combo.Input(
                    "keyframe_mode",
                    options=list(KEYFRAME_MODES),
                    default="add",
                    optional=True,
                    tooltip="add: keyframes come on top of the motion. replace: what they name follows them alone.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default="smooth",
                    optional=True,
                    tooltip="How values go from one keyframe to the next.",
                    advanced=True,
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Optional: the sound, for the motion editor to show and play. It changes nothing else.",
                ),
            ],
            outputs=[
                MotionType.Output(
                    "motion", tooltip="The changed motion, at the same frame rate, and as long unless speed is set."
                )
            ],
            # No output node: see with_editors_as_outputs. Its editor's data comes again when nothing has to run.
            has_intermediate_output=True,
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
        blink_rate: float = AS_GENERATED,
        pose_preset: str = "natural",
        preset_strength: float = 1.0,
        pose_limit: float = 0.0,
        mirror: bool = False,
        speed: float = 1.0,
        smoothing_method: str = "savgol",
        keyframes: str = "",
        keyframe_mode: str = "add",
        interpolation: str = "smooth",
        audio: dict | None = None,
        **values: float,
    ) -> io.NodeOutput:
        from ..fd2talk_core.face.model import FaceModel
        from ..fd2talk_core.motion import blinks, edit, tools
        from ..fd2talk_core.motion.editor import EditStages
        from ..fd2talk_core.motion.keyframes import apply_keyframes, parse_keyframes

        face_model = FaceModel.load()
        motion.check(face_model.hash)
        motion = tools.retime(motion, speed=speed)
        if mirror:
            motion = tools.mirror(motion, face_model)
        # Smoothing before anything is added, so that it does not blur what the user puts in.
        source = motion = edit.smooth(motion, smoothing, smoothing_method)
        gains = {region: values[f"{region}_gain"] for region in REGIONS}
        motion = edit.scale_regions(motion, face_model, gains)
        motion = edit.scale_pose(motion, rotation_gain, translation_gain)
        motion = tools.pose_preset(motion, pose_preset, preset_strength)
        # Before controls and keyframes, whose blinks are the user's own.
        if blink_rate >= 0:
            motion = blinks.set_blink_rate(motion, face_model, blink_rate, seed=blink_seed)
        shaped = motion
        motion = edit.apply_controls(motion, face_model, {name: values[name] for name in CONTROLS if values[name]})
        if keyframes.strip():
            motion = apply_keyframes(motion, face_model, parse_keyframes(keyframes), keyframe_mode, interpolation)
        keyed = motion
        motion = blinks.add_blinks(motion, face_model, extra_blinks, blink_seed)
        if pose_limit:
            share = pose_limit / USUAL_LIMIT
            motion = tools.limit_pose(motion, (20 * share, 30 * share, 20 * share), 0.3 * share, 0.15 * share)
        stages = EditStages(source, shaped, keyed, motion)
        settings = {
            "smoothing": smoothing,
            "smoothing_method": smoothing_method,
            "mirror": mirror,
            "speed": speed,
            "pose_preset": pose_preset,
            "preset_strength": preset_strength,
            "pose_limit": pose_limit,
            "blink_rate": blink_rate,
            "blink_seed": blink_seed,
            "extra_blinks": extra_blinks,
        }
        shown = shown_in_editor(stages, face_model, gains, rotation_gain, translation_gain, audio, settings)
        return io.NodeOutput(motion, ui=shown)
