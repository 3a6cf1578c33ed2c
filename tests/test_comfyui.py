"""The nodes inside a real ComfyUI server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import av
import numpy as np
import pytest
from comfy_server import (
    COMFYUI_PYTHON,
    FRONTEND_ONLY,
    LINKED,
    PACK,
    VOICE_SECONDS,
    ComfyServer,
    ExecutionFailed,
    api_prompt,
    in_comfyui,
    missing,
)
from PIL import Image

from fd2talk_core.audio.loading import frame_count
from fd2talk_core.face.landmarks import mouth_opening
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]

NODES = {
    "FD2TalkLoadModels": "Load FD2Talk Models",
    "FD2TalkAudioToMotion": "Generate Motion from Audio",
    "FD2TalkEditMotion": "Edit Motion",
    "FD2TalkBlendMotion": "Blend Motion",
    "FD2TalkRetimeMotion": "Retime Motion",
    "FD2TalkSaveMotion": "Save Motion",
    "FD2TalkLoadMotion": "Load Motion",
    "FD2TalkPreviewMotion": "Preview Motion",
    "FD2TalkTrackMotion": "Track Motion from Video",
    "FD2TalkEncodeAppearance": "Encode Portrait",
    "FD2TalkSampleFrames": "Sample Talking Frames",
    "FD2TalkPasteBack": "Paste Face Back",
    "FD2TalkVideoCombine": "Combine Frames and Audio",
    "FD2TalkRenderVideo": "Render Talking Video",
    "FD2TalkTalkingHead": "Talking Head",
    "FD2TalkDubVideo": "Dub Video",
}
WORKFLOW = "Talking Portrait"
RUN_TIME_PACKAGES = {"diffusers", "librosa", "imageio"}


def encode_prompt(picture: str, **inputs) -> dict:
    return {
        "1": {"class_type": "FD2TalkLoadModels", "inputs": {"checkpoint": "default (shipped)", "dtype": "auto"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "3": {
            "class_type": "FD2TalkEncodeAppearance",
            "inputs": {"frame_model": ["1", 1], "image": ["2", 0], "face_index": 0, "size": "256", **inputs},
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 1]}},
    }


def motion_prompt(audio: dict[str, dict], source: list) -> dict:
    """Audio -> motion -> frames -> saved pictures, by hand."""
    generate = {"seed": 1, "steps": 2, "guidance": 1.0, "fps": 10.0, "expression_strength": 1.0, "pose_strength": 1.0}
    sample = {"seed": 1, "steps": 1, "motion_guidance": 1.0, "appearance_guidance": 1.0, "batch_size": 4}
    links = {"frame_model": ["1", 1], "appearance": ["3", 0], "motion": ["5", 0]}
    return {
        **encode_prompt("portrait.png"),
        **audio,
        "5": {
            "class_type": "FD2TalkAudioToMotion",
            "inputs": {"motion_model": ["1", 0], "audio": source, **generate},
        },
        "6": {"class_type": "FD2TalkSampleFrames", "inputs": {**links, **sample}},
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
    }


def shipped_workflow(server: ComfyServer) -> dict:
    workflow = json.loads((PACK / "workflows" / f"{WORKFLOW}.json").read_text(encoding="utf-8"))
    return api_prompt(workflow, server.get_json("/object_info"))


def test_nodes_are_registered_and_explain_themselves(server):
    info = server.get_json("/object_info")
    ours = {key: value for key, value in info.items() if key.startswith("FD2Talk")}
    assert {key: value["display_name"] for key, value in ours.items()} == NODES
    for key, node in ours.items():
        assert node["category"] == "FD2Talk" and node["description"] and node["search_aliases"], key
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        for name, described in inputs.items():
            assert described[1].get("tooltip"), f"{key}.{name} has no tooltip"
        assert all(node["output_tooltips"]), f"an output of {key} has no tooltip"
        page = server.get(f"/extensions/{LINKED}/docs/{key}.md").decode()
        assert page.startswith(f"# {node['display_name']}\n")
        unnamed = [name for name in inputs if name not in page and key != "FD2TalkEditMotion"]
        assert not unnamed, f"the help page of {key} does not mention {unnamed}"


def test_only_checkpoints_are_offered_shipped_first(server):
    options = server.get_json("/object_info/FD2TalkLoadModels")["FD2TalkLoadModels"]["input"]["required"]["checkpoint"]
    offered = options[1]["options"]
    assert offered[0] == options[1]["default"] == "default (shipped)"
    assert {Path(name).stem for name in offered[1:]} == {"damaged", "foreign", "other_part", "own_motion"}


def test_edit_controls_exist_in_the_face_model(server):
    face_model = FaceModel.load()
    inputs = server.get_json("/object_info/FD2TalkEditMotion")["FD2TalkEditMotion"]["input"]["required"]
    gains = {name.removesuffix("_gain") for name in inputs if name.endswith("_gain")} - {"rotation", "translation"}
    assert gains == set(face_model.slices)
    others = {"motion", "smoothing", "extra_blinks", "blink_seed"}
    controls = {name for name in inputs if not name.endswith("_gain")} - others
    assert controls and controls <= set(face_model.controls)


@pytest.mark.parametrize("path", sorted((PACK / "workflows").iterdir()), ids=lambda path: path.name)
def test_templates_are_served(server, path):
    assert path.stem in server.get_json("/workflow_templates")[LINKED]
    assert server.get(f"/api/workflow_templates/{LINKED}/{urllib.parse.quote(path.name)}") == path.read_bytes()


def test_every_template_has_a_picture_and_known_nodes(server):
    info = server.get_json("/object_info")
    for path in (PACK / "workflows").glob("*.json"):
        assert path.with_suffix(".jpg").is_file(), f"{path.name} has no picture"
        types = {node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
        assert types - set(FRONTEND_ONLY) <= set(info), f"{path.name} has unknown nodes"


def test_shipped_workflow_makes_a_talking_video(server):
    outputs = server.run(shipped_workflow(server))
    [result] = [item for output in outputs.values() for item in output.get("images", []) if output.get("animated")]
    content = server.download(result)
    with av.open(io.BytesIO(content)) as video:
        assert video.streams.video[0].average_rate == 25
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    with av.open(io.BytesIO(content)) as video:
        rate = video.streams.audio[0].rate
        heard = sum(frame.samples for frame in video.decode(audio=0)) / rate
    assert len(frames) == frame_count(VOICE_SECONDS, 25)
    assert VOICE_SECONDS - 0.01 <= heard <= VOICE_SECONDS + 2 * 1024 / rate  # AAC pads to whole blocks of 1024
    assert abs(len(frames) / 25 - VOICE_SECONDS) <= 0.5 / 25 + 1e-6

    portrait = np.asarray(Image.open(server.base / "input/portrait.png"))
    assert frames[0].shape == portrait.shape
    corner = np.s_[:40, :40]
    assert np.abs(frames[5][corner].astype(int) - portrait[corner].astype(int)).mean() < 6, "the background changed"
    faces = list(FaceTracker.load().track_video(frames))
    assert all(face is not None for face in faces)
    opening = mouth_opening(np.stack([face.landmarks for face in faces]))
    assert np.ptp(opening) > 0.04, f"the mouth hardly moves: {np.ptp(opening):.3f} inter-ocular distances"


def test_an_unchanged_prompt_is_not_run_again(server):
    prompt = shipped_workflow(server)
    server.run(prompt)
    entry = server.wait(server.queue(prompt))
    [cached] = [message["nodes"] for kind, message in entry["status"]["messages"] if kind == "execution_cached"]
    assert set(cached) == set(prompt)


def combine_prompt(frames: int, fps: float, **inputs) -> dict:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 101, "height": 67, "batch_size": frames, "color": 0xFF8000},
        },
        "2": {"class_type": "LoadAudio", "inputs": {"audio": "voice.wav"}},
        "3": {
            "class_type": "FD2TalkVideoCombine",
            "inputs": {"images": ["1", 0], "fps": fps, "format": "mp4", **inputs},
        },
        "4": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["3", 0], "filename_prefix": "combined", "format": "auto", "format.codec": "auto"},
        },
    }


def streams(content: bytes) -> tuple[int, tuple[int, int], float, float]:
    """Number of frames, (width, height), frame rate, and seconds of sound."""
    with av.open(io.BytesIO(content)) as file:
        video = file.streams.video[0]
        rate, size = float(video.average_rate), (video.width, video.height)
        frames = sum(1 for _ in file.decode(video=0))
    with av.open(io.BytesIO(content)) as file:
        sounds = file.streams.audio
        heard = sum(frame.samples for frame in file.decode(audio=0)) / sounds[0].rate if sounds else 0.0
    return frames, size, rate, heard


@pytest.mark.parametrize("format", ["mp4", "uncompressed frames"])
@pytest.mark.parametrize(("frames", "fps"), [(81, 30.0), (40, 30.0), (120, 29.97)])
def test_combining_keeps_all_sound_and_even_sizes(server, format, frames, fps):
    [result] = server.run(combine_prompt(frames, fps, format=format, audio=["2", 0]))["4"]["images"]
    made, size, rate, heard = streams(server.download(result))
    assert size == (102, 68) and abs(rate - fps) < 0.01
    assert made >= frames
    assert made / rate >= VOICE_SECONDS - (0.5 / rate if format == "mp4" else 0)
    assert heard >= VOICE_SECONDS - 1e-3
    assert abs(made / rate - max(VOICE_SECONDS, frames / fps)) <= (0.5 if format == "mp4" else 1) / rate + 1e-3


def test_combining_without_sound_gives_a_silent_video(server):
    [result] = server.run(combine_prompt(10, 25.0))["4"]["images"]
    assert streams(server.download(result)) == (10, (102, 68), 25.0, 0.0)


@pytest.mark.parametrize("picture", ["rgba.png", "grey16.png", "two.png"])
def test_unusual_pictures_are_encoded(server, picture):
    [shown] = server.run(encode_prompt(picture))["4"]["images"]
    crop = Image.open(io.BytesIO(server.download(shown)))
    assert crop.size == (256, 256)
    assert len(FaceTracker.load().track(np.asarray(crop.convert("RGB")))) >= 1


def shown_crop(server: ComfyServer, prompt: dict) -> np.ndarray:
    [shown] = server.run(prompt)["4"]["images"]
    return np.asarray(Image.open(io.BytesIO(server.download(shown))).convert("RGB")).astype(float)


def test_of_several_frames_the_first_is_encoded(server):
    prompt = encode_prompt("portrait.png", image=["8", 0])
    prompt["8"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": 3}}
    assert np.array_equal(shown_crop(server, prompt), shown_crop(server, encode_prompt("portrait.png")))


def test_own_checkpoint_is_loaded(server):
    prompt = encode_prompt("portrait.png")
    prompt["1"]["inputs"]["checkpoint"] = "own_motion.safetensors"
    assert shown_crop(server, prompt).shape == (256, 256, 3)


def test_a_box_says_which_face(server):
    box = {"x": 540, "y": 110, "width": 200, "height": 220}
    pictures = []
    for inputs in ({}, {"box": ["8", 0]}, {"face_index": 1}):
        prompt = encode_prompt("two.png", **inputs)
        prompt["8"] = {"class_type": "PrimitiveBoundingBox", "inputs": box}
        pictures.append(shown_crop(server, prompt))
    largest, boxed, second = pictures
    assert np.abs(boxed - second).mean() < 1
    assert np.abs(largest - second).mean() > 1


@pytest.mark.parametrize(
    ("picture", "inputs", "message"),
    [
        ("no_face.png", {}, "No face was found in the picture. Use a picture"),
        ("tiny.png", {}, "pixels wide. Use a larger picture"),
        ("portrait.png", {"face_index": 7}, "There is no face number 7"),
    ],
)
def test_unusable_pictures_are_explained(server, picture, inputs, message):
    with pytest.raises(ExecutionFailed, match=message):
        server.run(encode_prompt(picture, **inputs))


def test_an_edit_opens_the_mouth(server):
    audio = {"8": {"class_type": "LoadAudio", "inputs": {"audio": "half.wav"}}}
    info = server.get_json("/object_info/FD2TalkEditMotion")["FD2TalkEditMotion"]["input"]["required"]
    values = {name: described[1]["default"] for name, described in info.items() if name != "motion"}
    openings = []
    for jaw_open in (0.0, 1.0):
        prompt = motion_prompt(audio, ["8", 0])
        prompt["9"] = {
            "class_type": "FD2TalkEditMotion",
            "inputs": {"motion": ["5", 0], **values, "mouth_gain": 0.0, "jaw_open": jaw_open},
        }
        prompt["6"]["inputs"]["motion"] = ["9", 0]
        shown = server.run(prompt)["7"]["images"]
        assert len(shown) == 5  # half a second at 10 fps
        frames = [np.asarray(Image.open(io.BytesIO(server.download(item))).convert("RGB")) for item in shown]
        tracker = FaceTracker.load()
        openings.append(np.mean([mouth_opening(tracker.track(frame)[0].landmarks) for frame in frames]))
    assert openings[1] > openings[0] + 0.08


def test_missing_sound_is_explained(server):
    audio = {
        "8": {"class_type": "LoadVideo", "inputs": {"file": "silent.mp4"}},
        "9": {"class_type": "GetVideoComponents", "inputs": {"video": ["8", 0]}},
    }
    with pytest.raises(ExecutionFailed, match="There is no audio: .* Connect Load Audio"):
        server.run(motion_prompt(audio, ["9", 1]))


def test_too_short_sound_is_explained(server):
    audio = {"8": {"class_type": "LoadAudio", "inputs": {"audio": "short.wav"}}}
    with pytest.raises(ExecutionFailed, match="shorter than 0.2 s. Use a longer recording"):
        server.run(motion_prompt(audio, ["8", 0]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("damaged.safetensors", "damaged.safetensors is missing or damaged"),
        ("foreign.safetensors", "foreign.safetensors in models/fd2talk is not one of FD2Talk's"),
        ("other_part.safetensors", "holds FD2Talk's face model, and cannot be loaded here"),
    ],
)
def test_unusable_checkpoints_are_explained(server, name, message):
    prompt = encode_prompt("portrait.png")
    prompt["1"]["inputs"]["checkpoint"] = name
    with pytest.raises(ExecutionFailed, match=message):
        server.run(prompt)


def test_cancelling_stops_the_render(server):
    prompt = shipped_workflow(server)
    [sampler] = [node for node in prompt.values() if node["class_type"] == "FD2TalkSampleFrames"]
    sampler["inputs"] |= {"seed": 77, "steps": 50, "batch_size": 4}
    # Loaded anew, the frame model announces in the log that sampling begins.
    [loader] = [node for node in prompt.values() if node["class_type"] == "FD2TalkLoadModels"]
    loader["inputs"]["dtype"] = "fp32"
    sign = "Requested to load FrameModel"
    earlier = server.log.count(sign)
    prompt_id = server.queue(prompt)
    end = time.monotonic() + 120
    while server.log.count(sign) == earlier and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(2)
    assert prompt_id not in server.get_json(f"/history/{prompt_id}"), "the render was over before it could be cancelled"
    server.post("/interrupt", {})
    start = time.monotonic()
    entry = server.wait(prompt_id, 60)
    assert time.monotonic() - start < 20
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]


# The first pass over a batch of more than two frames fails as a full graphics card does.
FULL_MEMORY = """
import importlib, numpy as np, torch
from PIL import Image
import comfy.model_management as mm
core = nodes.NODE_CLASS_MAPPINGS["FD2TalkSampleFrames"].__module__.rsplit(".", 2)[0] + ".fd2talk_core."
encode = importlib.import_module(core + "frames.appearance").encode_portrait
MotionClip = importlib.import_module(core + "motion.clip").MotionClip
with torch.inference_mode():
    _, frame_model = nodes.NODE_CLASS_MAPPINGS["FD2TalkLoadModels"].execute("default (shipped)", "fp32").args
    picture = np.asarray(Image.open({portrait!r}).convert("RGB"))
    look = encode(picture, frame_model.tracker, frame_model.face_model)
    generator = torch.Generator().manual_seed(0)
    motion = MotionClip(
        0.02 * torch.randn(5, 64, generator=generator), torch.zeros(5, 6), 25.0, frame_model.face_model.hash
    )
    sample = nodes.NODE_CLASS_MAPPINGS["FD2TalkSampleFrames"].execute
    small, fps = sample(frame_model, look, motion, 0, 1, 1.0, 1.0, 2).args
    batches = []
    def full(module, args):
        batches.append(len(args[0]))
        if len(args[0]) > 2:
            raise mm.OOM_EXCEPTION("simulated")
    frame_model.patcher.model.unet.register_forward_pre_hook(full)
    backed_off, _ = sample(frame_model, look, motion, 0, 1, 1.0, 1.0, 5).args
