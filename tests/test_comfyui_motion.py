"""The motion nodes and their workflows inside a real ComfyUI server."""

from __future__ import annotations

import io
import json

import av
import numpy as np
import pytest
import torch
from comfy_server import PACK, VOICE_SECONDS, ComfyServer, ExecutionFailed, api_prompt, in_comfyui, missing
from PIL import Image

from fd2talk_core.audio.loading import frame_count
from fd2talk_core.face.landmarks import mouth_opening
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.motion import edit, keyframes, sampling, schedule, tools, tracking
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.interchange import from_json
from fd2talk_core.video.reading import iter_frames

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]

CLIP_FRAMES = 20
SAME_TWICE = {"motion_a": ["1", 0], "motion_b": ["1", 0]}


@pytest.fixture(scope="module")
def clips(server) -> ComfyServer:
    """Motion files, usable and not, in the server's input folder."""
    face_model, folder = FaceModel.load(), server.base / "input"
    times = np.arange(CLIP_FRAMES) / 25
    clip = MotionClip(torch.zeros(CLIP_FRAMES, 64), torch.zeros(CLIP_FRAMES, 6), 25.0, face_model.hash)
    clip = edit.apply_controls(clip, face_model, {"jaw_open": 0.4 + 0.4 * np.sin(10 * times)})
    clip.save(folder / "talk.safetensors")
    pose = torch.zeros(CLIP_FRAMES, 6)
    pose[:, 1] = 0.2
    edit.apply_controls(clip, face_model, {"smile_left": 0.5}).with_changes(pose=pose).save(folder / "turned")
    clip.with_changes(face_model="f" * 16).save(folder / "foreign_clip.safetensors")
    (folder / "broken.json").write_text("{")
    (folder / "workflow.json").write_text('{"nodes": []}')
    return server


def load(name: str) -> dict:
    return {"class_type": "FD2TalkLoadMotion", "inputs": {"file": name}}


def save(source: list, prefix: str, format: str = "safetensors") -> dict:
    inputs = {"motion": source, "filename_prefix": f"motion/{prefix}", "format": format}
    return {"class_type": "FD2TalkSaveMotion", "inputs": inputs}


def defaults(server: ComfyServer, node: str, **changes) -> dict:
    """A node with every widget at its default."""
    described = server.get_json(f"/object_info/{node}")[node]["input"]
    widgets = {**described.get("required", {}), **described.get("optional", {})}
    values = {name: options[1]["default"] for name, options in widgets.items() if "default" in options[1]}
    return {"class_type": node, "inputs": values | changes}


def saved_path(server: ComfyServer, outputs: dict, node: str):
    [result] = outputs[node]["files"]
    return server.base / "output" / result["subfolder"] / result["filename"]


def result_of(server: ComfyServer, prompt: dict, source: str, name: str) -> MotionClip:
    """Run a prompt and read the motion that node `source` gives."""
    outputs = server.run({**prompt, "save": save([source, 0], name)})
    return MotionClip.load(saved_path(server, outputs, "save"))


def workflow(server: ComfyServer, name: str) -> dict:
    content = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    return api_prompt(content, server.get_json("/object_info"))


