"""Every node leaves ComfyUI as it found it: in ComfyUI's own interpreter, with the pack loaded as it loads it."""

from __future__ import annotations

import json
import os
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest
from comfy_server import COMFYUI_DIR, COMFYUI_PYTHON, LOAD_PACK, PACK, environment, missing

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]

# What must be the same before and after.
STATE = """
import hashlib, locale, logging, random, signal, warnings
import numpy as np
import torch
def digest(values):
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]
def state():
    return dict(
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        default_dtype=str(torch.get_default_dtype()),
        default_device=str(torch.get_default_device()),
        grad=torch.is_grad_enabled(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        matmul=torch.get_float32_matmul_precision(),
        cudnn=[torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
               torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32],
        mkldnn=torch.backends.mkldnn.enabled,
        torch_rng=digest(torch.get_rng_state().tolist()),
        numpy_rng=digest([str(part) for part in np.random.get_state()]),
        python_rng=digest(random.getstate()),
        numpy_errors=np.geterr(),
        log_level=logging.root.level,
        log_handlers=[str(handler) for handler in logging.root.handlers],
        logging_off=logging.root.manager.disable,
        locale=locale.setlocale(locale.LC_ALL),
        signals=[str(signal.getsignal(number)) for number in signal.valid_signals()],
        folder=os.getcwd(),
        environment=digest(sorted(os.environ.items())),
        exception_hook=str(sys.excepthook),
    )
def changed(before):
    now = state()
    return [name + ": " + str(before[name]) + " -> " + str(now[name]) for name in now if now[name] != before[name]]
at_start = state()
"""

# One call of every node with small inputs. `values` holds what one node hands to the next.
NODES = """
from PIL import Image
import comfy.model_management as mm
import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl
root = {root!r}
os.makedirs(root + "/input", exist_ok=True)
folder_paths.set_temp_directory(root + "/temp")
folder_paths.set_output_directory(root + "/output")
folder_paths.set_input_directory(root + "/input")
folder_paths.set_user_directory(root + "/user")
NODES = dict((name, node) for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("FD2Talk"))
def samples(seconds):
    import soundfile
    sound, rate = soundfile.read({pack!r} + "/assets/voice.wav", dtype="float32")
    return dict(waveform=torch.from_numpy(sound[: int(seconds * rate)].copy())[None, None], sample_rate=rate)
def picture(name):
    return torch.from_numpy(np.array(Image.open({pack!r} + "/assets/" + name).convert("RGB"))).float()[None] / 255
def call(name, **inputs):
    node = NODES[name].PREPARE_CLASS_CLONE(None)
    defaults = dict()
    for item in node.GET_SCHEMA().inputs:
        if getattr(item, "default", None) is not None:
            defaults[item.id] = item.default
        elif getattr(item, "options", None):
            defaults[item.id] = item.options[0]
    defaults.pop("box", None)
    known = set(item.id for item in node.GET_SCHEMA().inputs)
    assert set(inputs) <= known, (name, set(inputs) - known)
    with torch.inference_mode():
        return node.execute(**(defaults | inputs))
def run_all(after=lambda name: None, calls=call):
    v = dict(portrait=picture("portrait.png"), audio=samples(0.4))
    def step(name, **inputs):
        result = calls(name, **inputs)
        after(name)
        return result.args
    v["motion_model"], v["frame_model"] = step("FD2TalkLoadModels", dtype="fp32")
    models = dict(motion_model=v["motion_model"], frame_model=v["frame_model"])
    frame_model = dict(frame_model=v["frame_model"])
    v["appearance"], v["crop"] = step("FD2TalkEncodeAppearance", image=v["portrait"], **frame_model)
    look = dict(appearance=v["appearance"])
    v["motion"], = step("FD2TalkAudioToMotion", motion_model=v["motion_model"], audio=v["audio"], steps=2, **look)
    motion = dict(motion=v["motion"])
    v["edited"], = step("FD2TalkEditMotion", jaw_open=0.2, **motion)[:1]
    v["blended"], = step("FD2TalkBlendMotion", motion_a=v["motion"], motion_b=v["edited"])
    v["retimed"], = step("FD2TalkRetimeMotion", **motion)
    step("FD2TalkSaveMotion", filename_prefix="motion/clip", **motion)
    v["motion"].save(root + "/input/clip.safetensors")
    v["loaded"], = step("FD2TalkLoadMotion", file="clip.safetensors")
    v["plot"], v["preview"] = step("FD2TalkPreviewMotion", audio=v["audio"], **motion)
    v["frames"], v["fps"] = step("FD2TalkSampleFrames", steps=1, batch_size=3, **motion, **look, **frame_model)
    v["pasted"], = step("FD2TalkPasteBack", frames=v["frames"], **motion, **look)
    v["tracked"], v["no_sound"] = step("FD2TalkTrackMotion", images=v["pasted"][:4], **frame_model)
    v["combined"], = step("FD2TalkVideoCombine", images=v["pasted"][:4], audio=v["audio"])
    v["rendered"], = step("FD2TalkRenderVideo", audio=v["audio"], steps=1, **motion, **look, **frame_model)
    v["talking"], = step("FD2TalkTalkingHead", image=v["portrait"], audio=v["audio"], steps=1, fps=10.0)
    dub = dict(images=v["pasted"][:3], audio=v["audio"], fps=5.0, steps=1)
    v["dubbed"], v["rate"] = step("FD2TalkDubVideo", **dub, **models)
    missing = set(NODES) - set(ran)
    assert not missing, missing
    return v
ran = []
"""

