import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fd2talk_core.evaluation import lip_expert
from fd2talk_core.evaluation.lip_expert import Judged
from fd2talk_core.training import shared_sound


def judged(frames, shift=0, seed=0, name="clip"):
    """Unit vectors in which the motion is `shift` frames early: motion[t] belongs to audio[t + shift]."""
    vectors = torch.randn(frames + 60, 32, generator=torch.Generator().manual_seed(seed))
    vectors = F.normalize(vectors, dim=-1)
    return Judged(name, vectors[30 + shift : 30 + shift + frames], vectors[30 : 30 + frames])


@pytest.mark.parametrize("shift", [0, 1, -7, 15])
def test_the_true_offset_is_found(shift):
    clip = judged(71, shift)
    assert lip_expert.whole_clip_offset(clip.similarity) == (shift, 31)
    found = lip_expert.second_offsets(clip.similarity)
    # Positions 15 and 27 are the ones with 15 frames of sound on both sides.
    assert found == [(shift, 31)] * 2


def test_short_clips_try_the_offsets_that_fit():
    assert lip_expert.whole_clip_offset(judged(21).similarity) == (0, 27)
    assert lip_expert.whole_clip_offset(judged(8).similarity) == (0, 0)
    assert lip_expert.second_offsets(judged(31).similarity) == [(0, 11)]
    assert lip_expert.second_offsets(judged(21).similarity) == []


def test_true_clips_are_found_among_32_and_strangers_at_chance():
    rng = np.random.default_rng(0)
    clips = [judged(40, seed=seed) for seed in range(40)]
    assert lip_expert.crowd_accuracy(clips, rng) == (1.0, 32)
    strangers = [Judged("x", a.motion, b.audio) for a, b in zip(clips, clips[1:] + clips[:1], strict=True)]
    assert lip_expert.crowd_accuracy(strangers, rng)[0] < 0.1
    # Two clips hold four whole seconds.
    assert lip_expert.crowd_accuracy([judged(60), judged(60, seed=1)], rng) == (1.0, 4)
    assert lip_expert.crowd_accuracy([judged(21)], rng)[1] == 0


class Recording:
    def __init__(self, name, identity, samples):
        self.name, self.identity, self._samples = name, identity, samples

    def samples(self):
        return self._samples


def recording(seed, seconds=6.0):
    """Noise in irregular bursts, like syllables."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(10.0 ** rng.uniform(-3, -0.5, int(seconds * 8) + 1), 2000)
    return (rng.normal(0, 1, int(seconds * 16_000)) * loudness[: int(seconds * 16_000)]).astype(np.float32)


def test_shared_sound_is_found_whole_in_part_quiet_and_noisy():
    rng = np.random.default_rng(9)
    training = [Recording(f"t{i}", f"who{i}", recording(i)) for i in range(5)]
    training.append(Recording("mute", "who9", None))
    cases = {
        "same": recording(2),
        "cut": recording(3)[20_000:70_000],
        "quiet": -0.3 * recording(4),
        "noisy": recording(1) + rng.normal(0, 0.002, 96_000).astype(np.float32),
        "new": recording(77),
        "short": recording(2)[:16_000],
    }
    clips = [Recording(name, "held", sound) for name, sound in cases.items()]
    found = shared_sound.shared_sound(clips, training)
    assert found == {"same": "t2", "cut": "t3", "quiet": "t4", "noisy": "t1"}
    assert shared_sound.shared_sound([Recording("own", "who2", recording(2))], training) == {}
    assert shared_sound.shared_sound(clips, [training[-1]]) == {}


def test_training_leaves_out_what_is_heard_in_held_back_clips():
    def made(name, seed, held_back, synced=True):
        clip = Recording(name, f"person {name}", recording(seed))
        clip.held_back, clip.still, clip.synced = held_back, False, synced
        return clip

    clips = [made("a", 1, False), made("b", 2, False), made("c", 2, True), made("d", 3, True)]
    clips.append(made("e", 3, False, synced=False))
    assert shared_sound.heard_when_held_back(clips) == {"b": "c"}
