"""Dubbing a person's own video."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fd2talk_core.dubbing import (
    MASK_SIDE,
    MouthMask,
    calmed,
    dub_frames,
    dubbed_expression,
    follow_person,
    frame_order,
    padded_voice,
    steady_crops,
    usual_expression,
)
from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import eye_opening, mouth_opening
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.video.reading import iter_frames

ROOT = Path(__file__).parents[1]
FRAMES = 6


@lru_cache
def models():
    return FrameModel.load().eval(), FaceModel.load(), FaceTracker.load()


@lru_cache
def video() -> tuple[np.ndarray, ...]:
    """Frames of the demo video in which the head moves, made odd in size."""
    frames = list(iter_frames(ROOT / "assets/driving.mp4", 25))[20 : 20 + FRAMES]
    return tuple(frame[:-1, 3:] for frame in frames)


@lru_cache
def performance():
    _, face_model, tracker = models()
    return follow_person(video(), 25.0, tracker, face_model)


def saying(**controls) -> MotionClip:
    """The person's usual face with controls added, held through the video."""
    face_model = models()[1]
    beta = usual_expression(performance()) + face_model.control_vector(controls)
    return MotionClip(beta.expand(FRAMES, -1), torch.zeros(FRAMES, 6), 25.0, face_model.hash)