# Network, files written and global state, while the pack is loaded and all nodes run.
QUIET = """
quiet = dict(network=[], written=[], changed=dict())
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        quiet["network"].append(event + " " + repr(args[1:])[:200])
    paths = []
    if event == "open":
        path, mode, flags = args
        writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set(mode) & set("wax+")
        paths = [path] if writing else []
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "shutil.move", "shutil.rmtree"):
        # rmtree, which is seen as a whole, removes by names relative to an open folder.
        inside = event == "os.remove" and args[1] != -1
        paths = [] if inside else [part for part in args[:2] if isinstance(part, (str, os.PathLike))]
    for path in paths:
        if isinstance(path, (str, os.PathLike)):
            path = os.path.abspath(os.fspath(path))
            # Compiled code is kept beside its source by Python, and by numba for librosa.
            if not path.startswith(({root!r}, "/dev/", "/proc/")) and "__pycache__" not in path:
                quiet["written"].append(event + " " + path)
sys.addaudithook(watch)
"""
RUN_QUIETLY = """
quiet["changed"]["import"] = changed(at_start)
last = state()
def after(name):
    global last
    ran.append(name)
    quiet["changed"][name] = changed(last)
    last = state()
first = run_all(after)
values = list(first.items())
ran.clear()
second = run_all(after)
def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if hasattr(a, "expression"):
        return torch.equal(a.expression, b.expression) and torch.equal(a.pose, b.pose)
    if hasattr(a, "get_components"):
        a, b = a.get_components(), b.get_components()
        return torch.equal(a.images, b.images) and a.frame_rate == b.frame_rate
    return a == b if isinstance(a, (int, float, str, type(None))) else None
compared = dict((name, same(value, second[name])) for name, value in values)
result = dict(quiet, nodes=len(NODES), different=[name for name, value in compared.items() if value is False],
              compared=[name for name, value in compared.items() if value])
"""

# The user presses cancel during the second report of progress.
CANCEL = """
comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT = 0
ready = run_all(ran.append)
reports = []
def hook(value, total, preview, node_id=None):
    reports.append(value)
    if len(reports) == 2:
        mm.interrupt_current_processing(True)
comfy.utils.set_progress_bar_global_hook(hook)
def cancelled(name, **inputs):
    reports.clear()
    try:
        call(name, **inputs)
    except mm.InterruptProcessingException:
        return len(reports) - 2
    finally:
        mm.interrupt_current_processing(False)
    return "went on to the end"
frame_model = dict(frame_model=ready["frame_model"])
both = dict(frame_model, motion_model=ready["motion_model"])
look, motion = dict(appearance=ready["appearance"]), dict(motion=ready["motion"])
many = ready["pasted"][:1].expand(24, -1, -1, -1)
result = dict(
    FD2TalkSampleFrames=cancelled("FD2TalkSampleFrames", steps=1, batch_size=1, **look, **motion, **frame_model),
    FD2TalkPasteBack=cancelled("FD2TalkPasteBack", frames=ready["crop"].expand(24, -1, -1, -1), **look),
    FD2TalkTrackMotion=cancelled("FD2TalkTrackMotion", images=many, **frame_model),
    FD2TalkVideoCombine=cancelled("FD2TalkVideoCombine", images=many),
    FD2TalkPreviewMotion=cancelled("FD2TalkPreviewMotion", **motion),
    FD2TalkAudioToMotion=cancelled("FD2TalkAudioToMotion", motion_model=both["motion_model"], audio=samples(2)),
    FD2TalkDubVideo=cancelled("FD2TalkDubVideo", images=many, audio=ready["audio"], steps=1, **both),
)
"""

