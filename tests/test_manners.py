"""What would fail on somebody else's machine: double precision on Apple's GPU, calls that only NVIDIA has, pickles."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.frames.appearance import encode_portrait
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.frames.sampling import sample_frames
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.model import MotionModel
from fd2talk_core.motion.sampling import noise_scale, sample_window

ROOT = Path(__file__).parents[1]
# What users run; training, evaluation and preparation are run by those who have chosen their machine.
OFFLINE = {"training", "evaluation", "prepare"}
RUN_TIME = sorted(
    path
    for folder in ("nodes", "fd2talk_core")
    for path in (ROOT / folder).rglob("*.py")
    if not OFFLINE & set(path.relative_to(ROOT).parts)
)
FORBIDDEN_CALLS = {"torch.load", "torch.save", "pickle.load", "pickle.loads", "eval", "exec", "print",
                   "torch.set_num_threads", "torch.set_grad_enabled", "torch.set_default_dtype", "torch.manual_seed",
                   "np.random.seed", "random.seed", "logging.basicConfig", "signal.signal", "locale.setlocale",
                   "os.chdir", "torch.use_deterministic_algorithms", "gc.disable"}  # fmt: skip
SETTERS = ("torch.backends.", "torch.cuda.", "os.environ")


def dotted(node: ast.AST) -> str:
    """A name as it is written, such as torch.cuda.empty_cache; what is not a name in front becomes a question mark."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def faults(source: str, name: str = "") -> list[str]:
    """What in some Python source binds it to one machine or changes the process around it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            call = dotted(node.func)
            if call in FORBIDDEN_CALLS or call.endswith(".cuda"):
                found.append(f"{name}:{node.lineno} {call}")
            if call.startswith("torch.cuda.") and call != "torch.cuda.is_available":
                found.append(f"{name}:{node.lineno} {call}")
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                written = dotted(target.value if isinstance(target, ast.Subscript) else target)
                if written.startswith(SETTERS):
                    found.append(f"{name}:{node.lineno} sets {written}")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{name}:{node.lineno} bare except")
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [
                f"{name}:{node.lineno} import {module}" for module in modules if module in ("pickle", "torchaudio")
            ]
    return found


def test_the_check_finds_what_it_should():
    bad = "import pickle\nx.cuda()\ntorch.load(f)\ntorch.cuda.empty_cache()\nos.environ['A'] = 'b'\n"
    bad += "torch.backends.cudnn.benchmark = True\ntry:\n    pass\nexcept:\n    pass\n"
    assert len(faults(bad)) == 7
    assert faults("torch.cuda.is_available()\nx = torch.backends.mps\n") == []


def test_run_time_code_minds_its_own_business():
    assert len(RUN_TIME) > 40
    # The command-line program is a process of its own and may print and set its threads.
    sources = [path for path in RUN_TIME if not path.name.startswith("cli")]
    assert [fault for path in sources for fault in faults(path.read_text(encoding="utf-8"), path.name)] == []


class NoDoubles(TorchDispatchMode):
    """Notes every operation that makes a float64 tensor, which Apple's MPS does not have."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                self.seen.add(str(func))
        return result


def test_the_watch_sees_doubles():
    with NoDoubles() as watch:
        torch.zeros(2).double()
    assert watch.seen


@pytest.mark.weights
def test_frames_are_made_without_double_precision():
    face_model = FaceModel.load()
    picture = np.asarray(Image.open(ROOT / "assets/portrait.png").convert("RGB"))
    look = encode_portrait(picture, FaceTracker.load(), face_model)
    motion = MotionClip(torch.zeros(2, 64), torch.zeros(2, 6), 25.0, face_model.hash)
    model = FrameModel.load().eval()
    with NoDoubles() as watch:
        frames = next(sample_frames(model, face_model, look, motion, steps=2, motion_guidance=1.5))
    assert frames.dtype == torch.float32 and not watch.seen


@pytest.mark.weights
def test_motion_is_made_without_double_precision():
    model, face_model = MotionModel.load().eval(), FaceModel.load()
    config, frames = model.config, 12
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(1, config.context + frames, config.audio_width, generator=generator)
    noise = torch.randn(1, frames, 70, generator=generator) * noise_scale(face_model.slices)
    with NoDoubles() as watch:
        clean = sample_window(model, audio, None, (torch.zeros(1, 69), torch.zeros(1, 12)), noise, steps=3)
    assert clean.dtype == torch.float32 and not watch.seen