def decoded(content: bytes) -> tuple[list[np.ndarray], float, float]:
    """Frames, frame rate, seconds of sound."""
    with av.open(io.BytesIO(content)) as file:
        rate = float(file.streams.video[0].average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with av.open(io.BytesIO(content)) as file:
        heard = 0.0
        if file.streams.audio:
            heard = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
    return frames, rate, heard


def shown_video(server: ComfyServer, prompt: dict, outputs: dict, kind: str) -> tuple[list[np.ndarray], float, float]:
    [node] = [key for key, value in prompt.items() if value["class_type"] == kind]
    [result] = outputs[node]["images"]
    return decoded(server.download(result))


def options(server: ComfyServer, node: str, name: str) -> list:
    described = server.get_json(f"/object_info/{node}")[node]["input"]
    return {**described.get("required", {}), **described.get("optional", {})}[name][1]["options"]


def test_choices_are_those_of_the_library(server):
    assert options(server, "FD2TalkAudioToMotion", "sampler") == list(sampling.SAMPLERS)
    assert options(server, "FD2TalkAudioToMotion", "driving_mode") == list(schedule.DRIVING_MODES)
    assert options(server, "FD2TalkAudioToMotion", "driving_end") == list(schedule.DRIVING_ENDS)
    assert options(server, "FD2TalkEditMotion", "smoothing_method") == list(edit.SMOOTHING_METHODS)
    assert options(server, "FD2TalkEditMotion", "keyframe_mode") == list(keyframes.MODES)
    assert options(server, "FD2TalkEditMotion", "interpolation") == list(keyframes.INTERPOLATIONS)
    assert set(options(server, "FD2TalkEditMotion", "pose_preset")) == set(tools.POSE_PRESETS)
    assert options(server, "FD2TalkTrackMotion", "no_face") == list(tracking.NO_FACE)
    assert options(server, "FD2TalkTrackMotion", "reference") == list(tracking.REFERENCES)


def test_edit_motion_workflow(server):
    prompt = workflow(server, "Edit Motion")
    outputs = server.run(prompt)
    frames, rate, heard = shown_video(server, prompt, outputs, "SaveVideo")
    assert len(frames) == frame_count(VOICE_SECONDS, 25) and rate == 25 and heard >= VOICE_SECONDS - 0.01
    preview, rate, heard = shown_video(server, prompt, outputs, "FD2TalkPreviewMotion")
    assert len(preview) == len(frames) and rate == 25 and heard >= VOICE_SECONDS - 0.1
    face_model, side = FaceModel.load(), frames[0].shape[0]
    points = np.stack([face.landmarks for face in FaceTracker.load().track_video(frames)])
    yaw = np.degrees(face_model.fit(torch.from_numpy(points), side).pose[:, 1].numpy())
    assert yaw[48:52].mean() - yaw[:4].mean() > 3, "the head does not follow the keyframes, which turn it by 10 degrees"


def test_reenactment_workflow(server):
    prompt = workflow(server, "Re-enact from Video")
    frames, rate, heard = shown_video(server, prompt, server.run(prompt), "SaveVideo")
    driving = list(iter_frames(PACK / "assets/driving.mp4", None))
    assert len(frames) == len(driving) and rate == 25 and heard == pytest.approx(len(driving) / 25, abs=0.1)
    tracker = FaceTracker.load()
    openings = [
        mouth_opening(np.stack([face.landmarks for face in tracker.track_video(video)])) for video in (driving, frames)
    ]
    correlation = np.corrcoef(openings)[0, 1]
    assert correlation > 0.6, f"the lips do not follow the video: correlation {correlation:.2f}"


def test_blend_and_save_workflow_and_loading_again(server):
    prompt = workflow(server, "Blend and Save Motion")
    outputs = server.run(prompt)
    [node] = [key for key, value in prompt.items() if value["class_type"] == "FD2TalkSaveMotion"]
    exact, text = (server.base / "output" / f["subfolder"] / f["filename"] for f in outputs[node]["files"])
    clip = MotionClip.load(exact)
    assert len(clip) == frame_count(VOICE_SECONDS, 25) and clip.fps == 25
    again = from_json(text)
    assert torch.equal(clip.expression, again.expression) and torch.equal(clip.pose, again.pose)
    assert json.loads(text.read_text())["frames"][0]["controls"]

    [calm] = [key for key, value in prompt.items() if value["inputs"].get("energy") == -1]
    del prompt[node]
    first = result_of(server, prompt, calm, "calm")
    same = round(2 * 25)  # the weight leaves 0 at two seconds
    assert torch.equal(first.expression[:same], clip.expression[:same])
    assert not torch.equal(first.expression[same + 5 :], clip.expression[same + 5 :])

    for file in (exact, text):
        name = f"{file.relative_to(server.base / 'output').as_posix()} [output]"
        assert name in options(server, "FD2TalkLoadMotion", "file")
        loaded = result_of(server, {"1": load(name)}, "1", "again")
        assert torch.equal(loaded.expression, clip.expression)


def test_saving_never_overwrites_and_loading_sees_a_changed_file(clips):
    outputs = [clips.run({"1": load("talk.safetensors"), "2": save(["1", 0], "twice")}) for _ in range(2)]
    assert "files" in outputs[0]["2"]
    clips.run({"1": load("turned.safetensors"), "2": save(["1", 0], "twice")})
    assert len(list((clips.base / "output/motion").glob("twice_*.safetensors"))) == 2  # an unchanged prompt is not run
    clip = MotionClip.load(clips.base / "input/talk.safetensors")
    clip.with_changes(fps=30.0).save(clips.base / "input/changing.safetensors")
    assert result_of(clips, {"1": load("changing.safetensors")}, "1", "changing").fps == 30
    clip.with_changes(fps=50.0).save(clips.base / "input/changing.safetensors")
    assert result_of(clips, {"1": load("changing.safetensors")}, "1", "changing").fps == 50


def test_keyframes_controls_and_pose_are_applied(clips):
    text = '{"smile_left": [[0, 0], [0.4, 0.8]], "yaw": [[0, 0], [0.4, 10]]}'
    node = defaults(clips, "FD2TalkEditMotion", motion=["1", 0], keyframes=text, brow_furrow=0.5)
    plain = MotionClip.load(clips.base / "input/talk.safetensors")
    clip = result_of(clips, {"1": load("talk.safetensors"), "2": node}, "2", "keyframes")
    face_model = FaceModel.load()
    expected = 0.8 * face_model.controls["smile_left"] + 0.5 * face_model.controls["brow_furrow"]
    assert torch.allclose(clip.expression[12] - plain.expression[12], expected, atol=1e-4)
    assert np.degrees(float(clip.pose[12, 1])) == pytest.approx(10, abs=1e-3) and clip.pose[0, 1] == 0


def test_an_untouched_edit_changes_nothing(clips):
    node = defaults(clips, "FD2TalkEditMotion", motion=["1", 0])
    clip = result_of(clips, {"1": load("turned.safetensors"), "2": node}, "2", "untouched")
    plain = MotionClip.load(clips.base / "input/turned.safetensors")
    assert torch.equal(clip.expression, plain.expression) and torch.equal(clip.pose, plain.pose)


def test_an_edit_that_leads_nowhere_is_neither_run_nor_an_error(clips):
    lone, unused = defaults(clips, "FD2TalkEditMotion"), defaults(clips, "FD2TalkEditMotion", motion=["1", 0])
    prompt = {"1": load("talk.safetensors"), "2": save(["1", 0], "beside"), "3": lone, "4": unused}
    answer = clips.post("/prompt", {"prompt": prompt})
    assert not answer["node_errors"]
    entry = clips.wait(answer["prompt_id"])
    assert entry["status"]["status_str"] == "success" and set(entry["outputs"]) == {"2"}


def test_the_editors_update_runs_an_edit_and_nothing_behind_it(clips):
    node = defaults(clips, "FD2TalkEditMotion", motion=["1", 0], brow_furrow=0.3)
    prompt = {"1": load("talk.safetensors"), "2": node, "3": save(["2", 0], "behind")}
    entry = clips.wait(clips.post("/prompt", {"prompt": prompt, "partial_execution_targets": ["2"]})["prompt_id"])
    assert entry["status"]["status_str"] == "success" and entry["outputs"]["2"]["fd2talk_editor"]
    assert not list((clips.base / "output/motion").glob("behind*"))


def test_head_limits_mirror_and_speed(clips):
    node = defaults(clips, "FD2TalkEditMotion", motion=["1", 0], pose_limit=5, mirror=True, speed=2)
    clip = result_of(clips, {"1": load("turned.safetensors"), "2": node}, "2", "limited")
    assert len(clip) == CLIP_FRAMES // 2
    yaw = np.degrees(clip.pose[:, 1].numpy())
    assert -5 <= yaw.min() and yaw.max() < -3, "mirrored and limited to 5 degrees"


@pytest.mark.parametrize(
    ("changes", "frames", "fps"),
    [
        ({}, CLIP_FRAMES, 25),
        ({"start": 0.2, "end": 0.6}, 10, 25),
        ({"speed": 0.5, "fps": 50.0}, 4 * CLIP_FRAMES, 50),
        ({"fit": "loop", "length": 4.0}, 100, 25),
        ({"fit": "stretch", "length": 1.6}, 40, 25),
        ({"fit": "cut or hold", "audio": ["2", 0]}, frame_count(VOICE_SECONDS, 25), 25),
    ],
)
def test_retiming(clips, changes, frames, fps):
    prompt = {
        "1": load("talk.safetensors"),
        "2": {"class_type": "LoadAudio", "inputs": {"audio": "voice.wav"}},
        "3": defaults(clips, "FD2TalkRetimeMotion", motion=["1", 0], **changes),
    }
    clip = result_of(clips, prompt, "3", "retimed")
    assert (len(clip), clip.fps) == (frames, fps)


def test_blending_by_region_and_in_sequence(clips):
    amounts = {f"{region}_amount": 0.0 for region in ("gaze", "eyelids", "brows", "mouth", "rest")}
    motions = {"motion_a": ["1", 0], "motion_b": ["2", 0]}
    sources = {"1": load("talk.safetensors"), "2": load("turned.safetensors")}
    node = defaults(clips, "FD2TalkBlendMotion", **motions, **amounts, weight=1.0)
    clip = result_of(clips, {**sources, "3": node}, "3", "blended")
    a, b = (MotionClip.load(clips.base / "input" / f"{name}.safetensors") for name in ("talk", "turned"))
    assert torch.equal(clip.expression, a.expression) and torch.equal(clip.pose, b.pose)
    node = defaults(clips, "FD2TalkBlendMotion", **motions, mode="one after the other", crossfade=0.2)
    clip = result_of(clips, {**sources, "3": node}, "3", "joined")
    assert len(clip) == 2 * CLIP_FRAMES - 5


def test_preview_shows_a_video_and_gives_a_plot(clips):
    prompt = {
        "1": load("talk.safetensors"),
        "2": defaults(clips, "FD2TalkPreviewMotion", motion=["1", 0], start=0.2, seconds=0.4),
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "4": {"class_type": "GetVideoComponents", "inputs": {"video": ["2", 1]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }
    outputs = clips.run(prompt)
    assert outputs["2"]["animated"] == [True]
    frames, rate, heard = decoded(clips.download(outputs["2"]["images"][0]))
    assert (len(frames), rate, heard) == (10, 25, 0)
    assert np.ptp(np.stack(frames), 0).max() > 50, "nothing moves"
    plot = Image.open(io.BytesIO(clips.download(outputs["3"]["images"][0])))
    assert plot.size == (960, 720) and len(outputs["5"]["images"]) == 10


def track(**inputs) -> dict:
    return {
        "1": {"class_type": "FD2TalkLoadModels", "inputs": {"checkpoint": "default (shipped)", "dtype": "auto"}},
        "2": {"class_type": "LoadVideo", "inputs": {"file": "driving.mp4"}},
        "3": {"class_type": "GetVideoComponents", "inputs": {"video": ["2", 0]}},
        "4": {"class_type": "ImageFromBatch", "inputs": {"image": ["3", 0], "batch_index": 0, "length": 10}},
        "5": {"class_type": "LoadVideo", "inputs": {"file": "silent.mp4"}},
        "6": {"class_type": "CreateVideo", "inputs": {"images": ["4", 0], "fps": 30.0, "audio": ["3", 1]}},
        "7": {
            "class_type": "Video Slice",
            "inputs": {"video": ["2", 0], "start_time": 1.0, "duration": 0.4, "strict_duration": False},
        },
        "8": {"class_type": "FD2TalkTrackMotion", "inputs": {"frame_model": ["1", 1], **inputs}},
    }


@pytest.mark.parametrize(
    ("inputs", "fps"), [({"images": ["4", 0], "fps": 12.5}, 12.5), ({"video": ["6", 0]}, 30), ({"video": ["7", 0]}, 25)]
)
def test_frames_videos_in_memory_and_parts_are_tracked(clips, inputs, fps):
    clip = result_of(clips, track(**inputs), "8", "tracked")
    assert (len(clip), clip.fps) == (10, fps)
    assert clip.valid.all() and clip.expression.std(0).max() > 0.01


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "There is no video. Connect Load Video"),
        ({"video": ["2", 0], "images": ["4", 0]}, "There are both a video and images. Connect one"),
        ({"video": ["5", 0]}, "No face was found in the video"),
        ({"video": ["5", 0], "no_face": "error"}, "There is no face at 0.00 s of the video"),
        ({"images": ["4", 0], "face_index": 3}, "There is no face number 3"),
    ],
)
def test_untrackable_videos_are_explained(clips, inputs, message):
    with pytest.raises(ExecutionFailed, match=message):
        result_of(clips, track(**inputs), "8", "untracked")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keyframes": '{"jaw_open": [[0, 0]'}, "cannot be read as JSON .*line 1 column 21"),
        ({"keyframes": '{"jaw": [[0, 1]]}'}, "nothing called 'jaw' to animate. Use one of: .*jaw_open.*yaw"),
        ({"keyframes": '{"jaw_open": []}'}, "'jaw_open' has no keyframes"),
        ({"keyframes": '{"yaw": [[0, 500]]}'}, "of 'yaw' has the value 500"),
        ({"motion": ["3", 0]}, "was made for face model ffff"),
    ],
)
def test_unusable_edits_are_explained(clips, changes, message):
    inputs = {"motion": ["1", 0], **changes}
    prompt = {
        "1": load("talk.safetensors"),
        "2": defaults(clips, "FD2TalkEditMotion", **inputs),
        "3": load("foreign_clip.safetensors"),
    }
    with pytest.raises(ExecutionFailed, match=message):
        result_of(clips, prompt, "2", "unusable")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.json", "The file broken.json cannot be read as JSON"),
        ("workflow.json", "The file workflow.json is not an FD2Talk motion clip"),
        ("../../secret.json", "does not exist. Press R"),
        ("portrait.png", "portrait.png is not a motion file"),
    ],
)
def test_unusable_motion_files_are_explained(clips, name, message):
    with pytest.raises(ExecutionFailed, match=message):
        result_of(clips, {"1": load(name)}, "1", "unusable")