# No sound, odd pictures, memory that runs out, previews.
ANSWERS = """
ready = run_all(ran.append)
frame_model = dict(frame_model=ready["frame_model"])
both = dict(frame_model, motion_model=ready["motion_model"])
look, motion = dict(appearance=ready["appearance"]), dict(motion=ready["motion"])
def answer(name, **inputs):
    try:
        call(name, **inputs)
    except ValueError as error:
        return str(error)
    return ""
silent = dict(
    FD2TalkAudioToMotion=answer("FD2TalkAudioToMotion", motion_model=ready["motion_model"], audio=None),
    FD2TalkTalkingHead=answer("FD2TalkTalkingHead", image=ready["portrait"], audio=None),
    FD2TalkDubVideo=answer("FD2TalkDubVideo", images=ready["pasted"], audio=None, **both),
    FD2TalkVideoCombine=answer("FD2TalkVideoCombine", images=ready["pasted"], audio=None),
    FD2TalkPreviewMotion=answer("FD2TalkPreviewMotion", audio=None, **motion),
    FD2TalkRenderVideo=answer("FD2TalkRenderVideo", audio=None, steps=1, **motion, **look, **frame_model),
)
sound_needed = [name for name, node in NODES.items() for item in node.GET_SCHEMA().inputs
                if item.get_io_type() == "AUDIO" and name not in silent]
portrait = ready["portrait"]
grey = portrait.mean(-1, keepdim=True)
shapes = dict()
for name, image in dict(
    rgba=torch.cat([portrait, torch.zeros_like(grey)], -1), grey=grey, two_channels=torch.cat([grey, grey], -1),
    batch=portrait.expand(3, -1, -1, -1), no_batch=portrait[0], beyond=portrait * 2 - 0.2, half=portrait.half(),
    tiny=portrait[:, :1, :1], strip=portrait[:, :, :9], empty=portrait[:0], nan=portrait * float("nan"),
    huge=torch.nn.functional.interpolate(portrait.movedim(-1, 1), size=(3000, 3000)).movedim(1, -1),
).items():
    shapes[name] = answer("FD2TalkEncodeAppearance", image=image, **frame_model)
previews = []
comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: previews.append(preview))
shows = dict()
def watched(name, **inputs):
    previews.clear()
    answer = call(name, **inputs)
    shows[name] = [any(preview is not None for preview in previews), answer.ui is not None]
    return answer
ran.clear()
ready = run_all(ran.append, watched)
frame_model = dict(frame_model=ready["frame_model"])
look, motion = dict(appearance=ready["appearance"]), dict(motion=ready["motion"])
told = []
common = sys.modules[NODES["FD2TalkSampleFrames"].__module__.rsplit(".", 1)[0] + ".frames"]
common.tell = lambda node, text, *level: told.append(text)
batches = []
def full(module, args):
    batches.append(len(args[0]))
    if len(args[0]) > 1:
        raise mm.OOM_EXCEPTION("simulated")
hook = ready["frame_model"].patcher.model.unet.register_forward_pre_hook(full)
frames = call("FD2TalkSampleFrames", steps=1, batch_size=8, **motion, **look, **frame_model).args[0]
hook.remove()
error = float((frames - ready["frames"]).abs().max())
tracker = NODES["FD2TalkLoadModels"]
folder = root + "/models"
os.makedirs(folder, exist_ok=True)
folder_paths.add_model_folder_path("fd2talk", folder)
own = folder + "/own.safetensors"
prints = []
for content in (b"a", b"a", b"bb"):
    with open(own, "wb") as file:
        file.write(content)
    os.utime(own, (len(content), len(content)))
    prints.append(repr(tracker.fingerprint_inputs("own.safetensors", "auto")))
for name in ("notes.txt", "old.ckpt", "pickled.pt"):
    with open(folder + "/" + name, "w") as file:
        file.write("x")
listed = [item for item in tracker.define_schema().inputs if item.id == "checkpoint"][0].options
registered = folder_paths.get_folder_paths("fd2talk")
result = dict(silent=silent, sound_needed=sound_needed, shapes=shapes, shows=shows, told=told, batches=batches,
              error=error, prints=prints, listed=listed, registered=registered)
"""


