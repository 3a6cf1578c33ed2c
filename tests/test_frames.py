"""Stage 2's networks and sampler, with small random networks where weights do not matter."""

from pathlib import Path

import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.face.geometry import dense_flow
from fd2talk_core.face.landmarks import mouth_opening
from fd2talk_core.face.model import FaceModel
from fd2talk_core.frames import sampling
from fd2talk_core.frames.appearance import Appearance, crop_for, square_crop
from fd2talk_core.frames.autoencoder import Autoencoder, AutoencoderConfig
from fd2talk_core.frames.conditions import AppearanceEncoder, MotionEncoder
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.frames.refine import beside_openings, keep_still
from fd2talk_core.frames.sampling import (
    FrameSampler,
    geometry_only_frames,
    motion_windows,
    sample_frames,
    warped_portraits,
)
from fd2talk_core.frames.unet import FrameUNet, UNetConfig
from fd2talk_core.motion.clip import MotionClip

SIZE = 64
SMALL = {"widths": (16, 16, 24), "heads": 2, "token_width": 16, "embed_width": 16, "motion_radius": 2}


def small_config(**changes):
    return UNetConfig(**(SMALL | {"appearance_width": 16} | changes))


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


def random_model(face, **changes):
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig((16, 16), (1, 1), (16, 16), (1, 1)))
    model = FrameModel(small_config(**changes), autoencoder, face.exp_std, 0.5, face.hash)
    for parameter in model.unet.parameters():  # wake up what starts at zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model(face):
    return random_model(face)


@pytest.fixture
def appearance(face):
    generator = torch.Generator().manual_seed(0)
    picture = (torch.rand(SIZE, SIZE, 3, generator=generator) * 255).byte().numpy()
    pose = torch.tensor([0.05, -0.1, 0.0, 0.0, 0.1, -1.3])
    alpha, beta = torch.randn(80, generator=generator) * face.id_std, torch.zeros(64)
    return Appearance(
        picture, (0, 0, SIZE), SIZE, square_crop(picture, (0, 0, SIZE), SIZE),
        face.landmarks(alpha, beta, pose, SIZE), alpha, beta, pose, 1.0, face.hash,
    )  # fmt: skip


@pytest.fixture
def motion(face):
    generator = torch.Generator().manual_seed(5)
    return MotionClip(
        expression=torch.randn(7, 64, generator=generator) * face.exp_std,
        pose=torch.randn(7, 6, generator=generator) * 0.03,
        fps=25.0,
        face_model=face.hash,
    )


def render(model, face, appearance, motion, **options):
    return torch.cat(list(sample_frames(model, face, appearance, motion, dtype=torch.float32, **options)))


