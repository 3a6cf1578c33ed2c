"""What Render Talking Video and Talking Head share: stage 2 straight into a file, under ComfyUI's management."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management as mm
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import io

from ..fd2talk_core.errors import UserError
from .common import LoadedFrameModel, audio_samples, cancel_check, cancellable, loaded, progress_bar, tell
from .frames import BYTES_PER_PIXEL, SharingCoder, batch_that_fits

if TYPE_CHECKING:
    from ..fd2talk_core.frames.appearance import Appearance
    from ..fd2talk_core.motion.clip import MotionClip
    from ..fd2talk_core.render import RenderSettings
    from ..fd2talk_core.video.formats import VideoFormat

ABANDONED_DAYS = 14
DESCRIPTION = "This video is synthetic: a talking head generated with FD2Talk from one picture and a voice recording."


@dataclass(frozen=True)
class Target:
    """Where and how a video is written. prefix: as in core's Save Video; None writes to ComfyUI's temp folder."""

    format: str = "mp4"
    quality: str = "high"
    prefix: str | None = None


def synthetic_tags() -> dict[str, str]:
    """A tag of the file that says in words what it is; the writer adds a comment of its own."""
    return {"description": DESCRIPTION}


def workflow_tags(hidden) -> dict[str, str]:
    """Prompt and workflow, under the names by which the page finds them in a file that is dropped on it."""
    tags = synthetic_tags()
    if args.disable_metadata:
        return tags
    if hidden.prompt is not None:
        tags["prompt"] = json.dumps(hidden.prompt)
    for name, value in (hidden.extra_pnginfo or {}).items():
        tags[name] = json.dumps(value)
    return tags


def place(target: Target, form: VideoFormat, size: tuple[int, int], key: str, batch: int) -> tuple[Path, Path, str]:
    """The file to write, the folder of its parts, and its settings key: those of an interrupted render of the same, if
    there is one.
    """
    from ..fd2talk_core.video.writer import forget_abandoned, unfinished

    if target.prefix is None:
        # The name says what is in it, so that the next run of the same finds what this one leaves: not in the temp
        # folder, which ComfyUI empties when it starts.
        folder, start, name = folder_paths.get_temp_directory(), "fd2talk_", f"fd2talk_{key[:24]}"
        parts = Path(folder_paths.get_system_user_directory("fd2talk")) / "unfinished"
        forget_abandoned(parts, ABANDONED_DAYS)
    else:
        try:
            folder, start, counter, _, _ = folder_paths.get_save_image_path(
                target.prefix, folder_paths.get_output_directory(), *size
            )
        except OSError as error:
            raise UserError(
                f"The folder for {target.prefix} cannot be made ({error}). Choose another filename_prefix."
            ) from error
        name, parts = f"{start}_{counter:05}_", Path(folder)
    # A resumed render keeps its batch size, whatever memory is free now: it can change a network's last bits.
    file, key = unfinished(parts, start, form.suffix, key) or (parts / (name + form.suffix), f"{key} batch {batch}")
    return Path(folder) / file.name, file.with_name(f"{file.name}.partial"), key


def render_to_file(
    frame_model: LoadedFrameModel,
    appearance: Appearance,
    motion: MotionClip,
    audio: dict | None,
    settings: RenderSettings,
    target: Target,
    hidden,
    *,
    batch_size: int = 0,
    vae=None,
    live: bool = True,
    notes: tuple[str, ...] = (),
) -> Path:
    """Render a motion clip and its sound into a video file and return its path.

    settings, target: how and where. hidden: of the node; its unique_id gets remarks. live: show frames on the node.
    A cancelled or failed render leaves what it made beside the file, says where, and is gone on with by the next call
    with the same inputs.
    """
    from ..fd2talk_core.frames.limits import soft_limit
    from ..fd2talk_core.frames.vae import checked_coder
    from ..fd2talk_core.render import even_lengths, render_frames, render_key, video_size
    from ..fd2talk_core.video.formats import MAX_ANIMATION_SECONDS, find_format
    from ..fd2talk_core.video.writer import SegmentedWriter, exact_rate

    form, notes = find_format(target.format), list(notes)
    motion.check(frame_model.face_model.hash)
    samples, rate = (None, 0) if audio is None else audio_samples(audio)
    fps = exact_rate(motion.fps)
    motion, samples, note = even_lengths(motion, samples, rate, float(fps))
    notes += [note] if note else []
    motion, note = soft_limit(motion, frame_model.face_model, appearance)
    notes += [note] if note else []
    seconds = len(motion) / fps
    if form.beside in ("gif", "webp") and seconds > MAX_ANIMATION_SECONDS:
        raise UserError(
            f"The video lasts {float(seconds):.0f} seconds, too long for a {form.beside.upper()}. "
            f"Use at most {MAX_ANIMATION_SECONDS} seconds, or choose the format mp4."
        )
    if form.alpha and appearance.opacity is None:
        raise UserError(
            f"The format {form.name} is for portraits with transparency, and this one has none. Connect MASK of Load "
            "Image to transparency of Encode Portrait, or choose another format."
        )
    size = video_size(appearance, settings.paste)
    coder, weights = None, [frame_model.patcher.model]
    if vae is not None:
        checked = checked_coder(vae, loaded(frame_model.patcher).autoencoder, appearance.crop)
        coder = SharingCoder(checked, frame_model.patcher)
        weights.append(vae.first_stage_model)
    key = render_key(
        torch.nn.ModuleList(weights), appearance, motion, settings, samples, rate, form.name, target.quality,
        str(frame_model.dtype), frame_model.patcher.load_device.type,
    )  # fmt: skip
    batch = batch_that_fits(frame_model.patcher, batch_size, len(motion), appearance.size)
    out, parts, key = place(target, form, size, key, batch)
    batch = int(key.rpartition(" ")[2])
    network = loaded(frame_model.patcher, batch * appearance.size**2 * BYTES_PER_PIXEL)
    check = cancel_check()
    progress = progress_bar(check)
    writer = SegmentedWriter(
        out, fps, size, key, form=form, quality=target.quality, metadata=workflow_tags(hidden), audio=samples,
        rate=rate, partial=parts,
    )  # fmt: skip
    if writer.frames_done:
        notes.append(f"An interrupted render goes on after frame {writer.frames_done}.")
    if notes:
        tell(hidden.unique_id, "\n".join(notes))
    progress(writer.frames_done, len(motion))
    try:
        with cancellable(network, check), writer:
            render_frames(
                network,
                frame_model.face_model,
                appearance,
                motion,
                writer,
                settings,
                batch_size=batch,
                dtype=frame_model.dtype,
                coder=coder,
                progress=progress,
                preview=(lambda picture: progress(writer.frames_written, len(motion), picture)) if live else None,
                out_of_memory=mm.OOM_EXCEPTION,
                free_memory=mm.soft_empty_cache,
            )
            made = writer.finish(check=check)
    except UserError as error:
        raise UserError(f"{error}{_kept(writer, len(motion))}") from error
    except BaseException:  # a cancel is one
        if writer.kept:
            tell(hidden.unique_id, _kept(writer, len(motion)).strip())
        raise
    if target.prefix is not None:
        saved = [os.path.relpath(path, folder_paths.get_output_directory()) for path in (made, writer.beside) if path]
        notes.append(f"Saved in the output folder: {', '.join(saved)}")
        tell(hidden.unique_id, "\n".join(notes), logging.INFO)
    return made


def _kept(writer, total: int) -> str:
    if not writer.kept:
        return ""
    return f" {writer.frames_written} of {total} frames are made and play in {writer.kept}; run again to go on."


HIDDEN = [io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id]
