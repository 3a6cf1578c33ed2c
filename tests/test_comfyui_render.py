"""Render Talking Video and Talking Head inside a real ComfyUI server."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from comfy_server import LINKED, PACK, VOICE_SECONDS, ComfyServer, ExecutionFailed, api_prompt, in_comfyui, missing
from PIL import Image
from test_render import transparent

from fd2talk_core.audio.loading import frame_count
from fd2talk_core.video.formats import FORMATS, QUALITIES
from fd2talk_core.video.reading import iter_frames
from fd2talk_core.video.writer import COMMENT

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]

HALF_SECONDS, FPS = 0.5, 12.0


def defaults(server: ComfyServer, node: str) -> dict:
    described = server.get_json(f"/object_info/{node}")[node]["input"]
    inputs = {**described["required"], **described.get("optional", {})}
    return {name: value[1]["default"] for name, value in inputs.items() if "default" in value[1]}


def render_prompt(server: ComfyServer, audio: str = "half.wav", fps: float = FPS, **changes) -> dict:
    links = {"frame_model": ["1", 1], "appearance": ["3", 0], "motion": ["5", 0], "audio": ["4", 0]}
    generate = {**defaults(server, "FD2TalkAudioToMotion"), "fps": fps, "steps": 2, "guidance": 1.0}
    return {
        "1": {"class_type": "FD2TalkLoadModels", "inputs": {"checkpoint": "default (shipped)", "dtype": "fp32"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "portrait.png"}},
        "3": {
            "class_type": "FD2TalkEncodeAppearance",
            "inputs": {"frame_model": ["1", 1], "image": ["2", 0], "face_index": 0, "size": "256"},
        },
        "4": {"class_type": "LoadAudio", "inputs": {"audio": audio}},
        "5": {
            "class_type": "FD2TalkAudioToMotion",
            "inputs": {**generate, "motion_model": ["1", 0], "audio": ["4", 0], "appearance": ["3", 0]},
        },
        "6": {
            "class_type": "FD2TalkRenderVideo",
            "inputs": {**defaults(server, "FD2TalkRenderVideo"), **links, "steps": 1, **changes},
        },
    }


def facts(path) -> tuple[int, float, tuple[int, int], float, str]:
    """Frames, rate, size, seconds of sound, and the comment."""
    with av.open(path) as file:
        video = file.streams.video[0]
        rate, size = float(video.average_rate), (video.width, video.height)
        tags = {name.lower(): value for name, value in file.metadata.items()}
        frames = sum(1 for _ in file.decode(video=0))
    if not isinstance(path, str):
        path.seek(0)
    with av.open(path) as file:
        heard = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
    return frames, rate, size, heard, tags["comment"]


def shipped(server: ComfyServer, name: str) -> dict:
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    return api_prompt(workflow, server.get_json("/object_info"))


def test_literals_are_those_of_the_core():
    result = in_comfyui("""
