"""The whole story: one portrait and one voice recording become a talking-head video, in constant memory."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .audio.loading import frame_count, load_audio, to_mono_16k
from .device import pick_device
from .errors import UserError
from .face.model import FaceModel
from .face.tracker import FaceTracker
from .frames.limits import soft_limit, torso_share
from .frames.model import FrameModel
from .motion.clip import MotionClip
from .motion.model import MotionModel
from .motion.sampling import generate_motion
from .motion.schedule import check_driving
from .render import RenderSettings, render_frames, render_key, video_size, with_length
from .video.faces import encode_largest
from .video.reading import read_picture
from .video.writer import SegmentedWriter, exact_rate

log = logging.getLogger(__name__)

SIZES = (256, 512)


@dataclass
class TalkReport:
    """What `talk` did.

    seconds: time per stage, in order. peak_memory_mb: highest resident memory of the process so far, None where the
    system does not tell. resumed: frames that an earlier, interrupted run had finished. notes: what the user should
    know.
    """

    out: Path
    frames: int = 0
    fps: float = 25.0
    duration: float = 0.0
    resumed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def frames_per_second(self) -> float:
        """Speed end to end: frames made in this run over the time of all stages."""
        return (self.frames - self.resumed) / max(self.total_seconds, 1e-9)


def talk(
    portrait: str | Path,
    audio: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    steps: int = 2,
    motion_steps: int = 6,
    size: int = 256,
    fps: float = 25,
    device: str = "cpu",
    guidance: float = 1.5,
    temperature: float = 1.0,
    energy: float = 0.0,
    expression_strength: float = 1.0,
    pose_strength: float = 1.0,
    blink_rate: float | None = None,
    driving_pose: str | Path | MotionClip | None = None,
    driving_mode: str = "replace",
    driving_end: str = "generated",
    motion: str | Path | MotionClip | None = None,
    save_motion: str | Path | None = None,
    paste: bool = True,
    torso: str = "follow",
    progress: Callable[[int, int], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> TalkReport:
    """Make a video of the person in `portrait` saying `audio`.

    Args:
        portrait: picture file; the largest face in it is animated.
        audio: sound or video file; all of it ends up in the video, whose length is the same to within half a frame.
        out: the .mp4 to write. An interrupted render continues when it is called again with the same arguments.
        seed: noise of both stages; the same seed gives the same video.
        steps, motion_steps: diffusion steps per frame and for the motion.
        size: side of the generated face crop, 256 or 512 px.
        fps: frames per second, 1..240.
        device: "cpu", "cuda", "mps" or "auto".
        guidance, temperature, energy, expression_strength, pose_strength, blink_rate, driving_pose, driving_mode,
            driving_end: of the generated motion, see `generate_motion`; driving_pose may be a file. They do nothing
            to a given `motion`.
        motion: a motion clip to use instead of one generated from the audio; cut or held to the audio's length.
        save_motion: where to write the motion that was used.
        paste: put the face back into the whole picture; False gives the face crop alone.
        torso: "follow" the head a little below the chin, as necks do, or "stay" where it is.
        progress: called with (frames done, frames in total); may raise to cancel.
        on_stage: called with the name of each stage as it begins.

    Raises UserError for every input that cannot be used.
    """
    out = _checked_target(out)
    _check_settings(seed, steps, motion_steps, size)
    torso_share(torso)  # refuses other words before anything is loaded
    rate_of_video = exact_rate(fps)
    fps = float(rate_of_video)
    report = TalkReport(out, fps=fps)
    stage = _stopwatch(report.seconds, on_stage)

    with stage("read inputs"):
        if portrait is None or audio is None:
            missing = "portrait" if portrait is None else "audio"
            raise UserError(f"There is no {missing}. Give a portrait picture and a voice recording.")
        picture = read_picture(portrait)
        samples, rate = load_audio(audio)
        voice = to_mono_16k(samples, rate)
        report.duration = samples.shape[-1] / rate
        report.frames = frame_count(report.duration, fps)
        clip = MotionClip.load(motion) if isinstance(motion, str | Path) else motion
        if isinstance(driving_pose, str | Path):
            driving_pose = MotionClip.load(driving_pose)
        if driving_pose is not None:
            check_driving(driving_pose, driving_mode, driving_end)
    with stage("load models"):
        device = pick_device(device)
        face_model, tracker = FaceModel.load(), FaceTracker.load()
        frame_model = FrameModel.load().to(device).eval()
        motion_model = None if clip else MotionModel.load().to(device).eval()
    with stage("portrait"):
        appearance = encode_largest(picture, tracker, face_model, size)
        report.notes += appearance.notes
    with stage("motion"):
        if clip is None:
            clip = generate_motion(
                motion_model,
                voice,
                fps,
                seed=seed,
                steps=motion_steps,
                guidance=guidance,
                temperature=temperature,
                energy=energy,
                expression_strength=expression_strength,
                pose_strength=pose_strength,
                blink_rate=blink_rate,
                driving_pose=driving_pose,
                driving_mode=driving_mode,
                driving_end=driving_end,
                reference_expression=appearance.beta,
                reference_pose=appearance.pose,
            )
        clip.check(frame_model.face_model_hash)
        clip = _fitted(clip, fps, report.frames, report.notes)
        if save_motion:
            report.notes.append(f"The motion is saved in {clip.save(save_motion)}.")
        clip, limited = soft_limit(clip, face_model, appearance)
        report.notes += [limited] if limited else []
    del voice, motion_model  # frames take long, and need neither
    settings = RenderSettings(steps=steps, seed=seed, torso=torso, paste=paste)
    key = render_key(frame_model, appearance, clip, settings, device)
    with SegmentedWriter(out, rate_of_video, video_size(appearance, paste), key, audio=samples, rate=rate) as writer:
        report.resumed = writer.frames_done
        if report.resumed:
            report.notes.append(f"An interrupted render went on after frame {report.resumed}.")
        with stage("frames"):
            render_frames(frame_model, face_model, appearance, clip, writer, settings, progress=progress)
        with stage("join"):
            writer.finish()
    report.peak_memory_mb = peak_memory_mb()
    return report


def peak_memory_mb() -> float | None:
    """Highest resident memory of this process in MB, None on Windows."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        # Unlike getrusage, this does not include the peak of the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _stopwatch(seconds: dict[str, float], on_stage: Callable[[str], None] | None):
    @contextmanager
    def stage(name: str) -> Iterator[None]:
        if on_stage:
            on_stage(name)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    return stage