result = dict(batches=batches, fps=fps, shape=list(small.shape), error=float((small - backed_off).abs().max()))
"""


def test_import_is_light():
    result = in_comfyui("")
    assert result["seconds"] < 0.3
    packages = set(result["modules"]) - set(sys.stdlib_module_names)
    assert {name for name in packages if not Path(name).is_absolute()} == set(), "only the pack itself, by its folder"


def test_full_graphics_memory_makes_batches_smaller():
    result = in_comfyui(FULL_MEMORY, portrait=str(PACK / "assets/portrait.png"))
    assert result["batches"] == [5, 2, 2, 1]
    assert result["shape"] == [5, 256, 256, 3] and result["fps"] == 25.0
    assert result["error"] < 1e-3


def test_requirements_change_nothing_installed(tmp_path):
    lines = (PACK / "requirements.txt").read_text().split()
    assert {line.split(">=")[0] for line in lines} == RUN_TIME_PACKAGES
    assert all(set(line) & set("<=>!~") == set(">=") for line in lines), "only lower bounds"
    report = tmp_path / "report.json"
    command = [COMFYUI_PYTHON, "-m", "pip", "install", "--dry-run", "--quiet", "--report", report, "-r"]
    done = subprocess.run([*command, PACK / "requirements.txt"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    installed = subprocess.run(
        [COMFYUI_PYTHON, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, timeout=60
    )
    installed = {package["name"].lower().replace("_", "-") for package in json.loads(installed.stdout)}
    changed = {item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]} & installed
    assert not changed, f"would be replaced: {changed}"
