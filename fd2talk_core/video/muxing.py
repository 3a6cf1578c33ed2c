"""Joining encoded segments with sound, without encoding the pictures again."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np

from ..errors import UserError
from .formats import SOUND_RATES, VideoFormat

AUDIO_CHUNK = 1024
MICROSECONDS = 1_000_000


def segment_packets(path: Path, fps: Fraction, start: int) -> Iterator[tuple[av.Packet, int, int]]:
    """Video packets of one segment with presentation and decoding time as frame numbers of the whole video."""
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is None:
                continue
            pts, dts = (round(value * packet.time_base * fps) for value in (packet.pts, packet.dts))
            yield packet, start + pts, start + dts


def playable_audio(audio: np.ndarray | None, rate: int, encoder: str = "aac") -> tuple[np.ndarray | None, int]:
    """Bring audio to what encoders take: one or two channels of float32, a sample rate that they know.

    audio: (C, N) or (N,); more than two channels are mixed to one. What needs no change is not copied: hours of sound
    take gigabytes. Raises UserError for NaN and infinity.
    """
    if audio is None:
        return None, rate
    samples = np.atleast_2d(np.asarray(audio, dtype=np.float32))
    if not np.isfinite(samples.sum(dtype=np.float64)):
        raise UserError("The audio contains values that are not numbers (NaN or infinity). Export it again.")
    if samples.shape[0] > 2:
        samples = samples.mean(axis=0, keepdims=True)
    rates = SOUND_RATES[encoder]
    if rate not in rates:
        target = next((known for known in reversed(rates) if known >= rate), rates[0])
        samples, rate = librosa.resample(samples, orig_sr=rate, target_sr=target), target
    return samples, rate


class AudioTrack:
    """Sound that is muxed in step with the video, so that neither waits in memory for the other."""

    def __init__(self, container: av.container.OutputContainer, samples: np.ndarray, rate: int, encoder: str = "aac"):
        self._container, self._samples, self._rate = container, samples, rate
        self._layout = "mono" if samples.shape[0] == 1 else "stereo"
        self._stream = container.add_stream(encoder, rate=rate, layout=self._layout)
        if encoder != "pcm_s16le":
            self._stream.bit_rate = min(96_000, 4 * rate) * samples.shape[0]
        self._position = 0

    def mux_until(self, seconds: float) -> None:
        while self._position < min(self._samples.shape[1], seconds * self._rate):
            chunk = self._samples[:, self._position : self._position + AUDIO_CHUNK]
            # PyAV wants channel after channel, and sound that was read interleaved and transposed is not.
            chunk = np.clip(chunk, -1, 1, order="C")
            frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts = self._rate, self._position
            frame.time_base = Fraction(1, self._rate)
            self._position += chunk.shape[1]
            self._container.mux(self._stream.encode(frame))

    def mux_rest(self) -> None:
        self.mux_until(float("inf"))
        self._container.mux(self._stream.encode(None))


class Muxer:
    """One file of finished segments and their sound.

    Args:
        target: the file to write, in the format's container.
        template: a segment, for the codec's parameters.
        fps: frames per second.
        samples, rate: sound as from `playable_audio`, or None.
        metadata: tags of the file; those beside "comment" need a kind of tag that only some programs read.
        growing: write so that the file plays even when the program is killed before `close`.
    """

    def __init__(
        self,
        target: Path,
        template: Path,
        form: VideoFormat,
        fps: Fraction,
        samples: np.ndarray | None,
        rate: int,
        metadata: dict[str, str],
        growing: bool = False,
    ):
        self._fps, self.target, self._growing = fps, target, growing
        self._container = av.open(str(target), "w", options=_container_options(form, rate, set(metadata), growing))
        self._container.metadata.update(metadata)
        with av.open(str(template)) as first:
            self._video = self._stream(form, first.streams.video[0])
        if form.tag:
            self._video.codec_context.codec_tag = form.tag
        self._video.time_base = 1 / fps
        self._sound = AudioTrack(self._container, samples, rate, form.sound) if samples is not None else None

    def _stream(self, form: VideoFormat, template: av.VideoStream) -> av.VideoStream:
        if form.suffix != ".webm":
            return self._container.add_stream_from_template(template)
        # WebM packets have no duration. Only a stream with a rate tells the file how long its last frame lasts, without
        # which core's Save Video loses that frame; and a stream from a template has none.
        stream = self._container.add_stream(form.encoder, rate=self._fps)
        stream.width, stream.height, stream.pix_fmt = template.width, template.height, form.pix_fmt
        for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
            setattr(stream.codec_context, name, getattr(template.codec_context, name))
        return stream

    def add(self, segment: Path, start: int) -> None:
        """Append a segment whose first frame is number `start`, and its sound."""
        end = start
        for packet, pts, dts in segment_packets(segment, self._fps, start):
            if self._sound:
                self._sound.mux_until(float(pts / self._fps))
            packet.stream, packet.time_base = self._video, 1 / self._fps
            packet.pts, packet.dts, packet.duration = pts, dts, 1
            self._container.mux(packet)
            end = max(end, pts + 1)
        if self._sound and self._growing:
            self._sound.mux_until(float(end / self._fps))

    def close(self) -> None:
        """Complete the file; a growing one keeps the sound of its frames only, any other one all sound."""
        try:
            if self._sound and not self._growing:
                self._sound.mux_rest()
        finally:
            self._container.close()


def _container_options(form: VideoFormat, rate: int, tags: set[str], growing: bool) -> dict[str, str]:
    if form.suffix == ".webm":
        return {"cluster_time_limit": "1000", "flush_packets": "1"} if growing else {}
    # The edit list that hides the encoder's delay counts in this unit; the default, milliseconds, would round.
    options = {"movie_timescale": str(rate or 90_000)}
    flags = "+delay_moov+default_base_moof" if growing else "+faststart"
    if tags - {"comment"}:
        flags += "+use_metadata_tags"
    if growing:
        options |= {"frag_duration": str(MICROSECONDS // 2), "flush_packets": "1"}
    return options | {"movflags": flags}