def _checked_target(out: str | Path) -> Path:
    out = Path(out)
    if out.suffix.lower() != ".mp4":
        raise UserError(f"The output {out.name} is not an MP4 file. Give it a name that ends in .mp4.")
    if out.is_dir():
        raise UserError(f"The output {out} is a folder. Give the name of a file in it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {out.parent} cannot be made ({error.strerror}). Choose another.") from error
    return out


def _check_settings(seed: int, steps: int, motion_steps: int, size: int) -> None:
    if size not in SIZES:
        raise UserError(f"The size {size} is not available. Choose {SIZES[0]} or {SIZES[1]}.")
    for what, value, most in (("steps", steps, 50), ("motion steps", motion_steps, 1000)):
        if not 1 <= value <= most:
            raise UserError(f"The number of {what} is {value}. Use 1 to {most}.")
    if not 0 <= seed < 2**64:
        raise UserError(f"The seed is {seed}. Use a whole number from 0 to {2**64 - 1}.")


def _fitted(clip: MotionClip, fps: float, frames: int, notes: list[str]) -> MotionClip:
    """The clip at the video's rate and exactly as long as the sound: cut, or its last moment held."""
    clip = clip.resampled(fps)
    if abs(len(clip) - frames) > 1:
        what = "longer than the audio and is cut" if len(clip) > frames else "shorter than the audio; its end is held"
        notes.append(f"The motion ({clip.duration:.2f} s) is {what}.")
    return with_length(clip, frames)
