"""Writing a video of any length in constant memory, resumable, with sound of exact length."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np
from PIL import Image

from ..errors import UserError
from .reading import iter_frames

log = logging.getLogger(__name__)

COMMENT = "Synthetic video made with FD2Talk"
FORMAT = "1"
# The number of encoder threads changes x264's output; a resumed render must not depend on the machine's cores.
CODEC_OPTIONS = {"crf": "16", "preset": "veryfast", "threads": "4"}
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_FRAME = 1024
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


def _packets(path: Path, fps: Fraction, start: int) -> Iterator[tuple[av.Packet, int, int]]:
    """Video packets of one segment with presentation and decoding time as frame numbers of the whole video."""
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is None:
                continue
            pts, dts = (round(value * packet.time_base * fps) for value in (packet.pts, packet.dts))
            yield packet, start + pts, start + dts


class SegmentedWriter:
    """Writes H.264 frames in finished segments, then joins them with the sound.

    Every `segment_frames` frames become one finished file in `<out>.partial/`. A render that was cancelled or
    crashed goes on after its last finished segment when it is started again with the same `settings_key`, fps and
    size, and gives the same bytes as an uninterrupted one. Used as a context manager, an exception (a cancelled
    render too) leaves `<out>.partial/so_far.mp4`, which plays.

    Args:
        out: the .mp4 file to make; it appears only when complete.
        fps: frames per second, 1..240.
        size: (width, height) of the frames, px; odd sizes are padded to even by repeating the last row or column.
        settings_key: anything that identifies what is rendered (inputs, seed, settings, models).
        segment_frames: frames per segment; a multiple of the batch size, so that a resumed render forms the same
            batches, whose size can change a network's last bits.

    Raises UserError when the folder cannot be written or the disk is full.
    """

    def __init__(
        self,
        out: str | Path,
        fps: Fraction | float,
        size: tuple[int, int],
        settings_key: str,
        segment_frames: int = 96,
    ):
        self.out = Path(out)
        self.fps = exact_rate(fps)
        self.width, self.height = size
        if max(size) > MAX_SIDE:
            raise UserError(
                f"The video would be {self.width} x {self.height} pixels, more than H.264 players take "
                f"({MAX_SIDE}). Use a smaller portrait."
            )
        self.segment_frames = segment_frames
        self.partial = self.out.with_name(self.out.name + ".partial")
        self._stream = self._container = None
        with _write_errors(self.out):
            self.frames_done = self._resume(settings_key)
        self.frames_written = self.frames_done

    def _resume(self, settings_key: str) -> int:
        state = {
            "format": FORMAT,
            "settings": settings_key,
            "fps": str(self.fps),
            "size": [self.width, self.height],
            "segment_frames": self.segment_frames,
            "codec": CODEC_OPTIONS,
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
        while self._is_whole(self._segment(finished)):
            finished += 1
        keep = {self._segment(index) for index in range(finished)} | {state_file}
        for path in self.partial.iterdir():
            if path not in keep:
                path.unlink()
        if finished:
            log.info("resuming %s after %d frames", self.out.name, finished * self.segment_frames)
        return finished * self.segment_frames

    def _is_whole(self, path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            return sum(1 for _ in _packets(path, self.fps, 0)) == self.segment_frames
        except av.error.FFmpegError:
            return False

    def _segment(self, index: int) -> Path:
        return self.partial / f"segment_{index:06d}.mp4"

    @property
    def duration(self) -> float:
        """Length of the frames written so far, in seconds."""
        return float(self.frames_written / self.fps)

    def _open(self) -> None:
        self._container = av.open(str(self.partial / "current.mp4"), "w")
        stream = self._container.add_stream("libx264", rate=self.fps, options=dict(CODEC_OPTIONS))
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
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

    def write(self, frames) -> None:
        """Append frames: tensor or array (B, H, W, 3), uint8 or float in 0..1, RGB."""
        frames = np.asarray(frames.detach().cpu() if hasattr(frames, "detach") else frames)
        if frames.shape[1:] != (self.height, self.width, 3):
            raise ValueError(f"frames are {frames.shape}, expected (B, {self.height}, {self.width}, 3)")
        with _write_errors(self.out):
            for picture in frames:
                if picture.dtype != np.uint8:
                    picture = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
                self._write_one(picture)

    def _write_one(self, picture: np.ndarray) -> None:
        if self._container is None:
            self._open()
        if self.width % 2 or self.height % 2:
            picture = np.pad(picture, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts = self.frames_written % self.segment_frames
        frame.time_base = 1 / self.fps
        self._container.mux(self._stream.encode(frame))
        self.frames_written += 1
        if self.frames_written % self.segment_frames == 0:
            self._close()
            os.replace(self.partial / "current.mp4", self._segment(self.frames_written // self.segment_frames - 1))

    def _join(self, target: Path, segments: list[Path], samples: np.ndarray | None, rate: int) -> None:
        # The edit list that hides the encoder's delay counts in this unit; the default, milliseconds, would round.
        options = {"movflags": "+faststart", "movie_timescale": str(rate or 90_000)}
        with av.open(str(target), "w", options=options) as container:
            container.metadata["comment"] = COMMENT
            with av.open(str(segments[0])) as first:
                video = container.add_stream_from_template(first.streams.video[0])
            video.time_base = 1 / self.fps
            sound = _AudioTrack(container, samples, rate) if samples is not None else None
            for index, segment in enumerate(segments):
                for packet, pts, dts in _packets(segment, self.fps, index * self.segment_frames):
                    if sound:
                        sound.mux_until(float(pts / self.fps))
                    packet.stream, packet.time_base = video, 1 / self.fps
                    packet.pts, packet.dts, packet.duration = pts, dts, 1
                    container.mux(packet)
            if sound:
                sound.mux_rest()

    def finish(self, audio: np.ndarray | None = None, rate: int = 0) -> Path:
        """Join all segments without re-encoding, add the sound, move the result to `out`.

        audio: float32 (C, N) or (N,) in -1..1; every sample of it is kept. None writes a silent video.
        rate: sample rate in Hz.
        """
        if self.frames_written == 0:
            raise UserError("The video has no frames. Use longer audio.")
        samples, rate = _playable_audio(audio, rate)
        with _write_errors(self.out):
            self._close()
            segments = [self._segment(i) for i in range(self.frames_written // self.segment_frames)]
            if self.frames_written % self.segment_frames:
                segments.append(self.partial / "current.mp4")
            final = self.partial / "final.mp4"
            self._join(final, segments, samples, rate)
            os.replace(final, self.out)
        shutil.rmtree(self.partial, ignore_errors=True)
        return self.out

    def keep_playable(self, audio: np.ndarray | None = None, rate: int = 0) -> Path | None:
        """Join what is written so far into `<out>.partial/so_far.mp4`, which plays; None when there is nothing.

        The finished segments stay, so the render can still be resumed by a new writer. audio, rate: as in `finish`,
        cut here to the frames' length.
        """
        with _write_errors(self.out):
            self._close()
            segments = [self._segment(i) for i in range(self.frames_written // self.segment_frames)]
            if self.frames_written % self.segment_frames:
                segments.append(self.partial / "current.mp4")
            if not segments:
                return None
            if audio is not None:
                audio = np.atleast_2d(audio)[:, : max(1, round(self.duration * rate))]
            samples, rate = _playable_audio(audio, rate)
            target = self.partial / "so_far.mp4"
            self._join(target, segments, samples, rate)
        return target

    def __enter__(self) -> SegmentedWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            return
        # The first error is the one to report: a second one here (a full disk, say) only gets logged.
        try:
            kept = self.keep_playable()
        except UserError as second:
            log.warning("the frames so far could not be joined: %s", second)
        else:
            if kept:
                log.warning("stopped after %d frames; they play in %s", self.frames_written, kept)


def _playable_audio(audio: np.ndarray | None, rate: int) -> tuple[np.ndarray | None, int]:
    """Bring audio to what AAC takes: one or two channels, float32 -1..1, a known sample rate."""
    if audio is None:
        return None, rate
    samples = np.atleast_2d(np.asarray(audio, dtype=np.float32))
    if not np.isfinite(samples).all():
        raise UserError("The audio contains values that are not numbers (NaN or infinity). Export it again.")
    if samples.shape[0] > 2:
        samples = samples.mean(axis=0, keepdims=True)
    if rate not in AAC_RATES:
        target = next((known for known in reversed(AAC_RATES) if known >= rate), AAC_RATES[0])
        samples, rate = librosa.resample(samples, orig_sr=rate, target_sr=target), target
    return np.clip(samples, -1, 1), rate


class _AudioTrack:
    """AAC track that is muxed in step with the video, so that neither waits in memory for the other."""

    def __init__(self, container: av.container.OutputContainer, samples: np.ndarray, rate: int):
        self._container, self._samples, self._rate = container, samples, rate
        self._layout = "mono" if samples.shape[0] == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=rate, layout=self._layout)
        self._stream.bit_rate = min(96_000, 4 * rate) * samples.shape[0]
        self._position = 0

    def mux_until(self, seconds: float) -> None:
        while self._position < min(self._samples.shape[1], seconds * self._rate):
            chunk = np.ascontiguousarray(self._samples[:, self._position : self._position + AAC_FRAME])
            frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts = self._rate, self._position
            frame.time_base = Fraction(1, self._rate)
            self._position += chunk.shape[1]
            self._container.mux(self._stream.encode(frame))

    def mux_rest(self) -> None:
        self.mux_until(float("inf"))
        self._container.mux(self._stream.encode(None))


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
