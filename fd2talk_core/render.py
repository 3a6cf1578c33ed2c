"""Stage 2 into a file: frames are sampled, pasted and encoded in constant memory, and an interrupted render goes on."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from .ahead import ahead
from .audio.loading import frame_count
from .device import usual_batch
from .frames.appearance import Appearance
from .frames.detail import DetailLayer
from .frames.limits import torso_share
from .frames.model import FrameModel
from .frames.sampling import sample_frames
from .motion.clip import MotionClip
from .video.matte import MovingMatte, with_alpha
from .video.people import SparingCompositor
from .video.writer import SEGMENT_FRAMES, SegmentedWriter

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class RenderSettings:
    """How frames are made: diffusion steps (1..50), the two guidance scales (1 = off), seed, "follow" or "stay" for the
    torso, and whether the face is pasted back into the whole picture.
    """

    steps: int = 2
    motion_guidance: float = 1.0
    appearance_guidance: float = 1.0
    seed: int = 0
    torso: str = "follow"
    paste: bool = True


def video_size(appearance: Appearance, paste: bool) -> tuple[int, int]:
    """(width, height) in px of a render: the whole picture's, or the face crop's."""
    height, width = appearance.picture.shape[:2]
    return (width, height) if paste else (appearance.size, appearance.size)


def whole_batch(frames: int) -> int:
    """The largest batch size of at most `frames` (1 or more) that fills a segment of the writer exactly.

    A render that is resumed after a segment then has the same batches as one that was never interrupted.
    """
    return next(size for size in range(max(1, min(frames, SEGMENT_FRAMES)), 0, -1) if SEGMENT_FRAMES % size == 0)


def with_length(clip: MotionClip, frames: int) -> MotionClip:
    """The clip cut to so many frames, or its last moment held."""
    index = torch.arange(frames).clamp(max=len(clip) - 1)
    return clip.with_changes(expression=clip.expression[index], pose=clip.pose[index], valid=clip.valid[index])


def even_lengths(
    clip: MotionClip, samples: np.ndarray | None, rate: int, fps: float
) -> tuple[MotionClip, np.ndarray | None, str | None]:
    """Motion and sound of equal length, to within half a frame; neither is cut by more than one frame.

    Longer sound holds the motion's last moment, longer motion gets silence at its end.

    samples: (C, N) or None. rate: Hz. fps: exact frame rate of the video. Also returns a sentence for the user when
    the two differed by more than a frame.
    """
    if samples is None:
        return clip, None, None
    frames = frame_count(samples.shape[-1] / rate, fps)
    if len(clip) <= frames + 1:
        note = None
        if frames - len(clip) > 1:
            note = f"The motion ({len(clip) / fps:.2f} s) is shorter than the audio; its end is held."
        return with_length(clip, frames), samples, note
    missing = round(len(clip) / fps * rate) - samples.shape[-1]
    note = f"The audio ({samples.shape[-1] / rate:.2f} s) is shorter than the motion; silence follows it."
    return clip, np.pad(samples, ((0, 0), (0, missing))), note


def render_key(model: torch.nn.Module, appearance: Appearance, motion: MotionClip, *settings) -> str:
    """Identifies a render: a resumed one must have the same picture, face, motion, weights and settings.

    settings: anything with a telling repr, and arrays.
    """
    arrays = [value for value in settings if isinstance(value, np.ndarray)]
    others = [value for value in settings if not isinstance(value, np.ndarray)]
    faces = (appearance.box, appearance.others)
    known = (others, appearance.crop_box, appearance.size, faces, motion.fps, motion.face_model)
    digest = hashlib.sha256(repr(known).encode())
    values = (appearance.alpha, appearance.beta, appearance.pose, motion.expression, motion.pose)
    for tensor in (*values, *model.state_dict().values()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(tensor.view(torch.uint8).numpy() if tensor.ndim else repr(tensor.item()).encode())
    own = [appearance.picture] if appearance.opacity is None else [appearance.picture, appearance.opacity]
    for array in (*own, *arrays):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _in_mode(inference: bool, items: Iterable[T]) -> Iterator[T]:
    """The items, each made in or out of inference mode, which belongs to a thread.

    The mode is left before each yield: a generator that is closed by another thread would end it there instead.
    """
    items = iter(items)
    while True:
        with torch.inference_mode(inference):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def render_frames(
    model: FrameModel,
    face_model,
    appearance: Appearance,
    motion: MotionClip,
    writer: SegmentedWriter,
    settings: RenderSettings,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    coder=None,
    progress: Callable[[int, int], None] | None = None,
    preview: Callable[[np.ndarray], None] | None = None,
    out_of_memory: type[BaseException] | tuple = (),
    free_memory: Callable[[], None] | None = None,
) -> None:
    """Make all frames of `motion` that the writer does not have yet, and write them; the caller calls finish.

    The picture's other faces stay as they are where the appearance knows of them, and where it has an opacity and the
    writer's format can keep one, the frames get it, moved along with the head.

    Args:
        motion: at the video's rate and length, within its limits (`soft_limit`).
        batch_size: frames made at once, None = what suits the device; made a divisor of the writer's segments, see
            `whole_batch`.
        dtype, coder: as in `sample_frames`.
        progress: called with (frames written, frames in all) after each frame that is pasted; may raise to cancel.
        preview: called with the newest frame, uint8 (H, W, 3), once per batch.
        out_of_memory: exceptions after which smaller batches are tried, once free_memory was called.
    """
    total, batch = len(motion), whole_batch(batch_size or usual_batch(next(model.parameters()).device))
    torso = torso_share(settings.torso)
    compositor = SparingCompositor(appearance) if settings.paste else None
    detail = DetailLayer(face_model, appearance, torso) if settings.paste else None
    inference = torch.is_inference_mode_enabled()
    transparent = writer.form.keeps_alpha and appearance.opacity is not None
    matte = MovingMatte(appearance, compositor) if transparent else None

    def write(pictures, alpha: torch.Tensor | None) -> None:
        writer.write(pictures if alpha is None else with_alpha(pictures, alpha))
        if progress:
            progress(writer.frames_written, total)

    while writer.frames_written < total:
        flows: deque[torch.Tensor] = deque()
        batches = sample_frames(
            model,
            face_model,
            appearance,
            motion,
            steps=settings.steps,
            motion_guidance=settings.motion_guidance,
            appearance_guidance=settings.appearance_guidance,
            seed=settings.seed,
            batch_size=batch,
            start=writer.frames_written,
            dtype=dtype,
            coder=coder,
            torso=torso,
            on_flow=flows.append,
        )
        full = False
        try:
            # The next batch is made while this one is pasted and encoded.
            with closing(ahead(_in_mode(inference, batches), depth=1)) as made_ahead:
                for frames in made_ahead:
                    first, flow = writer.frames_written, flows.popleft()
                    alphas = matte.frames(flow) if matte else itertools.repeat(None)
                    if compositor is None:
                        newest = frames[-1]
                        write(frames, torch.stack(list(alphas)) if matte else None)
                    else:  # one by one, because a portrait may have many megapixels
                        pasted = compositor.stream(frames, detail(motion, first, len(frames), flow))
                        for newest, alpha in zip(pasted, alphas, strict=False):
                            write(newest, None if alpha is None else alpha[None])
                        newest = newest[0]
                    if preview:
                        preview(_as_uint8(newest))
        except out_of_memory:
            if batch == 1:
                raise
            full = True
        # Not in the except clause: while it lasts, the exception holds all that the batch had allocated.
        if full:
            batch = whole_batch(batch // 2)
            log.warning("not enough memory; going on with %d frames at once", batch)
            if free_memory:
                free_memory()


def _as_uint8(picture) -> np.ndarray:
    picture = np.asarray(picture)
    return picture if picture.dtype == np.uint8 else (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
