import hashlib
import resource
import signal
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from fd2talk_core.audio.loading import frame_count
from fd2talk_core.errors import UserError
from fd2talk_core.video.muxing import playable_audio
from fd2talk_core.video.reading import iter_frames
from fd2talk_core.video.writer import COMMENT, SegmentedWriter, contact_sheet, exact_rate

SIZE = (64, 48)


def make_frames(count, size=SIZE, seed=0):
    """Moving stripes with a little noise: every frame differs from every other."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 6, size[0])[None, None, :, None]
    t = np.arange(count)[:, None, None, None]
    colour = np.array([0.0, 1.0, 2.0])
    frames = 0.5 + 0.4 * np.sin(x + t / 5 + colour) * np.ones((1, size[1], 1, 1))
    return (frames + rng.normal(0, 0.02, frames.shape)).astype(np.float32).clip(0, 1)


def make_audio(seconds, rate=16000, channels=1):
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)
    return np.tile(tone.astype(np.float32), (channels, 1))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lengths(path):
    """(video seconds, audio seconds, video frames, decoded audio samples)"""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        seconds = float(video.duration * video.time_base), float(audio.duration * audio.time_base)
        samples = sum(frame.samples for frame in container.decode(audio=0))
    return *seconds, sum(1 for _ in iter_frames(path, None)), samples


@pytest.mark.parametrize("fps", [23.976, 24, 25, 29.97, Fraction(30000, 1001), 30, 50, 60])
@pytest.mark.parametrize(("seconds", "rate", "channels"), [(1.337, 16000, 1), (2.0413, 44100, 2), (0.203, 8000, 1)])
def test_sound_and_picture_end_together(tmp_path, fps, seconds, rate, channels):
    audio = make_audio(seconds, rate, channels)
    duration = audio.shape[1] / rate
    count = frame_count(duration, fps)
    writer = SegmentedWriter(tmp_path / "o.mp4", fps, SIZE, "k", segment_frames=20)
    writer.write(make_frames(count))
    video_seconds, audio_seconds, frames, samples = lengths(writer.finish(audio, rate))
    assert frames == count
    assert audio_seconds == pytest.approx(duration, abs=1e-6) and samples >= audio.shape[1]
    assert video_seconds == pytest.approx(count / float(exact_rate(fps)), abs=1e-6)
    assert abs(video_seconds - audio_seconds) <= 0.5 / float(fps) + 1e-6


def test_frame_times_are_regular_across_segments(tmp_path):
    writer = SegmentedWriter(tmp_path / "o.mp4", 30000 / 1001, SIZE, "k", segment_frames=7)
    writer.write(make_frames(33))
    with av.open(str(writer.finish(make_audio(33 * 1001 / 30000), 16000))) as container:
        assert container.metadata["comment"] == COMMENT
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [Fraction(1001, 30000) * n for n in range(33)]


def test_pictures_and_sound_survive(tmp_path):
    frames, audio = make_frames(30), make_audio(1.2, 16000)
    writer = SegmentedWriter(tmp_path / "o.mp4", 25, SIZE, "k", segment_frames=8)
    writer.write(torch.from_numpy(frames[:13]))
    writer.write((frames[13:] * 255).astype(np.uint8))
    path = writer.finish(audio, 16000)
    stored = np.stack(list(iter_frames(path, None))) / 255
    assert np.abs(stored - frames).mean() < 0.03 and np.abs((stored - frames).mean((0, 1, 2))).max() < 0.01
    with av.open(str(path)) as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1)[0, : audio.shape[1]]
    assert np.corrcoef(heard, audio[0])[0, 1] > 0.99
    assert not (tmp_path / "o.mp4.partial").exists()


@pytest.mark.parametrize("stop", [0, 5, 8, 29])
def test_resumed_render_gives_the_same_bytes(tmp_path, stop):
    frames, audio = make_frames(30), make_audio(1.2)
    whole = SegmentedWriter(tmp_path / "whole.mp4", 25, SIZE, "k", segment_frames=8)
    whole.write(frames)
    whole.finish(audio, 16000)

    out = tmp_path / "cancelled.mp4"
    with pytest.raises(KeyboardInterrupt):
        with SegmentedWriter(out, 25, SIZE, "k", segment_frames=8) as writer:
            writer.write(frames[:stop])
            raise KeyboardInterrupt
    assert not out.exists()
    with SegmentedWriter(out, 25, SIZE, "k", segment_frames=8) as writer:
        assert writer.frames_done == stop // 8 * 8
        writer.write(frames[writer.frames_done :])
        writer.finish(audio, 16000)
    assert digest(out) == digest(tmp_path / "whole.mp4")


def test_crash_without_any_farewell_resumes_too(tmp_path):
    frames, out = make_frames(20), tmp_path / "o.mp4"
    writer = SegmentedWriter(out, 25, SIZE, "k", segment_frames=8)
    writer.write(frames[:18])
    # What a killed process leaves: an unfinished current.mp4; and here also a segment cut short by a power failure.
    last = out.with_name("o.mp4.partial") / "segment_000001.mp4"
    last.write_bytes(last.read_bytes()[:200])
    again = SegmentedWriter(out, 25, SIZE, "k", segment_frames=8)
    assert again.frames_done == 8
    again.write(frames[8:])
    assert len(list(iter_frames(again.finish(), None))) == 20


def test_other_settings_start_anew(tmp_path):
    out = tmp_path / "o.mp4"
    SegmentedWriter(out, 25, SIZE, "first", segment_frames=4).write(make_frames(9))
    assert SegmentedWriter(out, 25, SIZE, "first", segment_frames=4).frames_done == 8
    assert SegmentedWriter(out, 30, SIZE, "first", segment_frames=4).frames_done == 0
    SegmentedWriter(out, 25, SIZE, "first", segment_frames=4).write(make_frames(9))
    assert SegmentedWriter(out, 25, SIZE, "second", segment_frames=4).frames_done == 0


def test_cancelled_render_leaves_a_playable_file(tmp_path):
    out = tmp_path / "o.mp4"
    with pytest.raises(RuntimeError):
        with SegmentedWriter(out, 25, SIZE, "k", segment_frames=8) as writer:
            writer.write(make_frames(11))
            raise RuntimeError("stop")
    assert len(list(iter_frames(out.with_name("o.mp4.partial") / "so_far.mp4", None))) == 11
    writer = SegmentedWriter(out, 25, SIZE, "k", segment_frames=8)
    writer.write(make_frames(3))
    video_seconds, audio_seconds, frames, _ = lengths(writer.keep_playable(make_audio(9), 16000))
    assert frames == 11 and audio_seconds == pytest.approx(video_seconds, abs=1e-3)


def test_nothing_written(tmp_path):
    writer = SegmentedWriter(tmp_path / "o.mp4", 25, SIZE, "k")
    assert writer.keep_playable() is None
    with pytest.raises(UserError, match="no frames"):
        writer.finish()


@pytest.mark.parametrize("size", [(65, 48), (64, 47), (33, 31)])
def test_odd_sizes_are_padded(tmp_path, size):
    writer = SegmentedWriter(tmp_path / "o.mp4", 25, size, "k")
    writer.write(make_frames(3, size))
    stored = next(iter_frames(writer.finish(), None))
    assert stored.shape[:2] == (size[1] + size[1] % 2, size[0] + size[0] % 2)


def test_unusual_audio(tmp_path):
    for rate, channels in ((50_000, 1), (48_000, 6)):
        writer = SegmentedWriter(tmp_path / f"{rate}.mp4", 25, SIZE, "k")
        writer.write(make_frames(10))
        assert lengths(writer.finish(make_audio(0.4, rate, channels), rate))[1] == pytest.approx(0.4, abs=1e-3)
    transposed = np.ascontiguousarray(make_audio(0.4, 48000, 2).T).T  # as libraries that read interleaved sound give it
    writer = SegmentedWriter(tmp_path / "transposed.mp4", 25, SIZE, "k")
    writer.write(make_frames(10))
    assert lengths(writer.finish(transposed, 48000))[1] == pytest.approx(0.4, abs=1e-3)
    loud = make_audio(0.4) * 5
    assert np.shares_memory(playable_audio(loud, 16000)[0], loud), "hours of sound are not copied"
    writer = SegmentedWriter(tmp_path / "loud.mp4", 25, SIZE, "k")
    writer.write(make_frames(10))
    with av.open(str(writer.finish(loud, 16000))) as file:
        heard = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], 1)
    assert 0.9 < np.abs(heard).max() < 1.6, "it is cut off at full scale; AAC itself goes a little above"
    writer = SegmentedWriter(tmp_path / "nan.mp4", 25, SIZE, "k")
    writer.write(make_frames(10))
    with pytest.raises(UserError, match="NaN"):
        writer.finish(np.full((1, 6400), np.nan), 16000)


def test_unwritable_places_are_clear_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written.*free space"):
        SegmentedWriter(tmp_path / "file" / "o.mp4", 25, SIZE, "k")


def test_full_disk_is_a_clear_error(tmp_path):
    """The kernel refuses files above 20 kB here, which fails like a full disk."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (40, 128, 128, 3), dtype=np.uint8)
    writer = SegmentedWriter(tmp_path / "o.mp4", 25, (128, 128), "k", segment_frames=10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written.*free space"):
            with writer:
                writer.write(noise)
                writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize("fps", [0, 0.5, 1000])
def test_impossible_rates_are_refused(tmp_path, fps):
    with pytest.raises(UserError, match="frame rate"):
        SegmentedWriter(tmp_path / "o.mp4", fps, SIZE, "k")


def test_contact_sheet(tmp_path):
    writer = SegmentedWriter(tmp_path / "o.mp4", 25, SIZE, "k")
    writer.write(make_frames(20))
    sheet = Image.open(contact_sheet(writer.finish(), tmp_path / "sub" / "o.jpg", 4, 2, width=32))
    assert sheet.size == (128, 48)
    tiles = [np.asarray(sheet)[:24, 32 * i : 32 * i + 32].astype(float) for i in range(4)]
    assert all(np.abs(a - b).mean() > 5 for a, b in zip(tiles, tiles[1:], strict=False))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError):
        contact_sheet(tmp_path / "text.mp4", tmp_path / "t.jpg")
