"""Track Motion from Video."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from fractions import Fraction

import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl, io

from ..fd2talk_core.errors import UserError
from .common import CATEGORY, FrameModelType, MotionType, explained, own_id, progress_bar, rgb, tell, to_uint8
from .faces import FACE_ORDERS, face_choice, mark_inputs, order_inputs

NO_FACE = ("error", "hold", "skip")
REFERENCES = ("median", "first")
IMAGE_FPS = 25.0


@contextlib.contextmanager
def file_of(video) -> Iterator[str]:
    """Path of a VIDEO's file; one that is only in memory is written to ComfyUI's temp folder for the while."""
    source = video.get_stream_source()
    if isinstance(source, str | os.PathLike):
        yield str(source)
        return
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"fd2talk_{uuid.uuid4().hex}.mp4")
    try:
        with open(path, "wb") as file:
            file.write(source.getbuffer())
        yield path
    finally:
        if os.path.exists(path):
            os.remove(path)


def trim_window(video) -> tuple[float, float] | None:
    """Start and length in seconds of the part of its file that a VIDEO stands for (length 0 = to the end).

    None when this ComfyUI does not tell, or there is no file; then only `get_components` gives the right frames.
    """
    if isinstance(video, InputImpl.VideoFromComponents):
        return None
    window = getattr(video, "get_active_trim_window", None)
    if window is not None:
        return window()
    return None if hasattr(video, "as_trimmed") else (0.0, 0.0)


class TrackMotion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkTrackMotion",
            display_name="Track Motion from Video",
            category=CATEGORY,
            description="Follows the face in a video and turns its expression and head movement into motion, to give "
            "the performance to another portrait (re-enactment).",
            search_aliases=["re-enact", "reenactment", "motion capture", "face tracking", "driving video", "mocap"],
            inputs=[
                FrameModelType.Input("frame_model", tooltip="From Load FD2Talk Models; brings the face tracker."),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="The driving video, from Load Video. It is read frame by frame, so it may be long.",
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Frames of the driving video, instead of a video. Set fps too."
                ),
                io.Combo.Input(
                    "no_face",
                    options=list(NO_FACE),
                    default="hold",
                    optional=True,
                    tooltip="Frames in which the face is not found. error: stop and say where. hold: repeat the motion "
                    "before. skip: leave them out; the motion gets shorter than the sound.",
                ),
                io.Float.Input(
                    "smoothing",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Calms the tracker's jitter (One-Euro filter) and leaves fast movement alone; 0 is off.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=31,
                    optional=True,
                    tooltip="Which face to follow when the first frame with a face shows several, counted from 0 in "
                    "the order of face_order; usually 0 is the largest, 1 the next.",
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=240.0,
                    step=0.01,
                    optional=True,
                    tooltip="Frames per second of the motion; 0 keeps the video's own. For images: the rate at which "
                    "they follow each other; 0 counts as 25.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "reference",
                    options=list(REFERENCES),
                    default="median",
                    optional=True,
                    tooltip="The head pose in the video that becomes the portrait's own pose. median: the usual one, "
                    "so that the head swings around the portrait's. first: the first frame's, so that the motion "
                    "begins in the portrait's pose.",
                    advanced=True,
                ),
                *mark_inputs("follow"),
                *order_inputs(),
            ],
            outputs=[
                MotionType.Output(
                    "motion", tooltip="The tracked expression and head movement; carries its frame rate."
                ),
                io.Audio.Output("audio", tooltip="The video's sound, unchanged; nothing when it has none."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @explained
    def execute(
        cls,
        frame_model,
        video=None,
        images=None,
        no_face: str = "hold",
        smoothing: float = 0.3,
        face_index: int = 0,
        fps: float = 0.0,
        reference: str = "median",
        mask=None,
        box=None,
        face_order: str = FACE_ORDERS[0],
        point_x: float = 0.5,
        point_y: float = 0.5,
    ) -> io.NodeOutput:
        from ..fd2talk_core.motion.tracking import track_motion
        from ..fd2talk_core.video.faces import FaceChooser

        choice = face_choice(face_index, face_order, (point_x, point_y), mask, box)
        chooser = FaceChooser(frame_model.tracker, choice)
        options = {"no_face": no_face, "smoothing": smoothing, "reference": reference}

        def track(frames: Iterable[np.ndarray], rate: float, total: int):
            return track_motion(
                frames,
                rate,
                chooser,
                frame_model.face_model,
                progress=progress_bar(),
                total=total,
                **options,
            )

        if video is not None and images is not None:
            raise UserError("There are both a video and images. Connect one of them.")
        if video is None and images is None:
            raise UserError("There is no video. Connect Load Video, or the frames of a video as images.")
        audio = None
        if video is None:
            motion = track((to_uint8(image) for image in rgb(images, "image input")), fps or IMAGE_FPS, len(images))
        elif (window := trim_window(video)) is None:
            parts = video.get_components()
            frames = rgb(parts.images, "video")
            motion = track((to_uint8(frame) for frame in frames), float(parts.frame_rate), len(frames))
            motion = motion.resampled(fps) if fps else motion
            audio = parts.audio
        else:
            with file_of(video) as path:
                frames, rate = part_of_file(path, *window, fps)
                motion = track(frames, rate, round(video.get_duration() * rate))
                audio = sound_of_file(path, *window)
        notes, level = [chooser.note], logging.INFO
        if chooser.missing:
            done = "there the motion before is held" if no_face == "hold" else "left out, so the motion is shorter"
            notes.append(f"{chooser.missing} frames show no such face; {done}.")
            level = logging.WARNING
        tell(own_id(cls), "\n".join(notes), level)
        return io.NodeOutput(motion, audio)


def part_of_file(path: str, start: float, seconds: float, fps: float) -> tuple[Iterator[np.ndarray], float]:
    """Frames (uint8) of a part of a video file, and their rate; seconds 0 = to the end, fps 0 = the file's own."""
    from ..fd2talk_core.motion.clip import MAX_FPS
    from ..fd2talk_core.video.reading import iter_frames, video_fps

    rate = Fraction(fps) if fps else min(video_fps(path), Fraction(int(MAX_FPS)))
    rate = rate.limit_denominator(100_000)
    first = round(start * rate)
    last = first + max(1, round(seconds * rate)) if seconds else None
    return itertools.islice(iter_frames(path, rate), first, last), float(rate)


def sound_of_file(path: str, start: float, seconds: float) -> dict | None:
    """AUDIO of a part of a video file, None when it has no sound; seconds 0 = to the end."""
    from ..fd2talk_core.audio.loading import load_audio

    try:
        samples, rate = load_audio(path)
    except UserError:
        return None
    first = round(start * rate)
    samples = samples[:, first : first + round(seconds * rate) if seconds else None]
    if not samples.size:
        return None
    return {"waveform": torch.from_numpy(samples.copy())[None], "sample_rate": rate}
