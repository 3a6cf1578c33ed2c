import numpy as np
import pytest
import torch

from fd2talk_core.audio.loading import frame_count
from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import mouth_opening
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.model import MotionConfig, MotionModel
from fd2talk_core.motion.sampling import generate_motion, make_scheduler

SMALL = {
    "audio_width": 32, "width": 48, "depth": 1, "heads": 2, "pose_width": 32, "pose_depth": 1, "pose_heads": 2,
    "window": 20, "context": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> MotionModel:
    torch.manual_seed(0)
    model = MotionModel(MotionConfig(**SMALL), "hash").eval()
    for name, parameter in model.named_parameters():
        if "adaLN" in name or "modulation" in name or "final_layer" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def shipped() -> MotionModel:
    return MotionModel.load()


def speech_like(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * 16000)) / 16000
    syllables = np.clip(np.sin(2 * np.pi * 3.3 * time), 0, 1)
    voice = sum(np.sin(2 * np.pi * 120 * k * time) * np.exp(-(((120 * k - 650) / 500) ** 2)) for k in range(1, 30))
    return (syllables * 0.08 * voice + 1e-4 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("fps", [1, 12.5, 24, 25, 29.97, 30, 60, 240])
@pytest.mark.parametrize("samples", [1, 3201, 16000, 40007])
def test_frame_count_at_any_rate(small, fps, samples):
    clip = generate_motion(small, speech_like(3)[:samples], fps, steps=1)
    assert len(clip) == frame_count(samples / 16000, fps) and clip.fps == fps
    assert clip.face_model == "hash"


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
def test_same_seed_same_motion(small, sampler):
    audio = speech_like(2)
    first, again, other = (generate_motion(small, audio, steps=3, sampler=sampler, seed=s) for s in (4, 4, -5))
    assert torch.equal(first.expression, again.expression) and torch.equal(first.pose, again.pose)
    assert not torch.allclose(first.expression, other.expression)


def test_earlier_windows_do_not_depend_on_what_follows(small):
    audio = speech_like(3)
    audio[-16000:] = audio[:16000]  # the same speech level with and without it
    short, long = generate_motion(small, audio[:-16000], steps=2), generate_motion(small, audio, steps=2)
    assert torch.allclose(short.expression[:20], long.expression[:20], atol=1e-5)


def test_strengths_scale_deviations(small):
    audio, rest = speech_like(1), torch.full((64,), 0.1)
    clips = [
        generate_motion(small, audio, steps=2, reference_expression=rest, expression_strength=s, pose_strength=s)
        for s in (0.0, 1.0, 2.0)
    ]
    assert torch.allclose(clips[0].expression, rest.expand(25, 64)) and clips[0].pose.abs().max() == 0
    assert torch.allclose(clips[2].expression - rest, 2 * (clips[1].expression - rest), atol=1e-4)
    assert torch.allclose(clips[2].pose, 2 * clips[1].pose, atol=1e-5)


def test_progress_counts_steps_and_can_cancel(small):
    seen = []
    generate_motion(small, speech_like(2), steps=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 9) for i in range(9)]

    class Cancelled(Exception):
        pass

    def cancel(done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        generate_motion(small, speech_like(1), steps=2, progress=cancel)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": np.zeros((2, 100), np.float32)}, "mono"),
        ({"samples": np.zeros(0, np.float32)}, "mono"),
        ({"samples": np.full(16000, np.nan, np.float32)}, "not numbers"),
        ({"fps": 0.0}, "frame rate"),
        ({"steps": 0}, "motion steps"),
        ({"sampler": "magic"}, "sampler"),
        ({"features": torch.zeros(5, 768)}, "log-mel"),
    ],
)
def test_bad_input_is_told(small, arguments, words):
    with pytest.raises(UserError, match=words):
        generate_motion(small, **({"samples": speech_like(0.5)} | arguments))


def test_speech_model_features():
    config = MotionConfig(**SMALL, audio_features=24)
    model = MotionModel(config).eval()
    audio = speech_like(1)
    assert len(generate_motion(model, audio, steps=1, features=torch.randn(25, 24))) == 25
    with pytest.raises(UserError, match="width 24"):
        generate_motion(model, audio, steps=1)


def test_schedulers_predict_the_sample():
    for sampler in ("ddim", "dpm++"):
        scheduler = make_scheduler(MotionConfig(), sampler)
        scheduler.set_timesteps(10)
        assert scheduler.config.prediction_type == "sample" and scheduler.timesteps[0] == 999


def opening(clip) -> np.ndarray:
    return mouth_opening(FaceModel.load().vertices(torch.zeros(80), clip.expression)).numpy()


def test_shipped_model_moves_the_mouth_with_the_voice(shipped):
    assert shipped.face_model_hash == FaceModel.load().hash
    gaps = opening(generate_motion(shipped, speech_like(4), steps=6))
    assert gaps[10:].std() > 0.01 and gaps.max() < 0.6


def test_shipped_model_closes_the_mouth_in_silence(shipped):
    quiet = opening(generate_motion(shipped, np.zeros(4 * 16000, np.float32), steps=6))
    assert np.median(quiet) < 0.05


def test_shipped_model_has_no_seams(shipped):
    clip = generate_motion(shipped, speech_like(13), steps=6)
    speed = clip.expression.diff(dim=0).norm(dim=1)
    borders = torch.tensor([99, 199, 299])
    others = torch.ones(len(speed), dtype=torch.bool)
    others[borders] = False
    assert speed[borders].mean() < speed[others].quantile(0.97)


def test_stage_fits_its_size(shipped):
    from fd2talk_core.checkpoint import default_weights

    assert sum(default_weights(n).stat().st_size for n in ("motion", "lip_expert")) < 11.6e6