import importlib
module = importlib.import_module(nodes.NODE_CLASS_MAPPINGS["FD2TalkRenderVideo"].__module__)
result = dict(formats=module.FORMATS, qualities=module.QUALITIES)
""")
    assert tuple(result["formats"]) == tuple(FORMATS) and tuple(result["qualities"]) == QUALITIES


def test_one_node_makes_a_talking_video(server):
    outputs = server.run(shipped(server, "Talking Head"))
    [result] = [item for output in outputs.values() for item in output.get("images", []) if output.get("animated")]
    frames, rate, size, heard, comment = facts(io.BytesIO(server.download(result)))
    assert (frames, rate, size) == (frame_count(VOICE_SECONDS, 25), 25, (512, 512))
    assert heard >= VOICE_SECONDS - 0.01 and comment == COMMENT


def test_one_node_is_the_same_as_the_steps(server):
    prompt = shipped(server, "Talking Head")
    [single] = [node for node in prompt.values() if node["class_type"] == "FD2TalkTalkingHead"]
    single["inputs"] |= {"fps": FPS, "steps": 1, "expression_strength": 0.8}
    outputs = server.run(prompt)
    [result] = [item for output in outputs.values() for item in output.get("images", [])]
    (server.base / "one.mp4").write_bytes(server.download(result))

    steps = render_prompt(server, "voice.wav", filename_prefix="steps")
    steps["1"]["inputs"]["dtype"] = "auto"
    steps["5"]["inputs"] |= {"steps": 6, "guidance": 1.5, "expression_strength": 0.8}
    server.run(steps)
    pair = [
        list(iter_frames(path, None)) for path in (server.base / "one.mp4", server.base / "output/steps_00001_.mp4")
    ]
    assert len(pair[0]) == len(pair[1]) == frame_count(VOICE_SECONDS, FPS)
    assert np.array_equal(np.stack(pair[0]), np.stack(pair[1]))


def test_long_audio_workflow_saves_by_itself(server):
    prompt = shipped(server, "Long Audio")
    [render] = [node for node in prompt.values() if node["class_type"] == "FD2TalkRenderVideo"]
    render["inputs"]["filename_prefix"] = "long/fd2talk"
    server.run(prompt)
    [path] = (server.base / "output/long").iterdir()
    frames, rate, size, heard, _ = facts(str(path))
    assert (frames, rate, size) == (frame_count(VOICE_SECONDS, 25), 25, (512, 512))
    assert heard >= VOICE_SECONDS - 0.01
    assert abs(frames / rate - VOICE_SECONDS) <= 0.5 / rate + 1e-6


def cut_out_prompt(server: ComfyServer, **changes) -> dict:
    """As `render_prompt`, of a portrait whose uppermost 40 rows are transparent."""
    portrait = Image.open(PACK / "assets/portrait.png").convert("RGBA")
    portrait.paste(Image.new("RGBA", (portrait.width, 40), (0, 0, 0, 0)))
    portrait.save(server.base / "input/cut_out.png")
    prompt = render_prompt(server, **changes)
    prompt["2"]["inputs"]["image"] = "cut_out.png"
    prompt["3"]["inputs"]["transparency"] = ["2", 1]
    return prompt


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_every_format(server, form):
    prefix = "formats/" + form.name.replace(" ", "_")
    build = cut_out_prompt if form.keeps_alpha else render_prompt
    server.run(build(server, format=form.name, filename_prefix=prefix))
    video = server.base / f"output/{prefix}_00001_{form.suffix}"
    frames, rate, size, heard, comment = facts(str(video))
    assert frames == frame_count(HALF_SECONDS, FPS) and rate == pytest.approx(FPS, 0.01) and size == (512, 512)
    assert heard >= HALF_SECONDS - 0.01 and comment == COMMENT
    with av.open(str(video)) as file:
        tags = {name.lower(): value for name, value in file.metadata.items()}
    assert json.loads(tags["prompt"])["6"]["inputs"]["format"] == form.name
    if form.beside == "png":
        stills = sorted(video.with_suffix("").glob("*.png"))
        assert len(stills) == frames and Image.open(stills[1]).info["comment"] == COMMENT
        assert json.loads(Image.open(stills[0]).info["prompt"])
        alpha = np.stack([np.asarray(Image.open(path))[..., 3] for path in stills])
    elif form.beside:
        picture = Image.open(video.with_suffix(f".{form.beside}"))
        assert picture.n_frames == frames and picture.size == (512, 512)
    if form.alpha:
        alpha = transparent(video)[..., 3]
    if form.keeps_alpha:
        assert (alpha[:, :30, :100] < 8).all() and (alpha[:, 60:] > 247).all()
    assert not video.with_name(video.name + ".partial").exists()


def test_the_finished_video_can_be_shown_and_temporary(server):
    prompt = render_prompt(server, preview="finished video", save_to="temporary file", picture="face crop")
    [result] = server.run(prompt)["6"]["images"]
    frames, _, size, _, _ = facts(io.BytesIO(server.download(result)))
    assert result["type"] == "temp" and frames == frame_count(HALF_SECONDS, FPS) and size == (256, 256)


def test_motion_longer_than_the_sound_is_not_cut(server):
    prompt = render_prompt(server, "voice.wav", filename_prefix="longer")
    prompt["6"]["inputs"]["audio"] = ["7", 0]
    prompt["7"] = {"class_type": "LoadAudio", "inputs": {"audio": "half.wav"}}
    server.run(prompt)
    frames, rate, _, heard, _ = facts(str(server.base / "output/longer_00001_.mp4"))
    assert frames == frame_count(VOICE_SECONDS, FPS) and heard >= frames / rate - 0.5 / rate


def test_transparent_formats_need_transparency(server):
    with pytest.raises(ExecutionFailed, match="is for portraits with transparency.*Connect MASK of Load Image"):
        server.run(render_prompt(server, format="webm (VP9, transparent)", filename_prefix="opaque"))


def test_a_long_gif_is_refused_before_rendering(server):
    soundfile.write(server.base / "input/long.wav", np.zeros(8000 * 61, np.float32), 8000)
    prompt = render_prompt(server, "long.wav", format="mp4 and gif", filename_prefix="much")
    with pytest.raises(ExecutionFailed, match="lasts 61 seconds, too long for a GIF. Use at most 60"):
        server.run(prompt)
    assert not list((server.base / "output").glob("much*"))


def test_an_unwritable_folder_is_explained(server):
    (server.base / "output/taken").write_text("a file where a folder should be")
    with pytest.raises(ExecutionFailed, match="cannot be made.*Choose another filename_prefix"):
        server.run(render_prompt(server, filename_prefix="taken/video"))


def test_a_cancelled_render_plays_and_goes_on(server):
    prompt = render_prompt(server, "voice.wav", fps=60.0, filename_prefix="cancelled", batch_size=4)
    prompt_id = server.queue(prompt)
    partial = server.base / "output/cancelled_00001_.mp4.partial"
    first = partial / "segment_000000.mp4"
    end = time.monotonic() + 300
    while not first.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    server.post("/interrupt", {})
    start = time.monotonic()
    entry = server.wait(prompt_id, 60)
    assert time.monotonic() - start < 10
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    so_far, _, _, heard, _ = facts(str(partial / "so_far.mp4"))
    assert 96 <= so_far < frame_count(VOICE_SECONDS, 60) and heard >= so_far / 60 - 0.02

    server.run(prompt)
    assert "An interrupted render goes on after frame 96." in server.log
    assert not partial.exists() and not (server.base / "output/cancelled_00002_.mp4").exists()
    whole = render_prompt(server, "voice.wav", fps=60.0, filename_prefix="whole", batch_size=4)
    server.run(whole)
    made = [server.base / f"output/{name}_00001_.mp4" for name in ("cancelled", "whole")]
    for first, second in zip(*(iter_frames(path, None) for path in made), strict=True):
        assert np.array_equal(first, second)


def test_the_blueprint_is_offered_with_known_nodes(server):
    offered = server.get_json("/global_subgraphs")
    ours = {key: value for key, value in offered.items() if LINKED in json.dumps(value)}
    [(key, value)] = ours.items()
    assert value["name"] == "Talking Head (steps)"
    blueprint = json.loads(server.get_json(f"/global_subgraphs/{key}")["data"])
    [graph] = blueprint["definitions"]["subgraphs"]
    info = server.get_json("/object_info")
    for node in graph["nodes"]:
        described = info[node["type"]]["input"]
        known = {**described["required"], **described.get("optional", {})}
        assert {slot["name"] for slot in node["inputs"]} <= set(known)
    for link in graph["links"]:
        if link["target_id"] > 0:
            [target] = [node for node in graph["nodes"] if node["id"] == link["target_id"]]
            slot = target["inputs"][link["target_slot"]]
            assert slot["link"] == link["id"] and slot["type"] == link["type"]
    assert Path(PACK / "subgraphs" / "Talking Head (steps).json").is_file()


@pytest.mark.parametrize(("form", "codecs"), [("mp4 (H.265)", {"hevc", "aac"}), ("webm (VP9)", {"vp9", "opus"})])
def test_combining_in_other_formats(server, form, codecs):
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 101, "height": 67, "batch_size": 3, "color": 255}},
        "2": {"class_type": "LoadAudio", "inputs": {"audio": "half.wav"}},
        "3": {
            "class_type": "FD2TalkVideoCombine",
            "inputs": {"images": ["1", 0], "fps": FPS, "format": form, "audio": ["2", 0], "quality": "small file"},
        },
        "4": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["3", 0], "filename_prefix": "other", "format": "auto", "format.codec": "auto"},
        },
    }
    [result] = server.run(prompt)["4"]["images"]
    content = server.download(result)
    frames, _, size, heard, comment = facts(io.BytesIO(content))
    assert frames == frame_count(HALF_SECONDS, FPS) and size == (102, 68) and heard >= HALF_SECONDS - 0.01
    assert comment == COMMENT
    with av.open(io.BytesIO(content)) as file:
        assert {stream.codec_context.name.removeprefix("lib") for stream in file.streams} == codecs


# Talking Head is cancelled after eight frames, ComfyUI is restarted, which empties the temp folder, and it goes on.
RESTART = """
import functools, importlib, os, shutil, numpy as np, soundfile, torch
import comfy.model_management as mm
import folder_paths
from PIL import Image
root = {folder!r}
folder_paths.set_output_directory(root + "/output")
folder_paths.set_temp_directory(root + "/temp")
folder_paths.set_user_directory(root + "/user")
node = nodes.NODE_CLASS_MAPPINGS["FD2TalkTalkingHead"]
core = node.__module__.rsplit(".", 2)[0] + ".fd2talk_core."
writing = importlib.import_module(core + "video.writer")
iter_frames = importlib.import_module(core + "video.reading").iter_frames
writing.SegmentedWriter = functools.partial(writing.SegmentedWriter, segment_frames=4)
sound, rate = soundfile.read({pack!r} + "/assets/voice.wav", dtype="float32")
audio = dict(waveform=torch.from_numpy(sound[: int(1.2 * rate)].copy())[None, None], sample_rate=rate)
image = torch.from_numpy(np.array(Image.open({pack!r} + "/assets/portrait.png").convert("RGB"))).float()[None] / 255
motion_model, frame_model = nodes.NODE_CLASS_MAPPINGS["FD2TalkLoadModels"].execute("default (shipped)", "fp32").args
calls, left = [], []
def files():
    return sorted(os.path.relpath(os.path.join(path, name), root) for path, _, names in os.walk(root) for name in names)
