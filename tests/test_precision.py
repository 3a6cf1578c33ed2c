"""Half precisions against float32, with the shipped weights; on a GPU where there is one."""

from pathlib import Path

import pytest
import torch

from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.frames.appearance import encode_portrait
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.frames.sampling import sample_frames
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.video.reading import read_picture

pytestmark = pytest.mark.weights
PORTRAIT = Path(__file__).parents[1] / "assets" / "portrait.png"
# Rounding in bf16 (8 bits of mantissa) shows more than in fp16 (11); both stay far below what an eye sees.
CASES = [("cpu", torch.bfloat16, 32.0), ("cuda", torch.bfloat16, 32.0), ("cuda", torch.float16, 40.0)]


def render(device: str, dtype: torch.dtype) -> torch.Tensor:
    face = FaceModel.load()
    look = encode_portrait(read_picture(PORTRAIT), FaceTracker.load(), face)
    expression = look.beta + face.controls["jaw_open"] * torch.tensor([0.0, 0.4])[:, None]
    motion = MotionClip(expression=expression, pose=torch.zeros(2, 6), fps=25.0, face_model=face.hash)
    return torch.cat(list(sample_frames(FrameModel.load().to(device), face, look, motion, dtype=dtype)))


@pytest.mark.parametrize("device, dtype, decibels", CASES, ids=lambda value: str(value))
def test_half_precision_gives_nearly_the_same_frames(device, dtype, decibels):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    exact, rounded = render("cpu", torch.float32), render(device, dtype)
    assert torch.isfinite(rounded).all()
    assert -10 * (exact - rounded).square().mean().log10() > decibels
