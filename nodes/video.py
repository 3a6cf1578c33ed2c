"""Combine Frames and Audio."""

from __future__ import annotations

import math
import os
import shutil
import uuid
from typing import TYPE_CHECKING

import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl, Types, io

from .common import CATEGORY, audio_samples, explained, progress_bar, rgb
from .render import FORMATS, quality_input

if TYPE_CHECKING:
    from ..fd2talk_core.video.formats import VideoFormat

MP4, FRAMES = "mp4", "uncompressed frames"
# Save Video stores no ProRes, and what lies beside a file (GIF and so on) would be lost in the temp folder. Images have
# no transparency.
FILE_FORMATS = tuple(name for name in FORMATS if not any(part in name for part in (" and ", "ProRes", "transparent")))
WRITE_BATCH = 8


def even(images: torch.Tensor) -> torch.Tensor:
    """Repeat the last row or column where the size is odd, which yuv420p cannot store."""
    if images.shape[1] % 2:
        images = torch.cat([images, images[:, -1:]], 1)
    if images.shape[2] % 2:
        images = torch.cat([images, images[:, :, -1:]], 2)
    return images


class VideoCombine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkVideoCombine",
            display_name="Combine Frames and Audio",
            category=CATEGORY,
            description="Joins frames and sound to a video without cutting the sound. When the sound is longer than "
            "the frames the last frame is held; when it is shorter, silence follows. Save it with Save Video.",
            search_aliases=["create video", "video combine", "mux audio", "frames to video", "mp4"],
            inputs=[
                io.Image.Input("images", tooltip="The frames. Odd widths and heights are made even by one pixel."),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second. Connect fps of Sample Talking Frames to keep sound and lips together.",
                ),
                io.Combo.Input(
                    "format",
                    options=[MP4, FRAMES, *FILE_FORMATS[1:]],
                    default=MP4,
                    tooltip="mp4: an H.264 file that Save Video copies as it is. Uncompressed frames: "
                    "keeps the images in memory and lets Save Video choose codec and quality. H.265 and VP9 "
                    "make smaller files and take longer.",
                    advanced=True,
                ),
                io.Audio.Input("audio", optional=True, tooltip="The sound. Left out, the video is silent."),
                quality_input(optional=True),
            ],
            outputs=[io.Video.Output("video", tooltip="The video, for Save Video.")],
        )

    @classmethod
    @explained
    def execute(cls, images, fps: float, format: str, audio=None, quality: str = "high") -> io.NodeOutput:
        from ..fd2talk_core.audio.loading import frame_count
        from ..fd2talk_core.video.formats import find_format
        from ..fd2talk_core.video.writer import exact_rate

        images = rgb(images, "frame input")
        samples, rate = audio_samples(audio) if audio is not None else (None, 0)
        exact = exact_rate(fps)
        held = 0
        if samples is not None:
            held = max(0, frame_count(samples.shape[1] / rate, float(exact)) - len(images))
        if format != FRAMES:
            path = write_video(images, exact, held, samples, rate, find_format(format), quality)
            return io.NodeOutput(InputImpl.VideoFromFile(path))

        images = even(images)
        if samples is not None:
            # Core cuts the sound to the frames, so here the frames reach its very end.
            held = max(0, math.ceil(samples.shape[1] / rate * exact) - len(images))
            images = torch.cat([images, images[-1:].expand(held, -1, -1, -1)])
            audio = {"waveform": torch.from_numpy(samples)[None], "sample_rate": rate}
        return io.NodeOutput(InputImpl.VideoFromComponents(Types.VideoComponents(images, exact, audio)))


def write_video(
    images: torch.Tensor, fps, held: int, samples: np.ndarray | None, rate: int, form: VideoFormat, quality: str
) -> str:
    """Encode into ComfyUI's temp folder and return the path; `held` repeats of the last frame are added."""
    from ..fd2talk_core.video.writer import SegmentedWriter

    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    name = uuid.uuid4().hex
    path = os.path.join(folder, f"fd2talk_{name}{form.suffix}")
    total = len(images) + held
    if samples is not None:
        missing = round(total / float(fps) * rate) - samples.shape[1]
        # Within half a frame the two count as equally long.
        if missing > rate / float(fps) / 2:
            samples = np.pad(samples, ((0, 0), (0, missing)))
    progress = progress_bar()
    writer = SegmentedWriter(path, fps, (images.shape[2], images.shape[1]), name, form=form, quality=quality)
    try:
        for start in range(0, total, WRITE_BATCH):
            progress(start, total)
            index = torch.arange(start, min(start + WRITE_BATCH, total)).clamp(max=len(images) - 1)
            writer.write(images[index].float())
        writer.finish(samples, rate)
    finally:
        # The frames are still at hand, so a cancelled file is made again rather than resumed.
        shutil.rmtree(writer.partial, ignore_errors=True)
    progress(total, total)
    return path
