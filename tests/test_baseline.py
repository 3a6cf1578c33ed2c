import numpy as np
import pytest
import torch

from fd2talk_core.checkpoint import default_weights
from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.training.baseline import HALO, Baseline, BaselineConfig, BaselineTask, make_task
from fd2talk_core.training.speech_data import SpeechClip


def talker(name, identity, held_back, face_model, seed, frames=150):
    """A clip whose jaw follows the level of the upper bands."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.random(frames // 5 + 1), 5)[:frames]
    power = 100 * rng.gamma(2, 0.5, (frames, 4, 80)) * (0.01 + level[:, None, None])
    expression = (1.5 * level[:, None] * face_model.controls["jaw_open"].numpy()).astype(np.float32)
    still = np.zeros((frames, 6), np.float32)
    return SpeechClip(
        name, identity, held_back, expression, still, power.astype(np.float32), still[0], level < 0.1, level
    )


@pytest.fixture(scope="module")
def face_model():
    return FaceModel.load()


def test_an_output_sees_its_halo_and_no_more():
    model = Baseline(BaselineConfig(width=8)).eval()
    mel = torch.randn(1, 60, 4, 80, requires_grad=True)
    model(mel)[0, 30].sum().backward()
    seen = mel.grad[0].abs().sum((1, 2)).nonzero()[:, 0]
    assert (seen.min(), seen.max()) == (30 - HALO, 30 + HALO)


def test_it_learns_and_is_measured_on_held_back_voices(face_model):
    torch.manual_seed(0)
    clips = [talker(f"c{i}", f"who{i}", i >= 4, face_model, i) for i in range(6)]
    task = BaselineTask(clips, batch_size=8)
    batches = task.batches()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=2e-3)
    with torch.no_grad():
        before = task.validate(task.model.eval())[0]
    for _ in range(60):
        loss, _ = task.loss(task.model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after, numbers = task.validate(task.model.eval())
    assert set(numbers) == {"others_correlation"} and after < 0.7 * before and after < 0.5


def test_it_keeps_all_but_the_mouth_still_and_survives_saving(face_model, tmp_path):
    model = Baseline(BaselineConfig(width=8), face_model.hash).eval()
    model.save(tmp_path / "baseline.safetensors", {})
    again = Baseline.load(tmp_path / "baseline.safetensors")
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    expression = again.predict(samples)
    assert expression.shape == (25, 64) and len(again.predict(samples, 30)) == 30
    start, stop = model.config.mouth
    assert expression[:, start:stop].abs().sum() > 0
    assert expression[:, :start].abs().sum() == expression[:, stop:].abs().sum() == 0
    with pytest.raises(UserError, match="not the baseline"):
        Baseline.load(default_weights("face_model"))


def test_bad_options(face_model, tmp_path):
    with pytest.raises(UserError, match="no voices called 'some'"):
        make_task([tmp_path], voices="some")
    with pytest.raises(UserError, match="no dominant voice"):
        BaselineTask([talker("a", "b", False, face_model, 0)], 2, voices="dominant")
