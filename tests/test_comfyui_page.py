"""What a user meets in the real page: templates that run at once, cancelling, errors. Needs chromium and playwright."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from itertools import pairwise

import pytest
import torch
from comfy_page import MODES, ComfyPage, no_page
from comfy_server import COMFYUI_PYTHON, ComfyServer, write_voice

from fd2talk_core.motion.clip import MotionClip

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(no_page()), reason=no_page() or "all is there")]

FRONTEND = "comfyui-frontend-package"
SECONDS = 1.6  # of sound: 40 frames, so that a fast machine too shows more than one batch of 8
VIDEO = "[...document.querySelectorAll('video')].find(video => video.readyState > 1 && video.checkVisibility())"
PLAYED = f"""() => {{ const video = {VIDEO}; return {{
    width: video.videoWidth, duration: video.duration, time: video.currentTime, muted: video.muted,
    sound: video.webkitAudioDecodedByteCount, box: video.getBoundingClientRect().toJSON() }}; }}"""


def newest_frontend(folder) -> str:
    """The folder of the newest page on PyPI, kept in `folder`; skips where it cannot be had or is the installed one."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), FRONTEND]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the newest {FRONTEND} cannot be had: {(error.stderr or str(error))[-300:]}")
    wheel = max(folder.glob("*.whl"), key=lambda path: [int(part) for part in path.name.split("-")[1].split(".")])
    version = wheel.name.split("-")[1]
    code = f"from importlib.metadata import version; assert version({FRONTEND!r}) != {version!r}"
    if subprocess.run([COMFYUI_PYTHON, "-c", code], capture_output=True).returncode:
        pytest.skip(f"the newest {FRONTEND}, {version}, is the installed one, or none is installed")
    if not (unpacked := folder / version).exists():
        zipfile.ZipFile(wheel).extractall(unpacked)
    return str(unpacked / "comfyui_frontend_package" / "static")


@pytest.fixture(scope="module", params=["asked for", "newest"])
def fresh(request, tmp_path_factory):
    """A server with a new folder, in which there is nothing but this pack, and one of two frontends."""
    options = []
    if request.param == "newest":
        options = ["--front-end-root", newest_frontend(request.config.cache.mkdir("frontend"))]
    server = ComfyServer(tmp_path_factory.mktemp("fresh") / "comfyui", *options)
    server.frontend = request.param
    yield server
    server.stop()


@pytest.mark.parametrize("mode", MODES)
def test_template_run_and_the_video_plays(fresh, browser, mode):
    comfy = ComfyPage(fresh, browser, MODES[mode])
    comfy.name = f"{fresh.frontend}, {mode}"
    for template in ("Talking Head", "Talking Portrait"):
        run_template(comfy, template)
    comfy.close()


def run_template(comfy: ComfyPage, template: str) -> None:
    """Choose it, press Run and nothing else, and look at what is seen on the way and in the end."""
    page = comfy.page
    # The example recording, only shorter, and of another length each time, so that ComfyUI has something to do.
    seconds = SECONDS + 0.1 * comfy.vue + 0.2 * (template == "Talking Head")
    write_voice(comfy.server.base / "input/fd2talk_voice.wav", seconds)
    comfy.open_template(template)
    page.wait_for_timeout(1000)  # warnings of missing things come late
    comfy.screenshot(f"{comfy.name}, {template}, loaded")
    assert comfy.complaints() == []
    comfy.press_run()
    assert comfy.wait_for_outcome()["type"] == "execution_success", comfy.complaints()
    sampler = "FD2TalkTalkingHead" if template == "Talking Head" else "FD2TalkSampleFrames"
    seen = comfy.progress()
    falls = sum(later < earlier for earlier, later in pairwise(seen[sampler]))
    assert falls <= (template == "Talking Head"), seen  # which shows the motion's progress first, then the frames'
    assert len(seen[sampler]) > 2, f"the bar does not advance: {seen}"

    page.wait_for_function(VIDEO)
    page.evaluate(f"{VIDEO}.play()")
    page.wait_for_function(f"{VIDEO}.currentTime > 0.2")
    played = page.evaluate(PLAYED)
    comfy.screenshot(f"{comfy.name}, {template}, done")
    assert played["width"] == 512 and played["duration"] == pytest.approx(seconds, abs=0.05)
    assert played["sound"] > 0 and not played["muted"], "no sound is decoded"
    # Frontend 1.49 forgets Save Video's height when it is loaded; in Nodes 2.0 the video then has some 100 pixels.
    assert min(played["box"]["width"], played["box"]["height"]) > 60, "the video is hardly seen"
    assert comfy.complaints() == []