# Memory after each of five runs of the nodes that hold most.
RUNS = """
import gc
motion_model, frame_model = call("FD2TalkLoadModels", dtype="fp32").args
models = dict(motion_model=motion_model, frame_model=frame_model)
portrait, audio, after = picture("portrait.png"), samples(0.4), []
for seed in range(5):
    more = dict(audio=audio, fps=5.0, seed=seed, steps=1, **models)
    call("FD2TalkTalkingHead", image=portrait, **more)
    call("FD2TalkDubVideo", images=portrait.expand(2, -1, -1, -1), **more)
    gc.collect()
    with open("/proc/self/status") as file:
        after.append([int(line.split()[1]) for line in file if line.startswith("VmRSS")][0])
result = dict(after=after)
"""

# Peak memory while frames are checked that take none themselves.
READING = """
rgb = sys.modules[NODES["FD2TalkDubVideo"].__module__.rsplit(".", 1)[0] + ".common"].rgb
def highest():
    with open("/proc/self/status") as file:
        return [int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")][0]
frames = torch.rand(1, 512, 512, 3).expand(400, -1, -1, -1)
rgb(frames[:2])
before = highest()
rgb(frames)
result = dict(grown=highest() - before, frame=frames[0].numel() * 4)
"""

# Who draws and who writes a video hear of the same cancel, of which ComfyUI tells once.
HEARING = """
common = sys.modules[NODES["FD2TalkRenderVideo"].__module__.rsplit(".", 1)[0] + ".common"]
check, network = common.cancel_check(), torch.nn.Linear(2, 2)
progress = common.progress_bar(check)
def works(call, *arguments):
    try:
        call(*arguments)
    except mm.InterruptProcessingException:
        return False
    return True
with common.cancellable(network, check):
    before = [works(progress, 1, 2), works(network, torch.zeros(2))]
    mm.interrupt_current_processing(True)
    after = [works(progress, 1, 2), works(network, torch.zeros(2)), works(progress, 1, 2)]
result = dict(before=before, after=after, later=[works(network, torch.zeros(2)), works(common.progress_bar(), 1, 2)])
"""

# A graphics card full of other nodes' models, which ComfyUI unloads as it is asked to.
FITTING = """
frames = sys.modules[NODES["FD2TalkSampleFrames"].__module__]
needed, free = 256 * 256 * frames.BYTES_PER_PIXEL, 0
class Patcher:
    load_device, model = torch.device("cpu"), None
def makes_room(models, memory_required=0, **options):
    global free
    free = max(free, memory_required)
mm.load_models_gpu, mm.get_free_memory = makes_room, lambda device: free
crowded = frames.batch_that_fits(Patcher, 8, 100, 256)
mm.load_models_gpu, free = lambda *_, **__: None, 3.5 * needed
result = dict(crowded=crowded, small=frames.batch_that_fits(Patcher, 8, 100, 256))
"""


