"""Rendering into a file: what is killed goes on, formats, and lengths."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from test_writer import SIZE, digest, lengths, make_audio, make_frames

from fd2talk_core.audio.loading import frame_count
from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.render import even_lengths, whole_batch
from fd2talk_core.video import writer as writing
from fd2talk_core.video.formats import FORMATS, H264, QUALITIES, VideoFormat, find_format
from fd2talk_core.video.reading import iter_frames
from fd2talk_core.video.writer import COMMENT, SEGMENT_FRAMES, SegmentedWriter, forget_abandoned, unfinished

ROOT = Path(__file__).parents[1]
VIDEO_FORMATS = [form for form in FORMATS.values() if not form.beside]

RENDER = """
import functools, time
from fd2talk_core import pipeline
pipeline.SegmentedWriter = functools.partial(pipeline.SegmentedWriter, segment_frames=8)
slowly = lambda *_: time.sleep(0.02)
pipeline.talk({portrait!r}, {voice!r}, {out!r}, steps=1, motion_steps=2, progress=slowly)
"""


@pytest.mark.weights
def test_a_killed_render_plays_and_goes_on(tmp_path):
    """SIGKILL at three random moments, as crashes or power failures would do; the video has the very same frames."""
    samples, rate = soundfile.read(ROOT / "assets/voice.wav")
    soundfile.write(tmp_path / "voice.wav", samples[: int(1.7 * rate)], rate)
    code = {"portrait": str(ROOT / "assets/portrait.png"), "voice": str(tmp_path / "voice.wav")}
    command = [sys.executable, "-c", RENDER.format(**code, out=str(tmp_path / "a.mp4"))]
    partial = tmp_path / "a.mp4.partial"
    moments = random.Random(time.time_ns())
    for segment in (0, moments.randint(1, 2), 3):
        process = subprocess.Popen(command, cwd=ROOT)
        end = time.monotonic() + 300
        last = partial / f"segment_{segment:06d}.mp4"
        while not last.is_file() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert last.is_file() and not (tmp_path / "a.mp4").exists()
    with av.open(str(partial / "so_far.mp4")) as file:
        kept = {round(frame.time * 25): frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)}
    with av.open(str(partial / "so_far.mp4")) as file:
        heard = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
    # Half-second pieces reach the disk: of the 32 or 40 finished frames, 25 or so.
    assert len(kept) >= 24 and heard >= len(kept) / 25 - 0.6

    subprocess.run(command, cwd=ROOT, check=True)
    whole = [sys.executable, "-c", RENDER.format(**code, out=str(tmp_path / "whole.mp4"))]
    subprocess.run(whole, cwd=ROOT, check=True)
    assert not partial.exists()
    assert digest(tmp_path / "a.mp4") == digest(tmp_path / "whole.mp4")
    for index, frame in enumerate(iter_frames(tmp_path / "whole.mp4", None)):
        assert np.array_equal(kept.pop(index, frame), frame), index
    assert not kept


@pytest.mark.parametrize("form", VIDEO_FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize(("seconds", "rate", "fps"), [(1.337, 16000, 25), (0.9, 44100, 29.97)])
def test_formats_keep_pictures_sound_and_times(tmp_path, form, seconds, rate, fps):
    frames = make_frames(frame_count(seconds, fps))
    path = tmp_path / f"o{form.suffix}"
    writer = SegmentedWriter(path, fps, SIZE, "k", 10, form=form, audio=make_audio(seconds, rate), rate=rate)
    writer.write(frames)
    assert writer.finish() == path
    stored = np.stack(list(iter_frames(path, None))) / 255
    assert len(stored) == len(frames) and np.abs(stored - frames).mean() < 0.03
    with av.open(str(path)) as file:
        assert {name.lower(): value for name, value in file.metadata.items()}["comment"] == COMMENT
        times = [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]
        length = file.duration / av.time_base
    with av.open(str(path)) as file:
        heard = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
    assert np.allclose(times, np.arange(len(frames)) / fps, atol=1e-3)
    # Frames of an audio codec may reach beyond the end of the sound; players stop at the file's length.
    assert heard >= seconds - 1e-3 and abs(length - seconds) <= 0.5 / fps + 0.03


@pytest.mark.parametrize("form", VIDEO_FORMATS[1:], ids=lambda form: form.name)
def test_other_formats_resume_with_the_same_frames(tmp_path, form):
    frames = make_frames(20)
    made = []
    for name, stop in (("whole", None), ("cut", 13)):
        path = tmp_path / f"{name}{form.suffix}"
        if stop:
            with pytest.raises(KeyboardInterrupt), SegmentedWriter(path, 25, SIZE, "k", 8, form=form) as writer:
                writer.write(frames[:stop])
                raise KeyboardInterrupt
            assert writer.kept.suffix == form.suffix and len(list(iter_frames(writer.kept, None))) == stop
        writer = SegmentedWriter(path, 25, SIZE, "k", 8, form=form)
        assert writer.frames_done == (8 if stop else 0)
        writer.write(frames[writer.frames_done :])
        made.append(np.stack(list(iter_frames(writer.finish(), None))))
    assert np.array_equal(*made)


@pytest.mark.parametrize("size", [SIZE, (33, 31)])
def test_gif_and_webp_beside_the_video(tmp_path, size):
    frames = make_frames(12, size)
    tags = {"prompt": '{"1": 2}', "workflow": "{}"}
    for name in ("mp4 and gif", "mp4 and animated webp"):
        form = FORMATS[name]
        writer = SegmentedWriter(tmp_path / "o.mp4", 25, size, "k", 8, form=form, metadata=tags)
        writer.write(frames)
        writer.finish()
        picture = Image.open(writer.beside)
        assert picture.n_frames == 12 and picture.size == size and picture.info["loop"] == 0
        total = 0
        for index in range(12):
            picture.seek(index)
            shown = np.asarray(picture.convert("RGB")) / 255
            total += picture.info["duration"]
            assert np.abs(shown - frames[index]).mean() < 0.06, (name, index)
        assert total == 480
        if form.beside == "gif":
            assert picture.info["comment"].decode() == COMMENT
        else:
            exif = picture.getexif()
            assert exif[0x010E] == COMMENT and exif[0x0110] == 'prompt:{"1": 2}' and exif[0x010F] == "workflow:{}"


def test_fast_gifs_keep_their_speed(tmp_path):
    writer = SegmentedWriter(tmp_path / "o.mp4", 60, SIZE, "k", form=FORMATS["mp4 and gif"])
    writer.write(make_frames(60))
    writer.finish()
    picture = Image.open(writer.beside)
    durations = []
    for index in range(picture.n_frames):
        picture.seek(index)
        durations.append(picture.info["duration"])
    assert picture.n_frames == 30 and min(durations) >= 20 and sum(durations) == pytest.approx(1000, abs=20)


def test_stills_are_exact_and_resume(tmp_path):
    frames = (make_frames(20) * 255).astype(np.uint8)
    arguments = (tmp_path / "o.mp4", 25, SIZE, "k", 8)
    SegmentedWriter(*arguments, form=FORMATS["mp4 and png frames"]).write(frames[:18])
    (tmp_path / "o.mp4.partial/frames/000012.png").unlink()
    writer = SegmentedWriter(*arguments, form=FORMATS["mp4 and png frames"])
    assert writer.frames_done == 8
    writer.write(frames[8:])
    writer.finish()
    stills = sorted((tmp_path / "o").glob("*.png"))
    assert [path.name for path in stills] == [f"{number:06d}.png" for number in range(1, 21)]
    assert all(np.array_equal(np.asarray(Image.open(path)), frame) for path, frame in zip(stills, frames, strict=True))
    assert Image.open(stills[3]).info["comment"] == COMMENT


def transparent(path: Path) -> np.ndarray:
    """Frames of a video with their alpha (T, H, W, 4); the usual decoder of VP9 would leave it out."""
    with av.open(str(path)) as file:
        if path.suffix != ".webm":
            return np.stack([frame.to_ndarray(format="rgba") for frame in file.decode(video=0)])
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        packets = [packet if packet.size else None for packet in file.demux(video=0)]
        return np.stack([frame.to_ndarray(format="rgba") for packet in packets for frame in decoder.decode(packet)])


@pytest.mark.parametrize("form", [form for form in FORMATS.values() if form.alpha], ids=lambda form: form.name)
def test_transparent_formats_keep_alpha_and_resume(tmp_path, form):
    frames = np.full((12, 48, 64, 4), 200, np.uint8)
    frames[..., 3] = (np.arange(64) // 16 * 85)[None, None]
    frames[..., 1] = 10 * np.arange(12)[:, None, None]
    path = tmp_path / f"o{form.suffix}"
    sound = {"audio": make_audio(0.48), "rate": 16000}
    SegmentedWriter(path, 25, SIZE, "k", 5, form=form, **sound).write(frames[:7])
    writer = SegmentedWriter(path, 25, SIZE, "k", 5, form=form, **sound)
    assert writer.frames_done == 5
    writer.write(frames[5:8] / np.float32(255))
    writer.write(frames[8:])
    stored = transparent(writer.finish()).astype(int)
    assert stored.shape == frames.shape and np.abs(stored - frames).mean() < 2
    assert (stored[:, :, 4:12, 3] < 8).all() and (stored[:, :, 54:62, 3] > 247).all()
    opaque = tmp_path / f"opaque{form.suffix}"
    writer = SegmentedWriter(opaque, 25, SIZE, "k", form=form)
    writer.write(frames[:2, ..., :3])
    assert (transparent(writer.finish())[..., 3] > 250).all()


def test_alpha_goes_into_stills_and_not_into_other_videos(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 4), dtype=np.uint8)
    for name in ("mp4 and png frames", "webm (VP9)"):
        writer = SegmentedWriter(tmp_path / f"o{FORMATS[name].suffix}", 25, SIZE, "k", form=FORMATS[name])
        writer.write(frames)
        with av.open(str(writer.finish())) as file:
            assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"
            assert "alpha_mode" not in file.streams.video[0].metadata
    stills = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "o").glob("*.png"))]
    assert np.array_equal(np.stack(stills), frames)
    with pytest.raises(ValueError, match="expected \\(B, 48, 64, 3 or 4"):
        SegmentedWriter(tmp_path / "two.mp4", 25, SIZE, "k").write(frames[..., :2])


@pytest.mark.parametrize("form", [H264, FORMATS["mp4 and png frames"]], ids=lambda form: form.name)
def test_parts_may_lie_on_another_disk(tmp_path, monkeypatch, form):
    replace = os.replace

    def between_disks(source, target):
        if Path(source).is_relative_to(tmp_path / "parts") != Path(target).is_relative_to(tmp_path / "parts"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", between_disks)
    frames = (make_frames(12) * 255).astype(np.uint8)
    arguments = {"form": form, "partial": tmp_path / "parts/o.mp4.partial"}
    SegmentedWriter(tmp_path / "temp/o.mp4", 25, SIZE, "k", 5, **arguments).write(frames[:7])
    assert not (tmp_path / "temp").exists()
    assert unfinished(tmp_path / "parts", "o", ".mp4", "k") == (tmp_path / "parts/o.mp4", "k")
    writer = SegmentedWriter(tmp_path / "temp/o.mp4", 25, SIZE, "k", 5, **arguments)
    assert writer.frames_done == 5
    writer.write(frames[5:])
    assert len(list(iter_frames(writer.finish(), None))) == 12 and not writer.partial.exists()
    made = {path.name for path in (tmp_path / "temp").iterdir()}
    assert made == ({"o.mp4", "o"} if form.beside else {"o.mp4"})


def test_only_abandoned_renders_are_forgotten(tmp_path):
    for name in ("old", "kept"):
        SegmentedWriter(tmp_path / f"{name}.mp4", 25, SIZE, "k", 5).write(make_frames(7))
    week_ago = time.time() - 7 * 24 * 3600
    for path in (tmp_path / "old.mp4.partial", *(tmp_path / "old.mp4.partial").iterdir()):
        os.utime(path, (week_ago, week_ago))
    (tmp_path / "other.partial").mkdir()
    forget_abandoned(tmp_path, 8)
    assert (tmp_path / "old.mp4.partial").is_dir()
    forget_abandoned(tmp_path, 6)
    assert {path.name for path in tmp_path.iterdir()} == {"kept.mp4.partial", "other.partial"}
    forget_abandoned(tmp_path / "nowhere", 6)


@pytest.mark.parametrize("form", VIDEO_FORMATS, ids=lambda form: form.name)
def test_smaller_qualities_are_smaller(tmp_path, form):
    sizes = []
    for quality in QUALITIES:
        writer = SegmentedWriter(tmp_path / f"{quality}{form.suffix}", 25, (128, 96), "k", form=form, quality=quality)
        writer.write(make_frames(10, (128, 96)))
        sizes.append(writer.finish().stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


def test_h265_carries_the_code_that_apple_wants(tmp_path):
    writer = SegmentedWriter(tmp_path / "o.mp4", 25, SIZE, "k", form=FORMATS["mp4 (H.265)"])
    writer.write(make_frames(5))
    assert b"hvc1" in writer.finish().read_bytes()


def test_a_missing_encoder_is_named(monkeypatch):
    lacking = VideoFormat("mp4 (H.277)", "libx277", H264.quality)
    monkeypatch.setitem(FORMATS, lacking.name, lacking)
    with pytest.raises(UserError, match="needs the encoder libx277.*lacks. Choose mp4"):
        find_format(lacking.name)
    with pytest.raises(UserError, match="'avi' is not available. Choose one of mp4"):
        find_format("avi")
    with pytest.raises(UserError, match="quality 'best' is not available"):
        H264.encoder_options("best")


def test_workflow_and_synthetic_tags_are_in_the_file(tmp_path):
    for form in VIDEO_FORMATS:
        path = tmp_path / f"o{form.suffix}"
        writer = SegmentedWriter(path, 25, SIZE, "k", form=form, metadata={"workflow": '{"é": 1}', "description": "d"})
        writer.write(make_frames(3))
        with av.open(str(writer.finish())) as file:
            tags = {name.lower(): value for name, value in file.metadata.items()}
        assert (tags["comment"], tags["workflow"], tags["description"]) == (COMMENT, '{"é": 1}', "d")


def test_a_full_disk_keeps_what_was_made(tmp_path, monkeypatch):
    """The join at the end finds no space; the segments and the file that grew with them stay."""
    audio = make_audio(1.2)
    writer = SegmentedWriter(tmp_path / "o.mp4", 25, SIZE, "k", 8, audio=audio, rate=16000)
    original = writing.Muxer.add

    def full(self, segment, start):
        if self.target.name != "so_far.mp4":
            raise OSError(28, "No space left on device")
        original(self, segment, start)

    monkeypatch.setattr(writing.Muxer, "add", full)
    with pytest.raises(UserError, match="No space left.*free space"), writer:
        writer.write(make_frames(30))
        writer.finish()
    assert writer.kept == writer.so_far
    _, _, frames, samples = lengths(writer.so_far)
    assert frames == 24 and samples >= 24 / 25 * 16000 - 2048
    monkeypatch.undo()
    again = SegmentedWriter(tmp_path / "o.mp4", 25, SIZE, "k", 8, audio=audio, rate=16000)
    assert again.frames_done == 24


def test_unfinished_renders_are_found_by_what_they_are(tmp_path):
    SegmentedWriter(tmp_path / "a[1]_00001_.mp4", 25, SIZE, "abc batch 8", 8).write(make_frames(9))
    found = unfinished(tmp_path, "a[1]", ".mp4", "abc")
    assert found == (tmp_path / "a[1]_00001_.mp4", "abc batch 8")
    assert unfinished(tmp_path, "b", ".mp4", "abc") is unfinished(tmp_path, "a[1]", ".mp4", "abd") is None
    assert unfinished(tmp_path, "a[1]", ".webm", "abc") is None
    (tmp_path / "a[1]_00001_.mp4.partial/state.json").write_text("{")
    assert unfinished(tmp_path, "a[1]", ".mp4", "abc") is None


@pytest.mark.parametrize("asked", [1, 5, 8, 64, 1000])
def test_batches_fill_segments(asked):
    batch = whole_batch(asked)
    assert 1 <= batch <= asked and SEGMENT_FRAMES % batch == 0
    assert batch == {5: 4, 8: 8, 64: 48, 1000: 96}.get(asked, asked)


@pytest.mark.parametrize("fps", [12, 25, Fraction(30000, 1001)])
@pytest.mark.parametrize("seconds", [0.7, 1.0, 1.31])
def test_neither_sound_nor_motion_is_cut(fps, seconds):
    clip = MotionClip(torch.rand(frame_count(1.0, float(fps)), 64), torch.zeros(1, 6).repeat(
        frame_count(1.0, float(fps)), 1), float(fps), FaceModel.load().hash)  # fmt: skip
    sound = make_audio(seconds, 16000, 2)
    motion, samples, note = even_lengths(clip, sound, 16000, float(fps))
    assert np.array_equal(samples[:, : sound.shape[1]], sound) and not samples[:, sound.shape[1] :].any()
    assert torch.equal(motion.expression[: len(clip) - 1], clip.expression[: len(clip) - 1])
    assert abs(len(motion) / float(fps) - samples.shape[1] / 16000) <= 0.5 / float(fps) + 1e-4
    assert bool(note) == (abs(seconds - 1.0) > 1.5 / float(fps))
    if seconds > 1.2:
        assert torch.equal(motion.expression[-1], clip.expression[-1])