def test_only_motion_files_are_offered(clips):
    offered = options(clips, "FD2TalkLoadMotion", "file")
    assert {"talk.safetensors", "turned.safetensors", "broken.json"} <= set(offered)
    assert all(name.removesuffix(" [output]").endswith((".safetensors", ".json")) for name in offered)


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("FD2TalkBlendMotion", {"motion_a": ["1", 0], "motion_b": ["2", 0]}, "was made for face model"),
        ("FD2TalkBlendMotion", {"motion_a": ["1", 0], "motion_b": ["1", 0], "weight_schedule": "0: 3"}, "outside of 0"),
        (
            "FD2TalkBlendMotion",
            {"motion_a": ["1", 0], "motion_b": ["1", 0], "weight_schedule": "a"},
            "Entry 1 of the w",
        ),
        ("FD2TalkRetimeMotion", {"motion": ["1", 0], "start": 5.0}, "is empty: the clip lasts 0.8 seconds"),
        ("FD2TalkRetimeMotion", {"motion": ["1", 0], "fit": "loop"}, "There is no length to loop the motion to"),
    ],
)
def test_unusable_tool_settings_are_explained(clips, node, inputs, message):
    prompt = {
        "1": load("talk.safetensors"),
        "2": load("foreign_clip.safetensors"),
        "3": defaults(clips, node, **inputs),
    }
    with pytest.raises(ExecutionFailed, match=message):
        result_of(clips, prompt, "3", "unusable")