@lru_cache
def in_comfyui(*parts: str, root: str) -> dict:
    """Run code in ComfyUI's interpreter with the pack loaded and its folders in `root`; its `result`."""
    load, rest = LOAD_PACK.split("before, start = ")
    rest = "before, start = " + rest
    code = load + STATE + (parts[0] if parts[0] == QUIET else "") + rest + NODES + "".join(
        part for part in parts if part != QUIET
    )  # fmt: skip
    code = "import os\n" + code.format(pack=str(PACK), root=root) + "\nprint('RESULT', json.dumps(result))\n"
    done = subprocess.run(
        [COMFYUI_PYTHON, "-c", code], cwd=COMFYUI_DIR, env=environment(), capture_output=True, text=True, timeout=600
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert results, done.stderr[-3000:]
    return json.loads(results[0].removeprefix("RESULT "))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> dict:
    return in_comfyui(QUIET, RUN_QUIETLY, root=str(tmp_path_factory.mktemp("quiet")))


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    return in_comfyui(ANSWERS, root=str(tmp_path_factory.mktemp("answers")))


def test_nothing_is_asked_of_the_network(quiet):
    assert quiet["network"] == []


def test_nothing_is_written_outside_comfyuis_folders(quiet):
    assert quiet["written"] == []


def test_import_and_nodes_change_no_global_state(quiet):
    assert len(quiet["changed"]) == quiet["nodes"] + 1
    assert {name: what for name, what in quiet["changed"].items() if what} == {}


def test_the_same_inputs_give_the_same_results(quiet):
    assert quiet["different"] == []
    made = {"crop", "motion", "edited", "blended", "frames", "pasted", "tracked", "dubbed", "rendered", "talking"}
    assert made <= set(quiet["compared"])


def test_cancelling_stops_within_a_frame(tmp_path):
    late = in_comfyui(CANCEL, root=str(tmp_path))
    assert {name: reports for name, reports in late.items() if reports not in (0, 1)} == {}


def test_a_cancel_is_heard_in_every_thread_and_by_that_run_alone(tmp_path):
    result = in_comfyui(HEARING, root=str(tmp_path))
    assert result == {"before": [True, True], "after": [False, False, False], "later": [True, True]}


def test_other_nodes_models_make_room_before_batches_get_smaller(tmp_path):
    assert in_comfyui(FITTING, root=str(tmp_path)) == {"crowded": 8, "small": 3}


def test_memory_does_not_grow_with_runs(tmp_path):
    after = in_comfyui(RUNS, root=str(tmp_path))["after"]
    assert after[-1] == pytest.approx(after[0], rel=0.05), after


def test_a_long_video_is_checked_in_constant_memory(tmp_path):
    result = in_comfyui(READING, root=str(tmp_path))
    assert result["grown"] < 20 * result["frame"]


def test_missing_sound_is_explained_where_sound_is_needed(answers):
    needed = {"FD2TalkAudioToMotion", "FD2TalkTalkingHead", "FD2TalkDubVideo"}
    assert {name for name, text in answers["silent"].items() if text.startswith("There is no audio")} == needed
    assert all(text == "" for name, text in answers["silent"].items() if name not in needed)
    assert set(answers["sound_needed"]) <= {"FD2TalkEditMotion", "FD2TalkRetimeMotion"}, (
        "a node with sound that this test does not know"
    )


def test_every_shape_of_picture_has_an_answer(answers):
    refused = {name: text for name, text in answers["shapes"].items() if text}
    assert set(refused) == {"tiny", "strip", "empty", "nan"}
    assert refused["tiny"].startswith("No face was found") and refused["strip"].startswith("No face was found")
    assert refused["empty"].startswith("The portrait is empty") and "NaN" in refused["nan"]


def test_no_node_shows_live_frames_and_a_result(answers):
    shows = answers["shows"]
    assert {name for name, (live, _) in shows.items() if live} == {
        "FD2TalkSampleFrames", "FD2TalkRenderVideo", "FD2TalkTalkingHead", "FD2TalkDubVideo",
    }  # fmt: skip
    assert {name for name, (live, result) in shows.items() if live and result} == set()
    assert {"FD2TalkEncodeAppearance", "FD2TalkPreviewMotion"} <= {name for name, (_, own) in shows.items() if own}


def test_full_graphics_memory_is_told_once_and_changes_little(answers):
    assert answers["batches"][:5] == [8, 4, 2, 1, 1]
    assert len(answers["told"]) == 1 and "graphics memory is short" in answers["told"][0]
    assert answers["error"] < 1e-3


def test_a_changed_checkpoint_is_loaded_again_and_only_then(answers):
    first, again, changed = answers["prints"]
    assert first == again != changed


def test_only_safetensors_are_offered_with_the_shipped_default_first(answers):
    assert answers["listed"] == ["default (shipped)", "own.safetensors"]
    assert any(Path(folder).parts[-2:] == ("models", "fd2talk") for folder in answers["registered"])
    assert os.sep in answers["registered"][0]