def dubbed(motion: MotionClip, shown=range(FRAMES), **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Frames before and after, float32 (H, W, 3)."""
    model, face_model, _ = models()
    expression = dubbed_expression(performance(), motion, range(FRAMES), face_model)[list(shown)]
    pairs = []
    for number, patch in zip(
        shown, dub_frames(video(), performance(), expression, list(shown), model, face_model, **options), strict=True
    ):
        before = torch.tensor(video()[number]).float() / 255
        after = before.clone()
        patch.paste_into(after)
        pairs.append((before, after))
    return pairs


def opening(picture: torch.Tensor) -> tuple[float, float]:
    [face] = models()[2].track((picture * 255).round().byte().numpy())
    return float(mouth_opening(face.landmarks)), float(eye_opening(face.landmarks))


@pytest.mark.weights
def test_only_the_mouth_changes_and_it_does_what_it_is_told():
    shown = (1, 4)
    wide, shut = dubbed(saying(jaw_open=0.8), shown), dubbed(saying(), shown)
    for number, (before, after), (_, closed) in zip(shown, wide, shut, strict=True):
        mouth_before, eyes_before = opening(before)
        mouth_after, eyes_after = opening(after)
        assert mouth_after > mouth_before + 0.08 and mouth_after > opening(closed)[0] + 0.08
        assert abs(eyes_after - eyes_before) < 0.04  # what the tracker varies by
        changed = (before != after).any(-1)
        points = performance().landmarks[number]
        rows, columns = torch.nonzero(changed).amin(0), torch.nonzero(changed).amax(0)
        eye_line = float(points[[33, 133, 362, 263], 1].max())
        assert float(rows[0]) > eye_line, "nothing above the lower lids"
        assert float(points[4, 1]) < float(columns[0]) < float(points[152, 1]) + 60
        assert 0.02 < changed.float().mean() < 0.2


def _grown(mask: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0].bool()


@pytest.mark.weights
def test_the_mouth_opens_as_far_as_it_is_told_whatever_the_frame_shows():
    """The frames differ in how open the mouth is; the results differ much less, and have the opening asked for."""
    motion = saying(jaw_open=0.7)
    shown = (0, 2, 5)
    wanted = float(mouth_opening(models()[1].vertices(performance().alpha, motion.expression[0])))
    made = [opening(after)[0] for _, after in dubbed(motion, shown)]
    assert max(abs(value - wanted) for value in made) < 0.35 * wanted


@pytest.mark.weights
def test_there_is_no_border_around_the_mouth():
    for before, after in dubbed(saying(jaw_open=0.5), (0, 3)):
        changed = (before != after).any(-1)
        edge = _grown(~changed) & changed
        assert edge.any() and (after - before).abs()[edge].mean() < 1 / 255


@pytest.mark.weights
def test_steps_that_are_not_offered_are_refused():
    with pytest.raises(UserError, match="51 diffusion steps"):
        dubbed(saying(jaw_open=0.4), (0,), steps=51)


def test_the_seed_decides():
    first, again = dubbed(saying(jaw_open=0.4), (2, 3)), dubbed(saying(jaw_open=0.4), (2, 3))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, again, strict=True))
    [(_, other), _] = dubbed(saying(jaw_open=0.4), (2, 3), seed=1)
    assert not torch.equal(other, first[0][1])


@pytest.mark.weights
def test_full_memory_makes_batches_smaller_and_changes_nothing():
    model, batches, fitting = models()[0], [], 1

    def full(_, inputs):
        batches.append(len(inputs[0]))
        if len(inputs[0]) > fitting:
            raise MemoryError

    freed = []
    alone = dubbed(saying(jaw_open=0.4), (0, 2, 4), steps=1, batch_size=1)
    together = dubbed(saying(jaw_open=0.4), (0, 2, 4), steps=1, batch_size=3)
    hook = model.unet.register_forward_pre_hook(full)
    options = {"steps": 1, "out_of_memory": MemoryError, "free_memory": lambda: freed.append(1)}
    try:
        backed_off = dubbed(saying(jaw_open=0.4), (0, 2, 4), batch_size=3, **options)
        fitting = 0
        with pytest.raises(MemoryError):
            dubbed(saying(jaw_open=0.4), (0,), batch_size=2, **options)
    finally:
        hook.remove()
    assert batches == [3, 1, 1, 1, 1, 1] and freed == [1, 1]
    assert not torch.equal(alone[0][1], alone[0][0]), "the mouth is drawn"
    for (_, one), (_, few), (_, late) in zip(alone, together, backed_off, strict=True):
        assert (one - few).abs().max() < 1e-3, "each frame is drawn from itself, whichever are beside it"
        assert torch.equal(one, late), "once smaller, batches are what small batches are"


@pytest.mark.weights
def test_no_more_frames_are_looked_at_than_are_drawn_at_once():
    class Watched(list):
        def __getitem__(self, index):
            looked_at.append(index)
            return super().__getitem__(index)

    looked_at = []
    model, face_model, _ = models()
    expression = dubbed_expression(performance(), saying(), range(FRAMES), face_model)
    options = {"steps": 1, "batch_size": 2}
    patches = dub_frames(Watched(video()), performance(), expression, range(FRAMES), model, face_model, **options)
    assert next(patches) is not None and next(patches) is not None and looked_at == [0, 1]
    patches.close()


@pytest.mark.weights
def test_everything_but_the_mouth_is_the_tracked_persons():
    face_model = models()[1]
    motion = MotionClip(torch.ones(3, 64), torch.ones(3, 6), 25.0, face_model.hash)
    expression = dubbed_expression(performance(), motion, [0, 1, 2, 3, 2], face_model)
    mouth = face_model.slices["mouth"]
    others = torch.ones(64, dtype=torch.bool)
    others[mouth] = False
    assert torch.equal(expression[:, others], performance().beta[[0, 1, 2, 3, 2]][:, others])
    assert (expression[:, mouth] > 0).all() and torch.equal(expression[4, mouth], expression[3, mouth])


@pytest.mark.weights
def test_landmarks_of_the_fit_lie_on_the_face_in_any_crop():
    who, face_model = performance(), models()[1]
    for crop in ((0, 0, 381), (-20, 35, 300)):
        poses = who.poses_in(np.array(crop), torch.arange(FRAMES))
        points = face_model.landmarks(who.alpha.expand(FRAMES, -1), who.beta, poses, crop[2])[..., :2]
        points = points + torch.tensor(crop[:2])
        error = (points - who.landmarks[..., :2]).norm(dim=-1).mean()
        assert error < 2, f"{error:.1f} pixels beside the tracked landmarks"


@pytest.mark.weights
def test_frames_without_the_face_are_left_alone_or_refused():
    model, face_model, tracker = models()
    frames = list(video()[:3])
    frames[1] = np.full_like(frames[1], 90)
    who = follow_person(frames, 25.0, tracker, face_model)
    assert who.found.tolist() == [True, False, True]
    expression = who.beta.clone()
    patches = list(dub_frames(frames, who, expression, [0, 1, 2], model, face_model, steps=1))
    assert [patch is None for patch in patches] == [False, True, False]
    with pytest.raises(UserError, match="no such face at 0.04 s"):
        follow_person(frames, 25.0, tracker, face_model, no_face="error")
    with pytest.raises(UserError, match="No face was found in the video"):
        follow_person([frames[1]] * 2, 25.0, tracker, face_model)
    with pytest.raises(UserError, match="The video has no frames"):
        follow_person([], 25.0, tracker, face_model)
    with pytest.raises(UserError, match="There is no rule for lost faces called 'hold'"):
        follow_person(frames, 25.0, tracker, face_model, no_face="hold")


@pytest.mark.weights
def test_a_face_at_the_edge_of_the_picture_is_dubbed_up_to_the_edge():
    model, face_model, tracker = models()
    frame = video()[0]
    bottom = int(performance().landmarks[0, 152, 1]) - 8  # through the chin
    who = follow_person([frame[:bottom]], 25.0, tracker, face_model)
    expression = who.beta + face_model.control_vector({"jaw_open": 0.5})
    [patch] = dub_frames([frame[:bottom]], who, expression, [0], model, face_model, steps=1)
    assert patch.y + patch.mask.shape[0] == bottom
    picture = torch.tensor(frame[:bottom]).float() / 255
    patch.paste_into(picture)
    assert torch.isfinite(picture).all()


@pytest.mark.weights
def test_the_mask_covers_the_lips_of_both_mouths_and_no_eye():
    face_model = models()[1]
    alpha, pose = torch.zeros(80), torch.tensor([0, 0.3, 0.1, 0, 0, -1.4])
    betas = torch.stack([torch.zeros(64), face_model.control_vector({"jaw_open": 1.0})])
    mask = MouthMask(face_model)(alpha, betas, pose)
    points = face_model.landmarks(alpha.expand(2, -1), betas, pose.expand(2, -1), float(MASK_SIDE))
    lips = points[:, [0, 17, 61, 291, 13, 14], :2].reshape(-1, 2).long()
    eyes = points[:, [33, 263, 159, 386, 4], :2].reshape(-1, 2).long()
    assert (mask[lips[:, 1], lips[:, 0]] > 0.95).all() and (mask[eyes[:, 1], eyes[:, 0]] == 0).all()
    assert mask.min() == 0 and mask.max() <= 1 and (mask[1:] - mask[:-1]).abs().max() < 0.25


def test_longer_sound_plays_the_video_back_and_forth_or_holds_it():
    assert frame_order(3, 2) == [0, 1, 2]
    assert frame_order(3, 9) == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert frame_order(3, 5, "hold last frame") == [0, 1, 2, 2, 2]
    assert frame_order(1, 3) == [0, 0, 0]
    with pytest.raises(UserError, match="no 'cut' for longer sound"):
        frame_order(3, 5, "cut")


@pytest.mark.parametrize(("seconds", "frames"), [(0.5, 30), (2.0, 50), (2.7, 68)])
def test_the_voice_lasts_to_the_videos_end_and_is_never_cut(seconds, frames):
    voice = np.ones(round(seconds * 16000), np.float32)
    padded, wanted = padded_voice(voice, 16000, 30, 25.0)
    assert wanted == frames and padded.sum() == len(voice)
    assert abs(len(padded) / 16000 - frames / 25) <= 0.5 / 25


def test_jitter_is_calmed_without_lag_and_not_across_gaps():
    points = np.zeros((5, 478, 3), np.float32)
    points[2] = 6
    assert np.allclose(calmed(points, np.ones(5, bool))[:, 0, 0], [0, 1, 4, 1, 0])
    alone = np.array([True, False, True, False, True])
    assert np.allclose(calmed(points, alone)[alone, 0, 0], [0, 6, 0])


def test_crops_keep_their_size_while_the_face_moves():
    oval = np.random.default_rng(0).uniform(-50, 50, (478, 3))
    landmarks = np.stack([oval * (1 + 0.02 * (-1) ** t) + (150 + 4 * t, 160, 0) for t in range(20)])
    crops = steady_crops(landmarks, np.ones(20, bool), (400, 320), 10)
    assert np.ptp(crops[8:12, 2]) <= 1
    centres = crops[:, 0] + crops[:, 2] / 2
    assert np.abs(centres - (150 + 4 * np.arange(20)))[8:12].max() <= 2


@pytest.mark.weights
def test_light_stays_as_it_is():
    """The colour where the mask fades out is the frame's own, also when the network's is off."""
    from fd2talk_core.dubbing import local_colours

    frame = torch.from_numpy(np.asarray(Image.fromarray(video()[0]).resize((256, 256)))).permute(2, 0, 1).float() / 255
    mask = torch.zeros(256, 256)
    mask[120:220, 60:200] = 0.5
    mask[140:200, 80:180] = 1
    fixed = local_colours(frame + torch.tensor([0.1, 0.0, -0.05])[:, None, None], frame, mask)
    assert (fixed - frame)[:, 125:215, 65:195].abs().mean() < 0.01
