"""Motion clips from video: somebody's performance, to be given to another face."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..face.model import FaceModel
from ..face.tracker import FaceTracker
from ..frames.appearance import crop_for
from ..video.reading import iter_frames, video_fps, video_seconds
from .blinks import blink_directions
from .clip import MAX_FPS, MotionClip, checked_fps
from .edit import smooth
from .tools import ease

log = logging.getLogger(__name__)

NO_FACE = ("error", "hold", "skip")
REFERENCES = ("median", "first")
IDENTITY_FRAMES = 300  # more frames than this tell no more about the shape of a face
CHUNK = 500  # frames fitted at once
# The tracker's landmarks follow lids that close with a little more than half of their way; measured against MediaPipe
# on held-back clips, see `complete_blinks`.
LID_GAIN = 1.7
BLINK_FROM = 0.3  # closing beyond the usual state of the lids that is surely a blink, not a squint or jitter
Progress = Callable[[int, int], None]


def track_motion(
    frames: Iterable[np.ndarray],
    fps: float,
    tracker: FaceTracker,
    face_model: FaceModel,
    *,
    no_face: str = "error",
    smoothing: float = 0.3,
    face_index: int = 0,
    reference: str = "median",
    whole_blinks: bool = True,
    progress: Progress | None = None,
    total: int = 0,
) -> MotionClip:
    """Track one face through a video and describe its motion.

    The face's shape is fitted once to the whole video, then expression and pose frame by frame. Of each frame only the
    landmarks are kept, 6 kB, so that `frames` may be a stream of any length.

    Args:
        frames: uint8 RGB (H, W, 3), all of one size.
        fps: their rate, 1..240.
        no_face: what happens with a frame in which the face is not found: "error" refuses the video, "hold" repeats
            the last motion seen (before the first, the first) and marks the frame as invalid, "skip" leaves it out.
        smoothing: strength 0..1 of the One-Euro filter, see `edit.smooth`.
        face_index: which face of the first frame that shows any, 0 = largest; it is followed from there.
        reference: the head pose that becomes the portrait's own pose: "median" of the video, so that the motion swings
            around the portrait's, or the "first" frame with a face, so that it starts in it.
        whole_blinks: let lids that close fall all the way, see `complete_blinks`.
        progress: called with (frames done, frames in total); may raise to cancel.
        total: number of frames, for `progress`, when it is known.

    Raises UserError when there are no frames, no face at all, or no face with that index.
    """
    fps = checked_fps(fps)
    for value, choices, what in ((no_face, NO_FACE, "rule for lost faces"), (reference, REFERENCES, "reference pose")):
        if value not in choices:
            raise UserError(f"There is no {what} called '{value}'. Use one of: {', '.join(choices)}.")
    points, found, size = _follow(frames, fps, tracker, no_face == "error", face_index, progress, total)
    if not found:
        raise UserError("The video has no frames. Choose another, or a longer part of it.")
    if not points:
        raise UserError("No face was found in the video. Use one in which a face is clearly visible from the front.")
    expression, pose = _fit(points, size, face_model)
    pose = pose - (pose.median(0).values if reference == "median" else pose[0])
    valid = torch.tensor(found)
    if no_face == "hold":
        index = (valid.cumsum(0) - 1).clamp(min=0)
        expression, pose = expression[index], pose[index]
    else:
        valid = valid[valid]
    if no_face == "skip" and len(valid) < len(found):
        log.info("%d of %d frames show no face and are left out", len(found) - len(valid), len(found))
    clip = MotionClip(expression, pose, fps, face_model.hash, valid)
    return smooth(complete_blinks(clip, face_model) if whole_blinks else clip, smoothing, "one_euro")


def complete_blinks(clip: MotionClip, face_model: FaceModel, gain: float = LID_GAIN) -> MotionClip:
    """Let the lids of a tracked clip close as far as they did, eye by eye.

    What they close beyond their usual state, the clip's median, is multiplied by `gain`, but never taken beyond shut;
    small movements (squinting, jitter) stay as they are.
    """
    clip.check(face_model.hash)
    directions, reader = blink_directions(face_model)
    closure = clip.expression @ reader
    usual = closure.median(0).values
    closing = (closure - usual).clamp(min=0)
    wanted = closing * (1 + (gain - 1) * ease(closing / BLINK_FROM))
    room = torch.maximum(closing, 1 - usual)
    more = torch.minimum(wanted, room) - closing
    return clip.with_changes(expression=clip.expression + more @ directions.T)


def _follow(
    frames: Iterable[np.ndarray],
    fps: float,
    tracker: FaceTracker,
    strict: bool,
    face_index: int,
    progress: Progress | None,
    total: int,
) -> tuple[list[np.ndarray], list[bool], tuple[int, int]]:
    """Landmarks of the frames with a face, which frames these are, and the frames' (width, height)."""
    size = (0, 0)

    def seen() -> Iterator[np.ndarray]:
        nonlocal size
        for frame in frames:
            size = frame.shape[1], frame.shape[0]
            yield frame

    points, found = [], []
    for face in tracker.track_video(seen(), face_index):
        if face is None and strict:
            raise UserError(
                f"There is no face at {len(found) / fps:.2f} s of the video. "
                "Cut this part out, or choose to hold or skip frames without a face."
            )
        found.append(face is not None)
        if face is not None:
            points.append(face.landmarks)
        if progress:
            progress(len(found), max(total, len(found)))
    return points, found, size