@pytest.fixture(scope="module", params=MODES)
def comfy(request, server, browser):
    stranger = MotionClip(torch.zeros(5, 64), torch.zeros(5, 6), 25.0, "0123456789abcdef")
    stranger.save(server.base / "input/stranger.safetensors")
    page = ComfyPage(server, browser, MODES[request.param])
    page.name = request.param
    yield page
    page.close()


def steps(picture: str = "portrait.png", audio: str = "voice.wav", checkpoint: str = "default (shipped)", **sample):
    """From portrait and voice to frames, at the smallest size; sample: inputs of Sample Talking Frames."""
    return {
        "1": {"class_type": "FD2TalkLoadModels", "inputs": {"checkpoint": checkpoint}},
        "2": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "3": {"class_type": "FD2TalkEncodeAppearance", "inputs": {"frame_model": ["1", 1], "image": ["2", 0]}},
        "4": {"class_type": "LoadAudio", "inputs": {"audio": audio}},
        "5": {"class_type": "FD2TalkAudioToMotion", "inputs": {"motion_model": ["1", 0], "audio": ["4", 0]}},
        "6": {
            "class_type": "FD2TalkSampleFrames",
            "inputs": {"frame_model": ["1", 1], "appearance": ["3", 0], "motion": ["5", 0], **sample},
        },
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
    }


def test_a_run_is_cancelled_and_the_next_one_works(comfy, record_property):
    comfy.load(steps(steps=8, seed=comfy.vue))
    page = comfy.page
    comfy.press_run()
    drawn = "(window.fd2talkTest.progress.FD2TalkSampleFrames ?? []).length"
    page.wait_for_function(f"{drawn} > 1", timeout=600_000)
    started = page.evaluate("Date.now()")
    page.wait_for_function(f"{drawn} > 3", timeout=600_000)
    before, clicked = page.evaluate(drawn), page.evaluate("Date.now()")
    page.get_by_role("button", name="Cancel current run").click()
    outcome = comfy.wait_for_outcome()
    seconds, step = (outcome["at"] - clicked) / 1000, (clicked - started) / 2000
    record_property("seconds until cancelled", seconds)
    assert outcome["type"] == "execution_interrupted" and comfy.complaints() == []
    assert seconds < 1 + step, f"{seconds:.1f} s, while one step of progress takes {step:.1f} s"
    assert max(comfy.progress()["FD2TalkSampleFrames"]) < 0.9 and page.evaluate(drawn) <= before + 2
    comfy.screenshot(f"{comfy.name}, cancelled")

    comfy.load(steps(audio="half.wav", steps=1, seed=comfy.vue))
    comfy.press_run()
    assert comfy.wait_for_outcome()["type"] == "execution_success", comfy.complaints()
    assert comfy.progress()["FD2TalkSampleFrames"], "nothing was sampled"


def without_sound() -> dict:
    prompt = steps()
    prompt["4"] = {"class_type": "LoadVideo", "inputs": {"file": "silent.mp4"}}
    prompt["8"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["4", 0]}}
    prompt["5"]["inputs"]["audio"] = ["8", 1]
    return prompt


def with_motion_of_another_face_model() -> dict:
    prompt = steps()
    del prompt["4"]
    prompt["5"] = {"class_type": "FD2TalkLoadMotion", "inputs": {"file": "stranger.safetensors"}}
    return prompt


@pytest.mark.parametrize(
    ("prompt", "problem", "remedy"),
    [
        (steps("no_face.png"), "No face was found in the picture.", "Use a picture"),
        (without_sound(), "There is no audio", "Connect Load Audio"),
        (with_motion_of_another_face_model(), "was made for face model", "Make the clip again"),
        (steps(checkpoint="other_part.safetensors"), "holds FD2Talk's face model", "Choose a motion model"),
    ],
    ids=["no face", "no sound", "another face model", "another part"],
)
def test_an_error_says_in_the_page_what_is_wrong_and_what_to_do(request, comfy, prompt, problem, remedy):
    comfy.load(prompt)
    comfy.press_run()
    assert comfy.wait_for_outcome()["type"] == "execution_error"
    comfy.page.get_by_test_id("error-overlay-see-errors").click()
    comfy.page.get_by_text(problem).first.wait_for()
    comfy.screenshot(f"{comfy.name}, error, {request.node.callspec.id}")
    shown = comfy.page.locator("body").inner_text().split("Stack Trace")[0]
    assert problem in shown and remedy in shown.split(problem)[1], shown
