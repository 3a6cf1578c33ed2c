"""The command line as a user meets it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="the extra 'cli' is not installed")

from fd2talk_core import __version__, cli, cli_training  # noqa: E402
from fd2talk_core.checkpoint import default_weights  # noqa: E402

ROOT = Path(__file__).parents[1]
PORTRAIT, VOICE = ROOT / "assets" / "portrait.png", ROOT / "assets" / "voice.wav"
COMMANDS = ("talk", "prepare", "build-face-model", "train", "average", "evaluate", "bench")


def run(*arguments):
    result = typer_testing.CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "100"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    return result.exit_code, text, result


def assert_user_error(arguments, *sentences):
    code, text, result = run(*arguments)
    assert code == cli.USER_ERROR, text
    assert "Traceback" not in text and isinstance(result.exception, SystemExit)
    told = " ".join(text.split())
    for sentence in sentences:
        assert sentence in told


def test_help_lists_every_command():
    for option in ("-h", "--help"):
        code, text, _ = run(option)
        assert code == 0 and "Example" in text
        assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command):
    code, text, _ = run(command, "-h")
    assert code == 0 and "Example" in text and f"fd2talk {command}" in text


def test_extras_are_named_in_full():
    assert "fd2talk[prepare]" in run("prepare", "-h")[1]
    assert "fd2talk[train]" in run("train", "-h")[1]


def test_version():
    assert run("--version")[:2] == (0, f"fd2talk {__version__}\n")


def test_help_is_quick():
    """No command may load torch before it is asked to work."""
    code = "import sys, fd2talk_core.cli; sys.exit('torch' in sys.modules or 'librosa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_missing_option_is_told():
    code, text, _ = run("talk", "--portrait", PORTRAIT)
    assert code == 2 and "--audio" in text


def test_talk_without_a_portrait_file(tmp_path):
    arguments = ("talk", "-p", tmp_path / "missing.png", "-a", VOICE, "-o", tmp_path / "a.mp4")
    assert_user_error(arguments, "Error: The file missing.png cannot be read as a picture", "Save it again")


def test_prepare_without_a_folder(tmp_path):
    arguments = ("prepare", tmp_path / "missing", tmp_path / "out", "--landmarker", tmp_path / "x.task")
    assert_user_error(arguments, "does not exist. Give a folder with videos or pictures.")


def test_train_unknown_part(tmp_path):
    pytest.importorskip("accelerate", reason="the extra 'train' is not installed")
    assert_user_error(("train", "nose", "--data", tmp_path), "There is no part called 'nose'", "Choose one of")


def test_train_on_unprepared_folder(tmp_path):
    pytest.importorskip("accelerate", reason="the extra 'train' is not installed")
    arguments = ("train", "tracker", "--data", tmp_path, "--out", tmp_path / "run")
    assert_user_error(arguments, "is not prepared", "fd2talk prepare")


def test_build_face_model_on_unprepared_folder(tmp_path):
    assert_user_error(("build-face-model", tmp_path, "-o", tmp_path / "a.safetensors"), "is not prepared")


def test_a_missing_extra_is_named(monkeypatch):
    def broken(*_, **__):
        raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")

    monkeypatch.setattr(cli_training, "_assignments", broken)
    assert_user_error(("train", "motion", "--data", "x"), "needs accelerate", "pip install 'fd2talk[train]'")


def test_options_of_parts():
    assert cli_training._assignments(["width=64", "rate=1e-3", "teacher=../x"]) == {
        "width": 64,
        "rate": 1e-3,
        "teacher": "../x",
    }
    with pytest.raises(cli.UserError, match="NAME=VALUE"):
        cli_training._assignments(["width"])


def test_interruption_is_not_a_traceback(monkeypatch, tmp_path):
    from fd2talk_core import pipeline

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "talk", stopped)
    code, text, _ = run("talk", "-p", PORTRAIT, "-a", VOICE, "-o", tmp_path / "a.mp4")
    assert code == cli.INTERRUPTED and "The same command goes on" in text and "Traceback" not in text


@pytest.mark.weights
def test_talk_writes_video_sheet_and_motion(tmp_path, short_voice):
    if not default_weights("frames").is_file():
        pytest.skip("the weights are not there yet")
    code, text, result = run(
        *("talk", "-p", PORTRAIT, "-a", short_voice, "-o", tmp_path / "a.mp4", "--device", "cpu", "--steps", 1),
        *("--save-motion", tmp_path / "a.safetensors", "--contact-sheet", tmp_path / "a.jpg"),
    )
    assert code == 0, result.exception
    assert "frames per second" in text and "The video is" in text
    for name in ("a.mp4", "a.safetensors", "a.jpg"):
        assert (tmp_path / name).stat().st_size > 1000