def _fit(points: list[np.ndarray], size: tuple[int, int], face_model: FaceModel) -> tuple[Tensor, Tensor]:
    """Expression (T, 64) and pose (T, 6) of landmarks in pixels.

    Pose counts from the centre of the crop in which a portrait would be seen, here that of the median face: changes of
    size and position mean the same in both.
    """
    x0, y0, side = crop_for(np.median(points[:: max(1, len(points) // IDENTITY_FRAMES)], axis=0), *size)
    origin = np.array([x0, y0, 0], dtype=np.float32)

    def local(part: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(part) - origin)

    spread = np.unique(np.linspace(0, len(points) - 1, IDENTITY_FRAMES).round().astype(int))
    alpha = face_model.fit(local([points[index] for index in spread]), side).alpha
    fits = [
        face_model.fit(local(points[start : start + CHUNK]), side, alpha=alpha)
        for start in range(0, len(points), CHUNK)
    ]
    return torch.cat([fit.beta for fit in fits]), torch.cat([fit.pose for fit in fits])


def track_video(
    path: str | Path,
    tracker: FaceTracker | None = None,
    face_model: FaceModel | None = None,
    *,
    fps: float | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    **options,
) -> MotionClip:
    """Track a video file; see `track_motion` for the options.

    tracker, face_model: the shipped ones when left out. fps: rate of the clip, the video's own when left out (at most
    240). start, seconds: the part of the video to use. Raises UserError when it cannot be read or has no face.
    """
    rate = min(video_fps(path), Fraction(int(MAX_FPS))) if fps is None else Fraction(checked_fps(fps))
    rate = rate.limit_denominator(100_000)
    if not start >= 0 or seconds is not None and not seconds > 0:
        raise UserError("The part of the video is empty. Use a start of 0 or later and a length above 0 seconds.")
    first = round(start * rate)
    last = None if seconds is None else first + max(1, round(seconds * rate))
    length = video_seconds(path)
    if length is not None:
        expected = round(length * rate) if last is None else min(last, round(length * rate))
        options.setdefault("total", max(0, expected - first))
    frames = _between(iter_frames(path, rate), first, last)
    return track_motion(frames, float(rate), tracker or FaceTracker.load(), face_model or FaceModel.load(), **options)


def _between(frames: Iterator[np.ndarray], first: int, last: int | None) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        if last is not None and index >= last:
            return
        if index >= first:
            yield frame
