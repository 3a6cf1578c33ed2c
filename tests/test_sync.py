"""Offsets between sound and picture: measured, written, applied."""

import numpy as np
import pytest
import torch

from fd2talk_core.training.speech_data import SILENT, SpeechClip, shifted
from fd2talk_core.training.sync import measure_offsets, peak, read_offsets, write_offsets


def clip(name: str, identity: str, sound: np.ndarray, motion: np.ndarray, held_back: bool = False) -> SpeechClip:
    frames = len(motion)
    expression = np.zeros((frames, 64), np.float32)
    expression[:, 28] = motion
    power = np.repeat(np.exp(sound)[:, None, None], 4, 1).repeat(80, 2).astype(np.float32)
    pose = np.zeros((frames, 6), np.float32)
    still = np.zeros(frames, bool)
    return SpeechClip(name, identity, held_back, expression, pose, power, pose[0], still, np.zeros(frames, np.float32))


class LoudnessExpert:
    """Judges a window of five frames by how alike the courses of loudness and of one coefficient are."""

    def __call__(self, expression, mel):
        windows = [
            torch.nn.functional.normalize((x - x.mean()).unfold(0, 5, 1), dim=-1)
            for x in (expression[0, :, 28], mel[0].mean((1, 2)))
        ]
        return (windows[0] @ windows[1].T)[None]


def course(rng: np.random.Generator, frames: int) -> np.ndarray:
    return np.convolve(rng.normal(size=frames + 4), np.ones(5) / 2, "valid").astype(np.float32)


@pytest.mark.parametrize("offset", [-2, 0, 3])
def test_offset_is_found(offset):
    rng = np.random.default_rng(0)
    sound = course(rng, 220)
    motion = sound[10 + offset : 210 + offset]
    made = clip("a", "a", sound[10:210], motion)
    assert measure_offsets(LoudnessExpert(), [made])["a"] == pytest.approx(offset, abs=0.25)


def test_short_clips_share_their_identity_and_unclear_ones_take_the_median():
    rng = np.random.default_rng(1)
    clips = []
    for index in range(3):
        sound = course(rng, 120)
        clips.append(clip(f"short{index}", "one", sound[10:100], sound[12:102]))
    clips.append(clip("tiny", "other", course(rng, 40), course(rng, 40)))
    offsets = measure_offsets(LoudnessExpert(), clips)
    assert {offsets[f"short{k}"] for k in range(3)} == {2.0}
    assert offsets["tiny"] == 2.0


def test_talker_with_many_clips_is_the_reference():
    rng = np.random.default_rng(2)
    clips = []
    for index in range(50):
        sound = course(rng, 60)
        clips.append(clip(f"s{index}", "dominant", sound[5:55], sound[7:57]))
    assert set(measure_offsets(LoudnessExpert(), clips).values()) == {0.0}


def test_peak_between_frames():
    at = np.arange(-8, 9)
    assert peak(-((at - 1.5) ** 2.0))[0] == 1.5


def test_shifted_moves_sound_by_quarters_of_a_frame():
    power = np.arange(8 * 4, dtype=np.float32).reshape(8, 4, 1)
    later = shifted(power, 1.25)
    assert later[0, 0, 0] == 5 and later[-1, -1, 0] == np.float32(SILENT)
    assert np.array_equal(shifted(later, -1.25)[2:7], power[2:7])


def test_offsets_are_read_as_written(tmp_path):
    write_offsets(tmp_path, {"b": -0.75, "a": 2.0})
    assert read_offsets(tmp_path) == {"a": 2.0, "b": -0.75}
    assert read_offsets(tmp_path / "nothing") == {}