@pytest.mark.parametrize("temporal", [False, True])
def test_unet_keeps_the_latent_shape_at_both_sizes(temporal):
    config = small_config(temporal=temporal)
    unet = FrameUNet(config)
    for cells in (8, 16):
        tokens = [torch.randn(1, (cells // 2) ** 2, 16), torch.randn(1, (cells // 4) ** 2, 32)]
        latent, guide = torch.randn(4, 16, cells, cells), torch.randn(4, 8, cells, cells)
        out = unet(latent, torch.rand(4), latent, guide, torch.randn(4, 5, 16), unet.remember(tokens), frames=4)
        assert out.shape == latent.shape
        assert out.abs().max() == 0  # untrained, it trusts the warp


def test_appearance_tokens_match_what_the_unet_attends_to():
    tokens = AppearanceEncoder(small_config())(torch.randn(2, 22, 16, 16))
    assert [tuple(t.shape) for t in tokens] == [(2, 64, 16), (2, 16, 32)]


def test_motion_tokens_depend_on_the_whole_window(face):
    torch.manual_seed(0)
    encoder = MotionEncoder(small_config(), face.exp_std)
    parts = [torch.randn(1, 5, 64), torch.randn(1, 5, 6), torch.randn(1, 64), torch.randn(1, 6)]
    first = encoder(*parts)
    parts[0] = parts[0].clone()
    parts[0][:, 0] += 1
    assert first.shape == (1, 5, 16)
    assert not torch.allclose(first, encoder(*parts))


def test_windows_repeat_the_ends():
    values = torch.arange(4.0)[:, None]
    windows = motion_windows(values, torch.tensor([0, 3]), 2)
    assert windows[..., 0].tolist() == [[0, 0, 0, 1, 2], [1, 2, 3, 3, 3]]


def test_same_seed_same_frames_whatever_the_batch(model, face, appearance, motion):
    one = render(model, face, appearance, motion, seed=3, batch_size=7)
    other = render(model, face, appearance, motion, seed=3, batch_size=2)
    assert one.shape == (7, SIZE, SIZE, 3)
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, render(model, face, appearance, motion, seed=4), atol=1e-4)


def test_resuming_gives_the_same_frames(model, face, appearance, motion):
    whole = render(model, face, appearance, motion)
    assert torch.allclose(whole[4:], render(model, face, appearance, motion, start=4), atol=1e-4)


def test_motion_and_appearance_both_matter(model, face, appearance, motion):
    sampler = FrameSampler(model, face, appearance, torch.float32)
    noise, rows = torch.zeros(1, 16, 8, 8), torch.arange(2)
    plain, _ = sampler.latents(motion, rows, noise, 2, 1.0, 1.0)
    assert not torch.allclose(plain, sampler.latents(motion, rows, noise, 2, 2.0, 1.0)[0], atol=1e-4)
    assert not torch.allclose(plain, sampler.latents(motion, rows, noise, 2, 1.0, 2.0)[0], atol=1e-4)
    assert torch.allclose(plain, sampler.latents(motion, rows, noise, 2, 1.0 + 1e-7, 1.0)[0], atol=1e-3)


def test_the_flow_is_computed_in_full_precision(model, face, appearance, motion, monkeypatch):
    """Under bf16 the squared distances between flow points drown in rounding, and the warp tears."""
    flows = []

    def watched(*arguments, **options):
        flows.append(dense_flow(*arguments, **options))
        return flows[-1]

    monkeypatch.setattr(sampling, "dense_flow", watched)
    list(sample_frames(model, face, appearance, motion, dtype=torch.bfloat16))
    exact = dense_flow(
        face, appearance.alpha, (appearance.beta, appearance.pose),
        (motion.expression, appearance.pose + motion.pose),
    )  # fmt: skip
    assert torch.allclose(torch.cat(flows), exact, atol=2e-5)


def test_pure_form_ignores_the_warp(face, appearance, motion):
    pure = random_model(face, geometry=False)
    sampler = FrameSampler(pure, face, appearance, torch.float32)
    given = sampler.geometry(sampler.motion(motion, torch.arange(2)))
    assert given.latents.abs().max() == 0 and given.guide.abs().max() == 0


def test_an_untrained_refiner_changes_nothing_and_a_trained_one_moves_and_lights(face, appearance, motion):
    plain, refined = random_model(face), random_model(face, refine=True)
    rows = torch.arange(3)

    def warped(model):
        sampler = FrameSampler(model, face, appearance, torch.float32)
        return sampler.geometry(sampler.motion(motion, rows)).latents

    assert torch.allclose(warped(plain), warped(refined), atol=0.01)
    torch.nn.init.constant_(refined.refiner.light.bias, 1.0)
    lit = warped(refined)
    assert not torch.allclose(warped(plain), lit, atol=1e-3)
    torch.nn.init.constant_(refined.refiner.flow.bias, 1.0)
    assert not torch.allclose(warped(refined), lit, atol=1e-3)


def test_what_stands_still_stays_to_the_pixel(face):
    refiner = random_model(face, refine=True).refiner
    torch.nn.init.constant_(refiner.still.bias, 40.0)
    portrait, flow = torch.rand(3, SIZE, SIZE), torch.full((2, 2, 64, 64), 0.05)
    motion = tuple(torch.zeros(2, *shape) for shape in ((11, 64), (11, 6), (64,), (6,)))
    guide = torch.zeros(2, 8, SIZE // 8, SIZE // 8)
    made, _, still = warped_portraits(portrait, flow, guide, motion, refiner)
    assert torch.allclose(made, portrait.expand(2, -1, -1, -1), atol=1e-5)
    bare, _, unknown = warped_portraits(portrait, flow, guide, motion, None)
    assert unknown is None and not torch.allclose(bare, made, atol=0.1)
    assert torch.equal(keep_still(bare, portrait, still), portrait.expand(2, -1, -1, -1))
    assert torch.equal(keep_still(bare, portrait, 0 * still), bare)
    guide[:, 3] = 1  # all face: it stays where it is, but is drawn
    assert not warped_portraits(portrait, flow, guide, motion, refiner)[2].any()


def test_lips_and_lids_are_as_open_as_commanded(face):
    change = 0.02 * torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    guide = torch.zeros(1, 8, 64, 64)
    guide[:, 0, 40:46, 26:38] = 1  # lips
    guide[:, 2, 20:21, 12:20] = 0.2  # the slit of a closed eye
    made = beside_openings(change, guide)
    for row, column in ((42, 32), (20, 16)):
        assert not made[0, :, row - 1 : row + 2, column].any()
    assert torch.equal(made[..., :8, :], change[..., :8, :])


def test_bare_geometry_is_neither_refined_nor_painted(face, appearance, motion):
    refined = random_model(face, refine=True)
    bare = torch.cat(list(geometry_only_frames(refined, face, appearance, motion, dtype=torch.float32)))
    torch.nn.init.constant_(refined.refiner.flow.bias, 1.0)
    again = torch.cat(list(geometry_only_frames(refined, face, appearance, motion, dtype=torch.float32)))
    assert torch.equal(bare, again)


def test_progress_counts_frames_and_can_cancel(model, face, appearance, motion):
    seen = []

    def progress(done, total):
        seen.append((done, total))
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(model, face, appearance, motion, batch_size=2, progress=progress)
    assert seen == [(2, 7), (4, 7)]


def test_motion_of_another_face_model_is_refused(model, face, appearance, motion):
    motion.face_model = "0" * 16
    with pytest.raises(UserError, match="face model"):
        render(model, face, appearance, motion)


def test_impossible_steps_are_refused(model, face, appearance, motion):
    with pytest.raises(UserError, match="between 1 and 50"):
        render(model, face, appearance, motion, steps=0)


def test_save_and_load_give_the_same_frames(model, face, appearance, motion, tmp_path):
    model.autoencoder.save(tmp_path / "ae.safetensors", {})
    model.save(tmp_path / "frames.safetensors", {"steps": 1})
    again = FrameModel.load(tmp_path / "frames.safetensors", tmp_path / "ae.safetensors")
    first, second = (render(m, face, appearance, motion) for m in (model, again))
    assert (first - second).abs().max() < 0.05  # weights are stored in half precision


def test_crop_is_twice_the_face_and_inside_the_picture():
    landmarks = torch.tensor([[300.0, 200.0, 0.0], [400.0, 320.0, 0.0]]).numpy()
    x0, y0, side = crop_for(landmarks, 1000, 800)
    assert side == 240 and (x0 + side / 2, y0 + side / 2) == (350, 260)
    x0, y0, side = crop_for(landmarks, 420, 800)
    assert x0 + side <= 420


def test_shipped_weights_open_the_mouth_of_the_demo_face_as_asked(face):
    """Our own tracker finds the commanded opening in the frame, and between the lips it is dark behind the teeth."""
    from fd2talk_core.face.tracker import FaceTracker
    from fd2talk_core.frames.appearance import encode_portrait
    from fd2talk_core.video.reading import read_picture

    picture, tracker = read_picture(Path(__file__).parents[1] / "assets" / "portrait.png"), FaceTracker.load()
    look = encode_portrait(picture, tracker, face)
    beta = look.beta + face.controls["jaw_open"] * 0.7
    clip = MotionClip(expression=beta[None], pose=torch.zeros(1, 6), fps=25.0, face_model=face.hash)
    frame = torch.cat(list(sample_frames(FrameModel.load(), face, look, clip)))[0]
    asked = float(mouth_opening(face.vertices(look.alpha, beta)))
    found = tracker.track((frame.numpy() * 255 + 0.5).astype("uint8"))[0].landmarks
    assert 0.6 * asked < float(mouth_opening(found)) < 1.2 * asked
    points = face.landmarks(look.alpha, beta, look.pose, 256)
    x, top, bottom = int(points[13, 0]), int(points[13, 1]), int(points[14, 1])
    assert frame[top:bottom, x].mean(1).min() < 0.6 * frame[bottom + 3, x].mean()
