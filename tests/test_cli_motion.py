"""`fd2talk motion …` and `audio-to-motion` as a user meets them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

typer_testing = pytest.importorskip("typer.testing", reason="the extra 'cli' is not installed")

from fd2talk_core import cli  # noqa: E402
from fd2talk_core.face.model import FaceModel  # noqa: E402
from fd2talk_core.motion.clip import MotionClip  # noqa: E402
from fd2talk_core.motion.interchange import control_readings  # noqa: E402
from fd2talk_core.motion.tools import mirror  # noqa: E402

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "info", "export", "import", "concat", "blend", "crop", "retime", "smooth", "mirror", "loop", "keyframes", "pose",
    "track", "preview",
)  # fmt: skip


def run(*arguments):
    result = typer_testing.CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "100"})
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output), result


def done(*arguments):
    code, text, result = run("motion", *arguments)
    assert code == 0, (text, result.exception)
    return " ".join(text.split())


def refused(*arguments):
    code, text, result = run("motion", *arguments)
    assert code == cli.USER_ERROR and isinstance(result.exception, SystemExit), (text, result.exception)
    assert "Traceback" not in text
    return " ".join(text.split())


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


@pytest.fixture
def clip(tmp_path, face):
    """A clip of two seconds on disk: (path, clip)."""
    t = torch.arange(50)[:, None] / 25
    expression = (0.5 + 0.4 * torch.sin(12 * t)) * face.controls["jaw_open"]
    pose = 0.1 * torch.sin(t + torch.arange(6))
    made = MotionClip(expression, pose, 25, face.hash)
    return made.save(tmp_path / "clip"), made


def test_every_command_explains_itself():
    text = run("motion", "-h")[1]
    assert all(command in text for command in COMMANDS)
    for command in COMMANDS:
        code, text, _ = run("motion", command, "-h")
        assert code == 0 and f"Example: fd2talk motion {command}" in " ".join(text.split())
    assert "[seconds, value]" in " ".join(run("motion", "keyframes", "-h")[1].split())
    assert "Example" in run("audio-to-motion", "-h")[1]


def test_info_tells_what_is_in_a_clip(clip):
    told = done("info", clip[0])
    assert "50 frames, 2.00 s at 25 per second" in told and "0 blinks" in told
    assert re.search(r"jaw_open 0\.10 0\.\d\d 0\.90", told) and "yaw degrees" in told
    other = clip[1].with_changes(face_model="another").save(clip[0].parent / "other")
    assert "not the one of the loaded weights" in done("info", other)


def test_json_there_and_back(clip, tmp_path):
    done("export", clip[0], tmp_path / "clip.json")
    assert json.loads((tmp_path / "clip.json").read_text())["frames"][0]["controls"]["jaw_open"] == 0.5
    done("import", tmp_path / "clip.json", tmp_path / "again")
    again = MotionClip.load(tmp_path / "again.safetensors")
    assert torch.equal(again.expression, clip[1].expression) and torch.equal(again.pose, clip[1].pose)
    assert "not a JSON file" in refused("export", clip[0], tmp_path / "clip.txt")
    assert "does not exist" in refused("import", tmp_path / "nothing.json", tmp_path / "again")


def test_each_edit_writes_the_clip_it_says(clip, tmp_path, face):
    path, original = clip
    out = tmp_path / "deep" / "out.json"

    def edit(*arguments):
        told = done(*arguments, "-o", out)
        made = MotionClip.load(out)
        assert f"{len(made)} frames" in told and "out.json" in told
        return made

    assert len(edit("concat", path, path, path, "--crossfade", "0.2")) == 140
    mixed = edit("blend", path, path, "--weight", "1", "--region", "mouth", "--region", "pose=0.5")
    assert torch.allclose(mixed.expression, original.expression)
    assert len(edit("crop", path, "--start", "0.4", "--end", "1")) == 15
    assert edit("retime", path, "--fps", "50", "--speed", "2").fps == 50
    assert edit("smooth", path, "--method", "one_euro").pose.shape == (50, 6)
    assert torch.equal(edit("mirror", path).pose, mirror(original, face).pose)
    assert len(edit("loop", path, "--seconds", "5")) == 125 and len(edit("loop", path, "--times", "2")) == 80
    keyed = edit("keyframes", path, '{"jaw_open": [[0, 0.25]]}', "--mode", "replace")
    assert control_readings(keyed, face, ["jaw_open"]).numpy() == pytest.approx(0.25, abs=1e-3)
    (tmp_path / "keys.json").write_text('{"yaw": [[0, 10]]}')
    turned = edit("keyframes", path, tmp_path / "keys.json")
    assert torch.allclose(turned.pose[:, 1] - original.pose[:, 1], torch.tensor(np.radians(10)).float(), atol=1e-5)
    posed = edit("pose", path, "--preset", "look_left", "--limit", "5,5,5")
    turn = torch.rad2deg(posed.pose[:, :3])
    assert turn.abs().max() <= 5.001 and turn[-1, 1] < -4


def test_wrong_input_is_told_in_plain_words(clip, tmp_path):
    path, out = clip[0], tmp_path / "out"
    (tmp_path / "text.json").write_text("{ not a clip")
    assert "cannot be read as JSON" in refused("mirror", tmp_path / "text.json", "-o", out)
    assert "does not exist" in refused("concat", path, tmp_path / "none", "-o", out)
    assert "not of the form NAME=NUMBER" in refused("blend", path, path, "-o", out, "--region", "mouth=a")
    assert "no region called 'nose'" in refused("blend", path, path, "-o", out, "--region", "nose")
    assert "weight" in refused("blend", path, path, "-o", out, "--weight", "1.5")
    assert "1000 frames per second" in refused("retime", path, "-o", out, "--fps", "1000")
    assert "nothing called 'wink'" in refused("keyframes", path, '{"wink": [[0, 1]]}', "-o", out)
    assert "not 3 numbers" in refused("pose", path, "-o", out, "--limit", "5,x")
    assert "nothing to do" in refused("pose", path, "-o", out)
    assert "no pose preset called 'dance'" in refused("pose", path, "-o", out, "--preset", "dance")
    assert "cannot be read as a video" in refused("track", tmp_path / "text.json", "-o", out)
    assert ".png, .mp4 or .gif" in refused("preview", path, tmp_path / "out.webp")
    assert not list(tmp_path.glob("out*"))
    assert run("motion", "mirror", path)[0] == 2  # no --out


def test_previews_as_picture_animation_and_video(clip, tmp_path):
    short = clip[1].resampled(10).save(tmp_path / "short")
    done("preview", short, tmp_path / "deep" / "plot.png")
    assert np.asarray(Image.open(tmp_path / "deep" / "plot.png")).std() > 5
    done("preview", short, tmp_path / "face.gif")
    with Image.open(tmp_path / "face.gif") as animation:
        assert animation.n_frames == 20 and animation.info["duration"] == 100 and animation.info["loop"] == 0
    done("preview", short, tmp_path / "face.mp4", "--audio", ROOT / "assets" / "voice.wav")
    assert (tmp_path / "face.mp4").stat().st_size > 1000
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("preview", short, tmp_path / "file" / "plot.png")


def test_tracking_a_video(tmp_path):
    from fd2talk_core.video.writer import SegmentedWriter

    picture = np.asarray(Image.open(ROOT / "assets" / "portrait.png").convert("RGB").resize((256, 256)))
    with SegmentedWriter(tmp_path / "still.mp4", 10, (256, 256), "k") as writer:
        writer.write(np.stack([picture] * 3))
        writer.finish()
    assert "3 frames, 0.30 s at 10 per second" in done("track", tmp_path / "still.mp4", "-o", tmp_path / "tracked")
    tracked = MotionClip.load(tmp_path / "tracked.safetensors")
    assert tracked.pose.abs().max() < 0.02 and tracked.valid.all()


def test_audio_becomes_a_clip(short_voice, tmp_path):
    code, text, result = run("audio-to-motion", short_voice, "-o", tmp_path / "voice.json", "--steps", 2, "--pose", 0)
    assert code == 0, (text, result.exception)
    made = MotionClip.load(tmp_path / "voice.json")
    assert len(made) == 15 and not made.pose.any() and made.expression.std() > 0
    code, text, _ = run("audio-to-motion", tmp_path / "voice.json", "-o", tmp_path / "x.json")
    assert code == cli.USER_ERROR and "Traceback" not in text
