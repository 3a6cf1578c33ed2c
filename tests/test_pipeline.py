"""`talk` on real files with the shipped weights, and what it says about input that it cannot use."""

import functools
import hashlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fd2talk_core import checkpoint, pipeline
from fd2talk_core.audio.loading import frame_count
from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import LIPS_OUTER
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.pipeline import talk
from fd2talk_core.video.reading import iter_frames, read_picture

ROOT = Path(__file__).parents[1]
PORTRAIT, VOICE = ROOT / "assets" / "portrait.png", ROOT / "assets" / "voice.wav"
WEIGHTS = ("face_model", "tracker", "autoencoder", "motion", "frames")


@pytest.fixture
def weights():
    missing = [name for name in WEIGHTS if not checkpoint.default_weights(name).is_file()]
    if missing:
        pytest.skip(f"the weights are not there yet: {', '.join(missing)}")


@pytest.fixture
def still_motion():
    """Writes a motion clip of closed-mouth stillness, for tests that are not about motion."""

    def write(path, frames=5, fps=25.0, face_model=None):
        face_model = FaceModel.load().hash if face_model is None else face_model
        return MotionClip(torch.zeros(frames, 64), torch.zeros(frames, 6), fps, face_model).save(path)

    return write


def video_facts(path):
    """Frames, rate, size, and length of the sound in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        size, rate = (stream.width, stream.height), stream.average_rate
        sound = container.streams.audio[0]
        length = float(sound.duration * sound.time_base)
    return len(list(iter_frames(path, None))), rate, size, length


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# What is wrong is told before any network is loaded.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"portrait": None}, "There is no portrait"),
        ({"audio": None}, "There is no audio"),
        ({"portrait": VOICE}, "cannot be read as a picture"),
        ({"audio": PORTRAIT}, "no sound track|cannot be read as sound"),
        ({"size": 300}, "size 300 is not available. Choose 256 or 512"),
        ({"steps": 0}, "number of steps is 0. Use 1"),
        ({"fps": 0}, "frame rate is 0"),
        ({"fps": 1000}, "frame rate is 1000"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "warp"}, "device 'warp' is not available"),
        ({"motion": "missing.safetensors"}, "missing.safetensors does not exist"),
        ({"driving_pose": "missing.safetensors"}, "missing.safetensors does not exist"),
        ({"driving_pose": VOICE}, "cannot be read as a motion clip"),
        ({"motion": VOICE}, "cannot be read as a motion clip"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, change, message):
    arguments = {"portrait": PORTRAIT, "audio": VOICE, "out": tmp_path / "a.mp4"} | change
    with pytest.raises(UserError, match=message):
        talk(**arguments)
    assert not (tmp_path / "a.mp4").exists()


def test_target_must_be_an_mp4_file(tmp_path):
    with pytest.raises(UserError, match="ends in .mp4"):
        talk(PORTRAIT, VOICE, tmp_path / "a.avi")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        talk(PORTRAIT, VOICE, tmp_path / "folder.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        talk(PORTRAIT, VOICE, tmp_path / "file" / "a.mp4")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full((1600, 1), np.nan, np.float32).repeat(10, 0), "not numbers"),
        (np.zeros((100, 1), np.float32), "shorter than 0.2 s"),
    ],
)
def test_bad_sound_is_one_clear_error(tmp_path, samples, message):
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=message):
        talk(PORTRAIT, tmp_path / "a.wav", tmp_path / "a.mp4")


def test_a_damaged_checkpoint_is_named(tmp_path, weights, monkeypatch):
    broken = tmp_path / "frames.safetensors"
    broken.write_bytes(checkpoint.default_weights("frames").read_bytes()[:1000])
    original = checkpoint.default_weights
    damaged = lambda name: broken if name == "frames" else original(name)  # noqa: E731
    monkeypatch.setattr("fd2talk_core.frames.model.default_weights", damaged)
    with pytest.raises(UserError, match="frames.safetensors is missing or damaged.*Copy it again"):
        talk(PORTRAIT, VOICE, tmp_path / "a.mp4")


# The job itself.


@pytest.mark.weights
def test_a_portrait_speaks(tmp_path, weights, short_voice):
    done, stages = [], []
    report = talk(
        PORTRAIT,
        short_voice,
        tmp_path / "a.mp4",
        save_motion=tmp_path / "a.safetensors",
        progress=lambda *numbers: done.append(numbers),
        on_stage=stages.append,
    )
    seconds = soundfile.info(short_voice).duration
    frames, rate, size, sound = video_facts(report.out)
    assert frames == report.frames == frame_count(seconds, 25) and rate == 25 and size == (512, 512)
    assert sound == pytest.approx(seconds, abs=1 / 16000)
    assert done[-1] == (frames, frames) and stages[0] == "read inputs" and stages == list(report.seconds)
    assert report.total_seconds > 0 and report.frames_per_second > 0
    assert len(MotionClip.load(tmp_path / "a.safetensors")) == frames

    pictures = np.stack(list(iter_frames(report.out, None))).astype(np.float32)
    change = np.abs(np.diff(pictures, axis=0)).mean((0, 3))
    face = FaceTracker.load().track(read_picture(PORTRAIT))[0]
    lips = face.landmarks[list(LIPS_OUTER), :2].round().astype(int)
    (x0, y0), (x1, y1) = lips.min(0), lips.max(0)
    assert change[y0:y1, x0:x1].mean() > 1, "the mouth moves"
    assert change[:20].mean() < 0.5, "the background is steady"


@pytest.mark.weights
def test_the_seed_decides(tmp_path, weights, short_voice):
    clips = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        talk(PORTRAIT, short_voice, tmp_path / f"{name}.mp4", seed=seed, steps=1, save_motion=tmp_path / name)
        clips.append(MotionClip.load(tmp_path / f"{name}.safetensors"))
    assert sha(tmp_path / "a.mp4") == sha(tmp_path / "b.mp4") != sha(tmp_path / "c.mp4")
    assert torch.equal(clips[0].expression, clips[1].expression)
    assert not torch.equal(clips[0].expression, clips[2].expression)


@pytest.mark.weights
def test_a_cancelled_render_goes_on(tmp_path, weights, short_voice, monkeypatch):
    monkeypatch.setattr(pipeline, "SegmentedWriter", functools.partial(pipeline.SegmentedWriter, segment_frames=4))
    arguments = {"portrait": PORTRAIT, "audio": short_voice, "steps": 1}
    talk(**arguments, out=tmp_path / "whole.mp4")

    def cancel(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk(**arguments, out=tmp_path / "a.mp4", progress=cancel)
    assert not (tmp_path / "a.mp4").exists()
    report = talk(**arguments, out=tmp_path / "a.mp4")
    assert report.resumed >= 4 and any("went on after frame" in note for note in report.notes)
    assert sha(tmp_path / "a.mp4") == sha(tmp_path / "whole.mp4")
    assert not (tmp_path / "a.mp4.partial").exists()


@pytest.mark.weights
@pytest.mark.parametrize(("fps", "exact"), [(12, 12), (29.97, Fraction(30000, 1001)), (60, 60)])
def test_any_rate_keeps_the_length(tmp_path, weights, still_motion, fps, exact):
    soundfile.write(tmp_path / "a.wav", np.zeros((13000, 2), np.float32), 44100)
    motion = still_motion(tmp_path / "m", frames=round(13000 / 44100 * fps), fps=fps)
    report = talk(PORTRAIT, tmp_path / "a.wav", tmp_path / "a.mp4", fps=fps, motion=motion, steps=1, paste=False)
    frames, rate, size, sound = video_facts(report.out)
    assert rate == exact and size == (256, 256)
    assert abs(frames / rate - 13000 / 44100) <= 0.5 / rate
    assert sound == pytest.approx(13000 / 44100, abs=1e-3)


@pytest.mark.weights
@pytest.mark.parametrize("mode", ["RGBA", "L", "16 bit"])
def test_any_picture_format(tmp_path, weights, short_voice, still_motion, mode):
    image = Image.open(PORTRAIT)
    if mode == "16 bit":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png")
    motion = still_motion(tmp_path / "m")
    report = talk(tmp_path / "a.png", short_voice, tmp_path / "a.mp4", motion=motion, steps=1)
    assert video_facts(report.out)[0] == report.frames
    assert any("shorter than the audio; its end is held" in note for note in report.notes)


@pytest.mark.weights
def test_controls_reach_the_motion_and_the_render_key(tmp_path, weights, short_voice, still_motion, monkeypatch):
    """A changed control gives another motion, so a render begun with the old one is not gone on with."""
    keys = []

    class Enough(Exception):
        pass

    def writer(out, fps, size, key, **sound):
        keys.append(key)
        raise Enough

    monkeypatch.setattr(pipeline, "SegmentedWriter", writer)
    still = still_motion(tmp_path / "still.safetensors", frames=40)
    changes = [
        {}, {}, {"guidance": 2.0}, {"temperature": 0.5}, {"energy": 1.0}, {"expression_strength": 0.5},
        {"pose_strength": 0.5}, {"blink_rate": 60}, {"driving_pose": still},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        with pytest.raises(Enough):
            saved = tmp_path / f"{number}.safetensors"
            talk(PORTRAIT, short_voice, tmp_path / "a.mp4", motion_steps=2, save_motion=saved, **change)
    assert keys[0] == keys[1] and len(set(keys)) == len(changes) - 1
    assert MotionClip.load(tmp_path / f"{len(changes) - 1}.safetensors").pose.abs().max() == 0


@pytest.mark.weights
def test_silence_keeps_the_mouth_shut(tmp_path, weights):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000, np.float32), 16000)
    talk(PORTRAIT, tmp_path / "a.wav", tmp_path / "a.mp4", steps=1, save_motion=tmp_path / "m")
    clip, model = MotionClip.load(tmp_path / "m.safetensors"), FaceModel.load()
    lips = model.vertices(torch.zeros(80), clip.expression)[:, [13, 14]]
    assert (lips[:, 0] - lips[:, 1]).norm(dim=-1).mean() < 0.08


@pytest.mark.weights
def test_no_face(tmp_path, weights, short_voice):
    Image.fromarray(np.full((256, 256, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    with pytest.raises(UserError, match="No face was found in the picture. Use a"):
        talk(tmp_path / "wall.png", short_voice, tmp_path / "a.mp4")


@pytest.mark.weights
def test_small_face(tmp_path, weights, short_voice):
    canvas = Image.new("RGB", (300, 300), (90, 90, 100))
    canvas.paste(Image.open(PORTRAIT).resize((80, 80)), (100, 100))
    canvas.save(tmp_path / "small.png")
    with pytest.raises(UserError, match="The face is only .* pixels wide. Use a larger picture|No face was found"):
        talk(tmp_path / "small.png", short_voice, tmp_path / "a.mp4")


@pytest.mark.weights
def test_largest_of_several_faces(tmp_path, weights, short_voice, still_motion):
    face = Image.open(PORTRAIT)
    canvas = Image.new("RGB", (1000, 512), (80, 85, 90))
    canvas.paste(face.resize((340, 340)), (0, 120))
    canvas.paste(face, (400, 0))
    canvas.save(tmp_path / "two.png")
    report = talk(tmp_path / "two.png", short_voice, tmp_path / "a.mp4", motion=still_motion(tmp_path / "m"), steps=1)
    assert any("2 faces" in note for note in report.notes)


@pytest.mark.weights
def test_motion_of_another_face_model(tmp_path, weights, short_voice, still_motion):
    motion = still_motion(tmp_path / "m", face_model="0" * 64)
    with pytest.raises(UserError, match="made for face model 000000000000"):
        talk(PORTRAIT, short_voice, tmp_path / "a.mp4", motion=motion)


@pytest.mark.weights
def test_saved_motion_gives_the_same_video(tmp_path, weights, short_voice):
    talk(PORTRAIT, short_voice, tmp_path / "a.mp4", steps=1, save_motion=tmp_path / "m.safetensors")
    talk(PORTRAIT, short_voice, tmp_path / "b.mp4", steps=1, motion=tmp_path / "m.safetensors")
    assert sha(tmp_path / "a.mp4") == sha(tmp_path / "b.mp4")


@pytest.mark.weights
def test_larger_size(tmp_path, weights, short_voice, still_motion):
    motion = still_motion(tmp_path / "m")
    report = talk(PORTRAIT, short_voice, tmp_path / "a.mp4", size=512, motion=motion, steps=1, paste=False)
    assert video_facts(report.out)[2] == (512, 512)


def test_weights_fit_the_limit():
    folder = checkpoint.default_weights("frames").parent
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 32e6


def test_demo_material_is_there():
    assert np.asarray(Image.open(PORTRAIT)).shape == (512, 512, 3)
    assert 6 <= soundfile.info(VOICE).duration <= 8 and soundfile.info(VOICE).samplerate == 16000