def talk():
    calls.append([])
    with torch.inference_mode():
        video, = node.PREPARE_CLASS_CLONE(None).execute(
            image, audio, 0, "256", 1.0, 1.0, 1, 10.0, motion_model, frame_model
        ).args
    left.append(files())
    return np.stack(list(iter_frames(video.get_stream_source(), None))).astype(int)
def cancel(module, inputs):
    if len(calls[-1]) == 1 and len(calls) == 1:
        raise mm.InterruptProcessingException()
    calls[-1].append(len(inputs[0]))
frame_model.patcher.model.unet.register_forward_pre_hook(cancel)
try:
    talk()
except mm.InterruptProcessingException:
    left.append(files())
shutil.rmtree(root + "/temp", ignore_errors=True)
resumed = talk()
anew = talk()
result = dict(calls=calls, left=left, shape=resumed.shape, same=bool((resumed == anew).all()))
"""


def test_one_node_goes_on_after_a_restart(tmp_path):
    result = in_comfyui(RESTART, folder=str(tmp_path))
    assert result["calls"] == [[8], [4], [8, 4]] and result["shape"][0] == 12 and result["same"]
    cancelled, resumed, _ = result["left"]
    assert {Path(path).name for path in cancelled} >= {"segment_000001.mp4", "so_far.mp4", "state.json"}
    assert all(Path(path).parts[:3] == ("user", "__fd2talk", "unfinished") for path in cancelled)
    assert [Path(path).parent.name for path in resumed] == ["temp"], "nothing is left over when it is done"


# Graphics memory that is full or nearly so, another VAE, and --disable-metadata, on a render of ten frames.
RENDER = """
import importlib, types, numpy as np, torch
from pathlib import Path
from PIL import Image
import av, comfy.sd, comfy.utils, folder_paths
import comfy.model_management as mm
from comfy.cli_args import args
package = nodes.NODE_CLASS_MAPPINGS["FD2TalkRenderVideo"].__module__.rsplit(".", 2)[0]
rendering = importlib.import_module(package + ".nodes.rendering")
settings = importlib.import_module(package + ".fd2talk_core.render").RenderSettings(steps=1, paste=False)
encode = importlib.import_module(package + ".fd2talk_core.frames.appearance").encode_portrait
MotionClip = importlib.import_module(package + ".fd2talk_core.motion.clip").MotionClip
folder_paths.set_output_directory({folder!r})
state = dict(vae_scale=torch.tensor(0.3611), vae_shift=torch.tensor(0.1159))
for part in ("encoder", "decoder"):
    path = Path({models!r}) / ("taef1_" + part + ".safetensors")
    weights = comfy.utils.load_torch_file(str(path)) if path.is_file() else dict()
    state |= {{"taesd_" + part + "." + key: value for key, value in weights.items()}}