def test_saving_outside_the_output_folder_is_refused(clips):
    with pytest.raises(ExecutionFailed, match="outside the output folder"):
        clips.run({"1": load("talk.safetensors"), "2": save(["1", 0], "../../../out")})


def generate(server: ComfyServer, **changes) -> dict:
    inputs = {"motion_model": ["1", 0], "audio": ["2", 0], "steps": 2, "guidance": 1.0}
    return {
        "1": {"class_type": "FD2TalkLoadModels", "inputs": {"checkpoint": "default (shipped)", "dtype": "auto"}},
        "2": {"class_type": "LoadAudio", "inputs": {"audio": "half.wav"}},
        "3": load("turned.safetensors"),
        "4": defaults(server, "FD2TalkAudioToMotion", **inputs, **changes),
    }


def test_controls_reach_the_sampler(clips):
    plain = result_of(clips, generate(clips), "4", "plain")
    driven = result_of(clips, generate(clips, driving_pose=["3", 0]), "4", "driven")
    assert torch.allclose(driven.pose[:, 1], torch.tensor(0.2), atol=1e-3) and plain.pose[:, 1].abs().max() < 0.15
    fading = result_of(
        clips, generate(clips, pose_schedule="0: 0", strength_schedule="0: 0", blink_rate=0), "4", "fade"
    )
    assert fading.pose.abs().max() < 1e-4
    assert fading.expression.std(0).max() < 0.1 * plain.expression.std(0).max()
    for name, value in {"energy": 2.0, "temperature": 0.3, "sampler": "ddim"}.items():
        other = result_of(clips, generate(clips, **{name: value}), "4", name)
        assert not torch.equal(other.expression, plain.expression), f"{name} changes nothing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength_schedule": "0: 1, 2"}, "Entry 2 of the strength_schedule, '2', is not a pair"),
        ({"pose_schedule": "0: 99"}, "is 99. Use a value from 0 to 10"),
    ],
)
def test_unusable_controls_are_explained(clips, changes, message):
    with pytest.raises(ExecutionFailed, match=message):
        result_of(clips, generate(clips, **changes), "4", "unusable")


