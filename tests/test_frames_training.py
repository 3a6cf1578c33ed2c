"""Training of stage 2 on a few prepared frames: pairs, latents, the warp's correction, the frame network."""

import csv
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from fd2talk_core.face.model import FaceModel
from fd2talk_core.frames.autoencoder import Autoencoder, AutoencoderConfig
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.prepare.run import _write_video
from fd2talk_core.training import frames as frames_task
from fd2talk_core.training.critic import Adversary
from fd2talk_core.training.data import is_held_back
from fd2talk_core.training.frame_augment import changed_landmarks, changed_pictures, colour_change, shape_change
from fd2talk_core.training.frames_data import LATENT_FIELDS, MADE_PER_STILL, PAIR_FIELDS, build_latents, build_pairs
from fd2talk_core.training.loop import TrainSettings, train
from fd2talk_core.training.pair_stream import IN_A_ROW, FreshPairs, PairStream
from fd2talk_core.training.warp import load_refiner
from fd2talk_core.training.warp import make_task as warp_task

FRAMES, SIZE = 36, 96


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


@pytest.fixture(scope="module")
def data(tmp_path_factory, face):
    """Two prepared clips, one of them held back: coloured noise with the landmarks of a talking, nodding face."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    names = {held: next(f"clip{i}" for i in range(99) if is_held_back(f"clip{i}") == held) for held in (False, True)}
    rows = []
    for name in names.values():
        picture = (rng.random((SIZE // 8, SIZE // 8, 3)) * 255).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        _write_video(folder / f"{name}.mp4", [picture] * FRAMES, SIZE)
        course = torch.linspace(0, 1, FRAMES)
        beta = face.controls["jaw_open"] * (course[:, None] - 0.3)  # shut at first
        pose = torch.zeros(FRAMES, 6)
        pose[:, 0], pose[:, 5] = 0.1 * course, -1.3
        landmarks = face.landmarks(torch.zeros(FRAMES, 80), beta, pose, 1.0).numpy().astype(np.float32)
        blendshapes, valid = np.zeros((FRAMES, 52), np.float32), np.ones(FRAMES, bool)
        save_file({"landmarks": landmarks, "blendshapes": blendshapes, "valid": valid}, folder / f"{name}.safetensors")
        rows.append({"clip": name, "still": False, "size": SIZE, "frames": FRAMES, "identity": name})
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def stills(tmp_path_factory, face):
    """Two prepared stills of training identities."""
    folder = tmp_path_factory.mktemp("stills")
    names = [name for name in (f"still{i}" for i in range(99)) if not is_held_back(name)][:2]
    rng = np.random.default_rng(1)
    rows = []
    for name in names:
        picture = (rng.random((SIZE // 8, SIZE // 8, 3)) * 255).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(picture).save(folder / f"{name}.png")
        pose = torch.tensor([[0.0, 0, 0, 0, 0, -1.3]])
        landmarks = face.landmarks(torch.zeros(1, 80), torch.zeros(1, 64), pose, 1.0).numpy().astype(np.float32)
        labels = {"landmarks": landmarks, "blendshapes": np.zeros((1, 52), np.float32), "valid": np.ones(1, bool)}
        save_file(labels, folder / f"{name}.safetensors")
        rows.append({"clip": name, "still": True, "size": SIZE, "frames": 1, "identity": name})
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "autoencoder.safetensors"
    torch.manual_seed(0)
    Autoencoder(AutoencoderConfig((16, 16), (1, 1), (16, 16), (1, 1))).save(path, {})
    return path


def test_pairs_and_their_latents_are_made_once(data, face, autoencoder, tmp_path):
    pairs = build_pairs([data], tmp_path, False, 8, face, 2)
    assert set(pairs) == set(PAIR_FIELDS)
    assert pairs["pixels"].dtype == np.uint8 and pairs["pixels"].shape[1:] == (3, 256, 256)
    assert np.abs(pairs["flow"]).max() > 0.01  # the jaw moves
    latents = build_latents(pairs, tmp_path, face, Autoencoder.load(autoencoder), None)
    assert set(latents) == set(LATENT_FIELDS)
    assert latents["warped"].shape == (len(pairs["pose"]), 16, 32, 32)
    assert not np.array_equal(latents["warped"], latents["bare"])  # opening mouths are painted
    written = (tmp_path / "flow.npy").stat().st_mtime_ns
    build_pairs([data], tmp_path, False, 8, face, 2)
    assert (tmp_path / "flow.npy").stat().st_mtime_ns == written


def test_reference_and_target_change_colour_alike():
    change = colour_change(np.random.default_rng(3))
    picture = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(change(picture.expand(2, -1, -1, -1))[1], change(picture)[0])
    assert not torch.equal(change(picture), picture)


def test_a_change_of_shape_moves_landmarks_with_the_picture():
    """White dots on black stay where their landmarks are."""
    rng = np.random.default_rng(5)
    change = shape_change(rng)
    places = rng.uniform(25, 75, (4, 2)).round()
    frame = np.zeros((100, 100, 3), np.uint8)
    for x, y in places.astype(int):
        frame[y - 1 : y + 2, x - 1 : x + 2] = 255
    landmarks = np.concatenate([places + 0.5, np.ones((4, 1))], 1)
    moved = changed_landmarks(landmarks, change, 100)
    assert np.abs(moved - landmarks)[:, :2].max() > 1
    picture = changed_pictures([frame], change, 200)[0, 0].numpy()
    for x, y, _ in moved * 2:
        assert picture[int(y), int(x)] > 200


def test_stills_serve_as_the_truth_for_their_moved_selves(stills, data, face, tmp_path):
    pairs = build_pairs([data, stills], tmp_path, False, 24, face, 2)
    made = np.flatnonzero(pairs["made"])
    assert len(made) == MADE_PER_STILL * 2
    middle = pairs["expression"].shape[1] // 2
    moves = pairs["expression"][made, middle].astype(np.float32) - pairs["beta"][made]
    assert (np.abs(moves).max(1) > 0).any()
    assert (np.abs(moves) <= 1.5 * face.exp_std.numpy() + 0.01).all()
    # Real targets: the still itself, as its own unmoved pair has it.
    own = np.flatnonzero([any(np.array_equal(p, t) for t in pairs["pixels"][made]) for p in pairs["portrait"]])
    assert set(own) - set(made)


def test_veiled_warps_are_blurred_where_a_mask_says(monkeypatch):
    monkeypatch.setattr(frames_task, "VEILED", 1.0)
    batch = {"guide": torch.zeros(6, 8, 32, 32), "warped": torch.randn(6, 16, 32, 32)}
    batch["guide"][:, :4, 10:20, 10:20] = 1
    before = batch["warped"].clone()
    frames_task.FramesTask._veil(batch)
    changed = (batch["warped"] - before).abs().amax((0, 1)) > 0
    assert changed[12:18, 12:18].all() and not changed[:6].any()
    assert batch["warped"][:, :, 12:18, 12:18].std() < 0.4 * before[:, :, 12:18, 12:18].std()


def test_warp_learns_a_shift_that_landmarks_do_not_tell(data, tmp_path):
    """Targets moved by two pixels against their landmarks: the correction has to find out."""
    task = warp_task([data], tmp_path, batch_size=4, pairs=8)
    for source in (task.data, task.held):
        source["pixels"] = np.roll(source["pixels"], 2, axis=3)
    before = task.validate(task.model)[1]["all"]
    settings = TrainSettings(steps=40, minutes=5, lr=4e-3, warmup=5, ema=0.9, log_steps=1000)
    train(task, settings, tmp_path / "run")
    refiner = load_refiner(tmp_path / "run" / "warp.safetensors", task.face.exp_std)
    assert before == pytest.approx(1.0, abs=0.01)
    assert task.validate(refiner)[1]["all"] < 0.85


def test_fresh_pairs_are_new_each_time_and_some_are_in_time(data, stills, face):
    torch.manual_seed(1)
    chunks = iter(FreshPairs([data, stills], face, None, 2, 64, 0.5))
    found = [next(chunks) for _ in range(40)]
    assert {len(c["pose"]) for c in found} == {IN_A_ROW, IN_A_ROW * 8}  # stills and clips
    for chunk in found:
        # Which of a reference's targets are neighbours, read from the windows' middles instead of all of them.
        middles = chunk["expression"][:, 2].reshape(-1, IN_A_ROW, 64)
        ahead = chunk["expression"][:, 3].reshape(-1, IN_A_ROW, 64)
        follow = (ahead[:, :-1] == middles[:, 1:]).all((1, 2)) & (middles[:, 0] != middles[:, 1]).any(1)
        assert (chunk["sequence"][::IN_A_ROW] <= follow).all()
    clips = [c for c in found if len(c["pose"]) > IN_A_ROW]
    assert any(c["sequence"].any() for c in clips) and not all(c["sequence"].all() for c in clips)
    assert not np.array_equal(clips[0]["portrait"], clips[1]["portrait"])


def test_a_stream_forgets_the_oldest_pairs_and_draws_neighbours_in_order(data, face, autoencoder):
    source = FreshPairs([data], face, None, 2, 64, 0.0)
    stream = PairStream(source, 1, Autoencoder.load(autoencoder), torch.device("cpu"), 48)
    batch = stream.draw(8)
    assert batch["target"].shape == (8, 16, 8, 8) and batch["reference"].shape == (8, 22, 8, 8)
    batch = stream.draw(8, IN_A_ROW)
    assert torch.equal(batch["expression"][1:4, 1], batch["expression"][0:3, 2])
    made = stream.made
    while stream.made < made + 96:
        time.sleep(0.05)
    assert len(stream) == 48


@pytest.fixture
def small_network(monkeypatch):
    small = {"widths": (16, 16, 24), "heads": 2, "token_width": 16, "embed_width": 16, "motion_radius": 2,
             "appearance_width": 16}  # fmt: skip
    config = frames_task.UNetConfig
    monkeypatch.setattr(frames_task, "UNetConfig", lambda **changes: config(**(small | changes)))


def test_layers_over_time_learn_while_the_rest_stays(data, autoencoder, tmp_path, small_network):
    options = {"autoencoder": autoencoder, "batch_size": 4, "fresh": 1, "capacity": 64, "valid": 8}
    settings = TrainSettings(steps=2, minutes=5, warmup=1)
    train(frames_task.make_task([data], tmp_path, tmp_path / "pairs", **options), settings, tmp_path / "run")
    start = tmp_path / "run" / "frames.safetensors"
    task = frames_task.make_task([data], tmp_path, tmp_path / "pairs", start=start, temporal=1, **options)
    train(task, settings, tmp_path / "over_time")
    before, after = (FrameModel.load(path, autoencoder).state_dict()
                     for path in (start, tmp_path / "over_time" / "frames.safetensors"))  # fmt: skip
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(after[name].any() for name in after if name.endswith("temporal.attention.out.weight"))


@pytest.mark.parametrize("options", [{}, {"joint_attention": 1}, {"geometry": 0}, {"large": 1.0}])
def test_frame_network_trains_and_its_file_loads(data, autoencoder, tmp_path, options, small_network):
    task = frames_task.make_task(
        [data], tmp_path / "latents", tmp_path / "pairs", autoencoder=autoencoder, batch_size=2, pairs=8,
        adversary_weight=0.01, valid=8, **options,
    )  # fmt: skip
    settings = TrainSettings(steps=3, minutes=5, warmup=1, log_steps=1)
    train(task, settings, tmp_path / "run")
    model = FrameModel.load(tmp_path / "run" / "frames.safetensors", autoencoder)
    assert model.config == task.model.config
    moved = [p for p in task.model.unet.parameters() if p.ndim > 1 and p.any()]
    assert len(moved) > 10
    score, numbers = task.validate(model)
    assert np.isfinite(score) and numbers["mouth_ratio"] > 0


def test_the_critic_learns_to_tell_blur_from_the_real_thing():
    torch.manual_seed(0)
    adversary = Adversary(torch.device("cpu"), lr=2e-3)
    for _ in range(60):
        real = torch.rand(4, 3, 32, 32)
        blurred = torch.nn.functional.avg_pool2d(real, 5, 1, 2)
        _, loss = adversary(blurred, real, blurred)
    assert loss < 1.5  # 2 = cannot tell