batches, limit, made, tags = [], 99, [], []
def full(module, inputs):
    batches[-1].append(len(inputs[0]))
    if len(inputs[0]) > limit:
        raise mm.OOM_EXCEPTION("simulated")
def render(name, **changes):
    batches.append([])
    hidden = types.SimpleNamespace(unique_id=None, prompt=dict(a=1), extra_pnginfo=dict(workflow=dict(b=2)))
    target = rendering.Target("mp4 and png frames", prefix=name)
    path = rendering.render_to_file(frame_model, look, motion, None, settings, target, hidden, live=False, **changes)
    files = sorted(path.with_suffix("").glob("*.png"))
    made.append(np.stack([np.asarray(Image.open(file)) for file in files]).astype(float))
    with av.open(str(path)) as file:
        tags.append(sorted(file.metadata))
with torch.inference_mode():
    _, frame_model = nodes.NODE_CLASS_MAPPINGS["FD2TalkLoadModels"].execute("default (shipped)", "fp32").args
    look = encode(
        np.asarray(Image.open({portrait!r}).convert("RGB")), frame_model.tracker, frame_model.face_model
    )
    jaw = frame_model.face_model.controls["jaw_open"]
    motion = MotionClip(torch.linspace(0, 1, 10)[:, None] * jaw, torch.zeros(10, 6), 25.0, frame_model.face_model.hash)
    frame_model.patcher.model.unet.register_forward_pre_hook(full)
    render("plain", batch_size=5)
    limit = 2
    render("full", batch_size=8)
    limit, free = 99, mm.get_free_memory
    mm.get_free_memory = lambda *_, **__: 3.5 * 256 * 256 * rendering.BYTES_PER_PIXEL
    args.disable_metadata = True
    render("little", batch_size=8)
    mm.get_free_memory = free
    if len(state) > 2:
        render("vae", batch_size=8, vae=comfy.sd.VAE(sd=state))
result = dict(
    batches=batches, tags=tags, shape=made[0].shape, apart=[float(abs(made[0] - other).max()) for other in made[1:]],
    mean=[float(abs(made[0] - other).mean()) for other in made[1:]],
)
"""


def test_memory_another_vae_and_metadata(tmp_path):
    models = PACK.parent / "shared/models"
    result = in_comfyui(RENDER, folder=str(tmp_path), portrait=str(PACK / "assets/portrait.png"), models=str(models))
    plain, full, little, *vae = result["batches"]
    assert plain == [4, 4, 2], "five do not divide the writer's segments"
    assert full == [8, 4, 2, 2, 2, 2, 2]
    assert little == [3, 3, 3, 1]
    assert result["shape"] == [10, 256, 256, 3] and max(result["apart"][:2]) <= 2
    assert {"prompt", "workflow", "comment", "description"} <= set(result["tags"][0])
    assert {"comment", "description"} <= set(result["tags"][2]) and not {"prompt", "workflow"} & set(result["tags"][2])
    if vae:
        assert 0.2 < result["mean"][2] < 15, "the same person in about the same colours"