# ComfyUI's own wav2vec 2.0, small and random, feeds a motion model that was built for features of its width.
SPEECH_FEATURES = """
import importlib, torch
from comfy.audio_encoders.audio_encoders import AudioEncoderModel
pack = nodes.NODE_CLASS_MAPPINGS["FD2TalkAudioToMotion"].__module__.rsplit(".", 2)[0]
core = pack + ".fd2talk_core."
motion = importlib.import_module(core + "motion.model")
face_model = importlib.import_module(core + "face.model").FaceModel.load()
managed = importlib.import_module(pack + ".nodes.models").managed
torch.manual_seed(0)
encoder = AudioEncoderModel(dict(
    model_type="wav2vec2", embed_dim=48, num_heads=2, num_layers=2, conv_norm=False, conv_bias=False,
    do_normalize=False, do_stable_layer_norm=False,
))
for weight in encoder.model.parameters():
    torch.nn.init.normal_(weight, std=0.1)
generate = nodes.NODE_CLASS_MAPPINGS["FD2TalkAudioToMotion"].execute
settings = dict(
    seed=0, steps=2, guidance=1.0, fps=25.0, expression_strength=1.0, pose_strength=1.0, temperature=0.5,
)
audio = {{"waveform": 0.1 * torch.randn(1, 1, 40000), "sample_rate": 16000}}
with torch.inference_mode():
    output = nodes.NODE_CLASS_MAPPINGS["AudioEncoderEncode"].execute(encoder, audio).args[0]
    sizes = dict(audio_width=32, width=32, depth=1, heads=2, pose_width=32, pose_depth=1, pose_heads=2)
    reads_features, reads_mel = (
        managed(motion.MotionModel(motion.MotionConfig(audio_features=width, **sizes), face_model.hash))
        for width in (48, 0)
    )
    clip = generate(motion_model=reads_features, audio=audio, speech_features=output, **settings).args[0]
    words = []
    for model, features in ((reads_mel, output), (reads_features, None), (reads_features, {{}})):
        try:
            generate(motion_model=model, audio=audio, speech_features=features, **settings)
            words.append("")
        except ValueError as error:
            words.append(str(error))
result = dict(width=output["encoded_audio"].shape[-1], frames=len(clip), words=words)
"""


def test_speech_features_reach_a_model_that_reads_them():
    result = in_comfyui(SPEECH_FEATURES)
    assert (result["width"], result["frames"]) == (48, 63)
    mel, none, empty = result["words"]
    assert "reads log-mel, not speech-model features" in mel
    assert "needs speech-model features of width 48" in none
    assert "holds no encoded audio. Connect an Audio Encoder Encode node" in empty
