"""Writing a video of any length in constant memory, resumable, with sound of exact length."""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, PngImagePlugin

from ..errors import UserError
from .animation import write_gif, write_webp
from .formats import H264, MAX_ANIMATION_SECONDS, VideoFormat
from .muxing import Muxer, playable_audio, segment_packets
from .reading import iter_frames

log = logging.getLogger(__name__)

COMMENT = "Synthetic video made with FD2Talk"
STATE_VERSION = "2"
SEGMENT_FRAMES = 96
PNG_LEVEL = 4
BT709, LIMITED_RANGE = 1, 1
MAX_SIDE = 8192


def exact_rate(fps: Fraction | float) -> Fraction:
    """Frame rate as a fraction; 23.976, 29.97 and 59.94 become the n·1000/1001 that they stand for."""
    fps = Fraction(fps)
    if not 1 <= fps <= 240:
        raise UserError(f"The frame rate is {float(fps):g} per second. Use a rate from 1 to 240.")
    for whole in (24, 30, 48, 60, 120):
        ntsc = Fraction(whole * 1000, 1001)
        if abs(fps - ntsc) < Fraction(2, 1000) and fps != whole:
            return ntsc
    return fps.limit_denominator(1001)


def _move(source: Path, target: Path) -> None:
    """Move a file or folder, also to another disk; the target appears only when it is whole."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(f"{target.name}.copy")
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)  # a copy that was killed half-way is gone on with
        else:
            shutil.copyfile(source, copy)
        os.replace(copy, target)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"The video cannot be written to {path} ({error}). Choose a writable folder with enough free space."
        ) from error


def unfinished(folder: str | Path, stem_start: str, suffix: str, key_start: str) -> tuple[Path, str] | None:
    """An interrupted render in `folder`: the file it was to become, and its settings key; None when there is none.

    stem_start, suffix: how that file's name begins and ends. key_start: how its settings key begins.
    """
    for state_file in sorted(Path(folder).glob(f"{glob.escape(stem_start)}*{suffix}.partial/state.json")):
        try:
            key = json.loads(state_file.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if str(key).startswith(key_start):
            return state_file.parent.with_suffix(""), key
    return None


def forget_abandoned(folder: str | Path, days: float) -> None:
    """Remove interrupted renders in `folder` at which nobody worked for so many days."""
    oldest = time.time() - days * 24 * 3600
    for state_file in Path(folder).glob("*.partial/state.json"):
        parts = state_file.parent
        try:
            newest = max(path.stat().st_mtime for path in (parts, *parts.iterdir()))
        except OSError:  # somebody is at work on it
            continue
        if newest < oldest:
            shutil.rmtree(parts, ignore_errors=True)


class SegmentedWriter:
    """Writes frames in finished segments, then joins them with the sound.

    Every `segment_frames` frames become one finished file in the folder `partial`, and are added, with their sound, to
    `so_far.mp4` (or .webm, .mov) in it, which plays at any time, even after the program was killed. A render
    that was cancelled or crashed goes on after its last finished segment when it is started again with the same
    `settings_key`, fps, size and format, and gives the same frames as an uninterrupted one. Used as a context manager,
    an exception (a cancelled render too) brings so_far.mp4 to the last frame; `kept` is then its path.

    Args:
        out: the file to make, with the format's suffix; it appears only when complete.
        fps: frames per second, 1..240.
        size: (width, height) of the frames, px; odd sizes are padded to even by repeating the last row or column.
        settings_key: anything that identifies what is rendered (inputs, seed, settings, models).
        segment_frames: frames per segment; a multiple of the batch size, so that a resumed render forms the same
            batches, whose size can change a network's last bits.
        form, quality: see `formats`. GIF, WebP and PNG are made beside the video, in its name.
        metadata: tags of the file beside the comment which says that the video is synthetic.
        audio, rate: the sound, as in `finish`, if it is known already.
        partial: folder for the parts; None is `<out>.partial`. It may be on another disk.

    Raises UserError when the folder cannot be written or the disk is full.
    """

    def __init__(
        self,
        out: str | Path,
        fps: Fraction | float,
        size: tuple[int, int],
        settings_key: str,
        segment_frames: int = SEGMENT_FRAMES,
        *,
        form: VideoFormat = H264,
        quality: str = "high",
        metadata: dict[str, str] | None = None,
        audio: np.ndarray | None = None,
        rate: int = 0,
        partial: str | Path | None = None,
    ):
        self.out = Path(out)
        self.fps = exact_rate(fps)
        self.width, self.height = size
        if max(size) > MAX_SIDE:
            raise UserError(
                f"The video would be {self.width} x {self.height} pixels, more than H.264 players take "
                f"({MAX_SIDE}). Use a smaller portrait."
            )
        self.segment_frames, self.form, self.quality = segment_frames, form, quality
        self.metadata = {"comment": COMMENT, **(metadata or {})}
        self._options = form.encoder_options(quality)
        self._samples, self._rate = playable_audio(audio, rate, form.sound)
        self.partial = Path(partial) if partial else self.out.with_name(self.out.name + ".partial")
        self.so_far = self.partial / f"so_far{form.suffix}"
        self.kept: Path | None = None
        self._stream = self._container = self._growing = None
        with _write_errors(self.out):
            self.frames_done = self._resume(settings_key)
            self.frames_written = self.frames_done
            for index in range(self.frames_done // segment_frames):
                self._grow(index)

    def _resume(self, settings_key: str) -> int:
        state = {
            "format": STATE_VERSION,
            "settings": settings_key,
            "fps": str(self.fps),
            "size": [self.width, self.height],
            "segment_frames": self.segment_frames,
            "codec": [self.form.name, self.form.encoder, self._options],
        }
        state_file = self.partial / "state.json"
        try:
            same = json.loads(state_file.read_text(encoding="utf-8")) == state
        except (OSError, ValueError):
            same = False
        if not same:
            if self.partial.is_dir():
                shutil.rmtree(self.partial)
            self.partial.mkdir(parents=True)
            state_file.write_text(json.dumps(state, indent=1), encoding="utf-8")
        finished = 0
        while self._is_whole(finished):
            finished += 1
        keep = {self._segment(index) for index in range(finished)} | {state_file, self._stills}
        for path in self.partial.iterdir():
            if path not in keep:
                path.unlink()
        if self.form.beside == "png":
            self._stills.mkdir(exist_ok=True)
        if finished:
            log.info("resuming %s after %d frames", self.out.name, finished * self.segment_frames)
        return finished * self.segment_frames

    def _is_whole(self, index: int) -> bool:
        path, first = self._segment(index), index * self.segment_frames
        if not path.is_file():
            return False
        if self.form.beside == "png":
            if not all(self._still(number).is_file() for number in range(first, first + self.segment_frames)):
                return False
        try:
            return sum(1 for _ in segment_packets(path, self.fps, 0)) == self.segment_frames
        except av.error.FFmpegError:
            return False

    def _segment(self, index: int) -> Path:
        return self.partial / f"segment_{index:06d}{self.form.segment_suffix}"

    @property
    def _current(self) -> Path:
        return self.partial / f"current{self.form.segment_suffix}"

    @property
    def _stills(self) -> Path:
        return self.partial / "frames"

    def _still(self, number: int) -> Path:
        return self._stills / f"{number + 1:06d}.png"

    @property
    def duration(self) -> float:
        """Length of the frames written so far, in seconds."""
        return float(self.frames_written / self.fps)

    def _open(self) -> None:
        self._container = av.open(str(self._current), "w")
        stream = self._container.add_stream(self.form.encoder, rate=self.fps, options=dict(self._options))
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = self.form.pix_fmt
        context = stream.codec_context
        if self.form.tag:
            context.codec_tag = self.form.tag
        context.time_base = 1 / self.fps
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        self._stream = stream

    def _close(self) -> None:
        if self._container is None:
            return
        container, stream, self._container, self._stream = self._container, self._stream, None, None
        try:
            container.mux(stream.encode(None))
        finally:
            container.close()

    def _grow(self, index: int) -> None:
        """Add a finished segment to the file that plays at any time."""
        segment = self._segment(index)
        if self._growing is None:
            self._growing = self._muxer(self.so_far, segment, self._samples, self._rate, growing=True)
        self._growing.add(segment, index * self.segment_frames)

    def _stop_growing(self) -> None:
        if self._growing is not None:
            growing, self._growing = self._growing, None
            growing.close()

    def write(self, frames) -> None:
        """Append frames: tensor or array (B, H, W, 3 or 4), uint8 or float in 0..1, RGB or RGBA, not premultiplied.

        Alpha is kept by formats that can (`keeps_alpha`), and dropped by the others.
        """
        frames = np.asarray(frames.detach().cpu() if hasattr(frames, "detach") else frames)
        if frames.shape[1:3] != (self.height, self.width) or frames.shape[3:] not in ((3,), (4,)):
            raise ValueError(f"frames are {frames.shape}, expected (B, {self.height}, {self.width}, 3 or 4)")
        with _write_errors(self.out):
            for picture in frames:
                if picture.dtype != np.uint8:
                    picture = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
                self._write_one(picture)

    def _write_one(self, picture: np.ndarray) -> None:
        if self._container is None:
            self._open()
        if self.form.beside == "png":
            self._write_still(picture)
        if self.width % 2 or self.height % 2:
            picture = np.pad(picture, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        if not self.form.alpha:
            picture = picture[..., :3]
        kind = "rgba" if picture.shape[2] == 4 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)
        frame = frame.reformat(format=self.form.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts = self.frames_written % self.segment_frames
        frame.time_base = 1 / self.fps
        self._container.mux(self._stream.encode(frame))
        self.frames_written += 1
        if self.frames_written % self.segment_frames == 0:
            self._close()
            index = self.frames_written // self.segment_frames - 1
            os.replace(self._current, self._segment(index))
            self._grow(index)

    def _write_still(self, picture: np.ndarray) -> None:
        # The workflow is in the first picture and in the video; in each of thousands it would only take space.
        tags = self.metadata if self.frames_written == 0 else {"comment": COMMENT}
        info = PngImagePlugin.PngInfo()
        for name, value in tags.items():
            info.add_text(name, value)
        Image.fromarray(picture).save(self._still(self.frames_written), pnginfo=info, compress_level=PNG_LEVEL)

    def _muxer(
        self, target: Path, template: Path, samples: np.ndarray | None, rate: int, growing: bool = False
    ) -> Muxer:
        return Muxer(target, template, self.form, self.fps, samples, rate, self.metadata, growing)

    def _join(self, target: Path, samples: np.ndarray | None, rate: int) -> bool:
        """Join all that is written into `target`; False when there is nothing."""
        self._close()
        segments = [self._segment(i) for i in range(self.frames_written // self.segment_frames)]
        if self.frames_written % self.segment_frames:
            segments.append(self._current)
        if not segments:
            return False
        muxer = self._muxer(target, segments[0], samples, rate)
        try:
            for index, segment in enumerate(segments):
                muxer.add(segment, index * self.segment_frames)
        finally:
            muxer.close()
        return True

    def _sound(self, audio: np.ndarray | None, rate: int) -> tuple[np.ndarray | None, int]:
        return (self._samples, self._rate) if audio is None else playable_audio(audio, rate, self.form.sound)

    def finish(self, audio: np.ndarray | None = None, rate: int = 0, check: Callable[[], None] | None = None) -> Path:
        """Join all segments without re-encoding, add the sound, move the result to `out`.

        audio: float32 (C, N) or (N,) in -1..1; every sample of it is kept. None takes the sound that the writer was
            made with; without any the video is silent.
        rate: sample rate in Hz.
        check: called per frame while a GIF or WebP is made; may raise to cancel.
        """
        if self.frames_written == 0:
            raise UserError("The video has no frames. Use longer audio.")
        samples, rate = self._sound(audio, rate)
        with _write_errors(self.out):
            self._stop_growing()
            final = self.partial / f"final{self.form.suffix}"
            self._join(final, samples, rate)
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._finish_beside(final, check)
            _move(final, self.out)
        shutil.rmtree(self.partial, ignore_errors=True)
        return self.out

    @property
    def beside(self) -> Path | None:
        """The GIF, WebP or folder of PNG that is made beside the video."""
        if self.form.beside == "png":
            return self.out.with_suffix("")
        return self.out.with_suffix(f".{self.form.beside}") if self.form.beside else None

    def _finish_beside(self, video: Path, check: Callable[[], None] | None) -> None:
        if self.form.beside == "png":
            if self.beside.is_dir():
                shutil.rmtree(self.beside)
            _move(self._stills, self.beside)
        elif self.form.beside:
            if self.duration > MAX_ANIMATION_SECONDS:
                raise UserError(
                    f"A {self.form.beside.upper()} of {self.duration:.0f} seconds would be very large. Use at most "
                    f"{MAX_ANIMATION_SECONDS} seconds, or choose the format mp4."
                )
            made, size = self.partial / f"final.{self.form.beside}", (self.width, self.height)
            if self.form.beside == "gif":
                write_gif(video, made, self.fps, size, self.quality, self.metadata["comment"], check)
            else:
                write_webp(video, made, self.fps, size, self.quality, self.metadata, check)
            _move(made, self.beside)

    def keep_playable(self, audio: np.ndarray | None = None, rate: int = 0) -> Path | None:
        """Bring so_far.mp4, which plays, to the last frame; None when there is nothing.

        The finished segments stay, so the render can still be resumed by a new writer. audio, rate: as in `finish`,
        cut here to the frames' length.
        """
        samples, rate = self._sound(audio, rate)
        if samples is not None:
            samples = samples[:, : max(1, round(self.duration * rate))]
        with _write_errors(self.out):
            self._stop_growing()
            # Should the disk be full now, the older so_far remains.
            target = self.partial / f"joined{self.form.suffix}"
            if not self._join(target, samples, rate):
                return None
            os.replace(target, self.so_far)
        return self.so_far

    def __enter__(self) -> SegmentedWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            return
        # The first error is the one to report: a second one here (a full disk, say) only gets logged.
        try:
            self.kept = self.keep_playable()
        except UserError as second:
            log.warning("the frames so far could not be joined: %s", second)
            self.kept = self.so_far if self.so_far.is_file() else None
        if self.kept:
            log.warning("stopped after %d frames; they play in %s", self.frames_written, self.kept)


def contact_sheet(video: str | Path, out_jpg: str | Path, columns: int = 6, rows: int = 3, width: int = 256) -> Path:
    """Save columns × rows frames, evenly spread over a video, as one JPEG.

    width: of one thumbnail in px. Raises UserError when the video cannot be read or the JPEG cannot be written.
    """
    total = sum(1 for _ in iter_frames(video, None))
    wanted = [int((i + 0.5) * total / (columns * rows)) for i in range(columns * rows)]
    sheet = None
    for number, picture in enumerate(iter_frames(video, None)):
        if number not in wanted:
            continue
        height = round(picture.shape[0] * width / picture.shape[1])
        thumbnail = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        if sheet is None:
            sheet = Image.new("RGB", (columns * width, rows * height))
        # A short video shows the same frame in several places.
        for place in (i for i, index in enumerate(wanted) if index == number):
            sheet.paste(thumbnail, (place % columns * width, place // columns * height))
    out_jpg = Path(out_jpg)
    with _write_errors(out_jpg):
        out_jpg.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out_jpg, "JPEG", quality=90)
    return out_jpg
