"""Face tracker: geometry of crops, detector's decoding, choice of a face, and the shipped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fd2talk_core.checkpoint import default_weights, save_checkpoint
from fd2talk_core.errors import UserError
from fd2talk_core.face.detector import DetectorConfig, FaceDetector, box_iou, decode, suppress_overlaps
from fd2talk_core.face.landmarks import inter_ocular_distance, mouth_opening
from fd2talk_core.face.layers import fold_batch_norm
from fd2talk_core.face.regressor import ANCHORS, LandmarkRegressor, RegressorConfig, spatial_expectation
from fd2talk_core.face.tracker import (
    FaceBox,
    FaceTracker,
    TrackedFace,
    as_planes,
    choose_face,
    cut_crop,
    roll_of,
    upright_crop,
)
from fd2talk_core.video.reading import read_picture

SMALL = {
    "detector": DetectorConfig(size=64, widths=(4, 4, 8, 8, 8)),
    "regressor": RegressorConfig(size=64, widths=(4, 4, 8, 8, 8), squeeze=4, hidden=16),
}


def small_tracker() -> FaceTracker:
    torch.manual_seed(0)
    return FaceTracker(**SMALL).eval()


def face_at(x: float, y: float, width: float, roll: float = 0.0) -> TrackedFace:
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.5, 0.5, (478, 3)).astype(np.float32)
    points[33], points[263] = (-0.4, -0.1, 0), (0.4, -0.1, 0)
    c, s = np.cos(roll), np.sin(roll)
    points[:, :2] = points[:, :2] @ np.array([[c, s], [-s, c]], np.float32)
    points = points * width + np.array([x, y, 0], np.float32)
    return TrackedFace(points, FaceBox(x - width / 2, y - width / 2, x + width / 2, y + width / 2, 0.9), 0.9)


def dotted(x: float, y: float, size: int = 200) -> np.ndarray:
    ys, xs = np.mgrid[:size, :size] + 0.5
    blob = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8.0)
    return (np.stack([blob] * 3, -1) * 255).astype(np.uint8)


def brightest(planes: torch.Tensor) -> tuple[float, float]:
    mass = planes[0, 0] / planes[0, 0].sum()
    axis = torch.arange(planes.shape[-1]) + 0.5
    return float((mass.sum(0) * axis).sum()), float((mass.sum(1) * axis).sum())


def test_networks_have_the_documented_shapes():
    landmarks, logits, anchors = LandmarkRegressor()(torch.rand(2, 3, 192, 192))
    assert landmarks.shape == (2, 478, 3) and logits.shape == (2,) and anchors.shape == (2, len(ANCHORS), 2)
    assert FaceDetector()(torch.rand(1, 3, 256, 256)).shape == (1, 5, 32, 32)
    assert len(set(ANCHORS)) == len(ANCHORS)
    tracker = FaceTracker()
    assert sum(p.numel() for p in tracker.parameters()) * 2 < 3.5e6


def test_spatial_expectation_is_the_peak_of_a_sharp_map():
    heat = torch.zeros(1, 1, 8, 16)
    heat[0, 0, 2, 5] = 100.0
    assert spatial_expectation(heat)[0, 0].tolist() == pytest.approx([5.5 / 16, 2.5 / 8], abs=1e-4)


def test_mesh_starts_as_linear_completion_of_the_anchors():
    torch.manual_seed(0)
    codes, basis = torch.randn(300, 6) * 0.05, torch.randn(6, 478 * 3)
    labels = (codes @ basis).unflatten(1, (478, 3)) + torch.tensor([0.5, 0.5, 0.0])
    net = LandmarkRegressor(SMALL["regressor"])
    net.initialise_mesh(labels, ridge=1e-6)
    points = labels[:, list(ANCHORS), :2].flatten(1) - 0.5
    hidden = torch.zeros(300, net.config.hidden)
    mesh = net.mesh(torch.cat([points, hidden], 1)).unflatten(1, (478, 3)) + torch.tensor([0.5, 0.5, 0.0])
    assert (mesh - labels).abs().max() < 0.01


def test_folding_batch_norm_changes_nothing():
    tracker = small_tracker()
    for module in tracker.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    crops = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = tracker.regressor(crops)[0], tracker.detector(crops)
        fold_batch_norm(tracker)
        after = tracker.regressor(crops)[0], tracker.detector(crops)
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tracker.modules())


@pytest.mark.parametrize("side", [60.0, 150.0])
def test_crop_puts_a_point_where_the_geometry_says(side):
    roll, centre, offset = 0.4, (100.0, 90.0), (12.0, -8.0)
    c, s = np.cos(roll), np.sin(roll)
    point = (centre[0] + c * offset[0] - s * offset[1], centre[1] + s * offset[0] + c * offset[1])
    crop = cut_crop(as_planes(dotted(*point)), centre, side, roll, 64)
    wanted = [32 + offset[0] * 64 / side, 32 + offset[1] * 64 / side]
    assert brightest(crop) == pytest.approx(wanted, abs=0.3)


def test_crop_outside_the_picture_is_harmless():
    planes = as_planes(dotted(10, 10, 32))
    assert cut_crop(planes, (500.0, 500.0), 20.0, 0.0, 64).shape == (1, 3, 64, 64)
    assert torch.isfinite(cut_crop(planes, (0.0, 31.0), 90.0, 0.3, 64)).all()


def test_upright_crop_follows_roll_and_centre():
    face = face_at(120, 80, 60, roll=0.5)
    x, y, side, roll = upright_crop(face.landmarks)
    assert roll == pytest.approx(0.5, abs=1e-3) and roll_of(face.landmarks) == roll
    assert (x, y) == pytest.approx((120, 80), abs=1.0)
    assert side == pytest.approx(90, rel=0.03)


def test_training_view_equals_the_runtime_crop():
    pytest.importorskip("cv2")
    from fd2talk_core.training.tracker_data import View

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(40, 0).repeat(40, 1)
    view = View(130.0, 110.0, 96.0, 0.3)
    ours = cut_crop(as_planes(picture), (130.0, 110.0), 96.0, 0.3, 64)
    theirs = as_planes(view.warp(picture, 64, 1, (0, 0, 0))) / 255
    assert (ours - theirs).abs().mean() < 0.01
    points = rng.uniform(80, 150, (478, 3)).astype(np.float32)
    moved = view.move(points, 64, np.arange(478)) - 0.5
    c, s = np.cos(0.3), np.sin(0.3)
    back = moved[:, :2] @ np.array([[c, s], [-s, c]]) * 96 + [130, 110]
    assert np.allclose(back, points[:, :2], atol=1e-3) and np.allclose(moved[:, 2] + 0.5, points[:, 2] / 96)


def test_mirror_match_is_an_involution_and_swaps_sides():
    pytest.importorskip("cv2")
    from fd2talk_core.training.tracker_data import mirror_permutation

    rng = np.random.default_rng(0)
    right = rng.uniform((-1, -1, -0.5), (-0.05, 1, 0.5), (239, 3))
    left = right * (-1, 1, 1)
    shape = np.empty((478, 3))
    order = [i for i in range(478) if i not in (33, 263)]
    right[0], left[0] = (-0.5, -0.2, 0), (0.5, -0.2, 0)
    shape[33], shape[263] = right[0], left[0]
    shape[order[:238]], shape[order[238:]] = right[1:], left[1:]
    shape[1] = (0, 0, -0.5)
    faces = shape + rng.normal(0, 1e-3, (20, 478, 3))
    mirror = mirror_permutation(faces.astype(np.float32))
    assert (mirror[mirror] == np.arange(478)).all() and mirror[33] == 263


def test_detector_targets_decode_to_their_boxes():
    pytest.importorskip("cv2")
    from fd2talk_core.training.tracker_samples import detector_targets

    boxes = np.array([[0.1, 0.1, 0.3, 0.4], [0.6, 0.5, 0.95, 0.98], [0.7, 0.1, 0.76, 0.17]], np.float32)
    heat, values, weight = detector_targets(boxes, 256)
    output = torch.from_numpy(np.concatenate([heat[None], values]))[None]
    output[:, 0] = torch.logit(output[:, 0], eps=1e-4)
    found = suppress_overlaps(decode(output, 0.5)[0])
    assert len(found) == 3
    assert box_iou(torch.from_numpy(boxes), found[:, :4]).max(1).values.min() > 0.95
    assert weight.sum() == pytest.approx(3, abs=1e-3)


def test_overlapping_boxes_are_suppressed():
    boxes = torch.tensor([[0, 0, 10, 10, 0.6], [1, 0, 11, 10, 0.9], [30, 30, 40, 40, 0.5]])
    assert suppress_overlaps(boxes)[:, 4].tolist() == pytest.approx([0.9, 0.5])
    assert len(suppress_overlaps(torch.zeros(0, 5))) == 0


def test_weights_round_trip(tmp_path: Path):
    tracker = small_tracker()
    save_checkpoint(tmp_path / "t.safetensors", "tracker", tracker.state_dict(), tracker.config, {"steps": 0})
    loaded = FaceTracker.load(tmp_path / "t.safetensors")
    crops = torch.rand(1, 3, 64, 64)
    assert torch.allclose(loaded.regressor(crops)[0], tracker.regressor(crops)[0], atol=1e-2)
    save_checkpoint(tmp_path / "m.safetensors", "motion", tracker.state_dict(), tracker.config, {})
    with pytest.raises(UserError, match="motion"):
        FaceTracker.load(tmp_path / "m.safetensors")


def test_choose_face_takes_the_largest_and_says_so():
    small, large = face_at(50, 50, 60), face_at(200, 200, 100)
    face, note = choose_face([large, small])
    assert face is large and "2 faces" in note
    assert choose_face([large])[1] == ""
    assert choose_face([large, small], index=1)[0] is small
    assert choose_face([large, small], box=FaceBox(20, 20, 80, 80))[0] is small
    mask = np.zeros((300, 300), np.uint8)
    mask[20:80, 20:80] = 255
    assert choose_face([large, small], mask=mask) == (small, "")


def test_choose_face_explains_what_is_wrong():
    face = face_at(100, 100, 100)
    for arguments, words in (
        (([],), "No face was found"),
        (([face_at(50, 50, 30)],), "only 30 pixels"),
        (([face], 3), "no face number 3"),
        (([face], 0, FaceBox(0, 0, 10, 10)), "box contains no face"),
        (([face], 0, None, np.zeros((200, 200))), "mask covers no face"),
    ):
        with pytest.raises(UserError, match=words):
            choose_face(*arguments)


def test_wrong_pictures_are_refused_in_words():
    for picture in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(UserError, match="8-bit RGB"):
            small_tracker().detect(picture)


shipped = pytest.mark.skipif(not default_weights("tracker").is_file(), reason="tracker weights are not built")


@shipped
def test_shipped_tracker_sees_no_face_where_there_is_none():
    tracker = FaceTracker.load()
    ys, xs = np.mgrid[:300, :400]
    gradient = np.stack([xs * 0.6, ys * 0.8, xs * 0 + 90], -1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8)
    for picture in (np.full((64, 64, 3), 128, np.uint8), gradient, noise, np.zeros((1, 1, 3), np.uint8)):
        assert tracker.track(picture) == []
    assert list(tracker.track_video([gradient, gradient])) == [None, None]


ASSETS = Path(__file__).parents[1] / "assets"


@shipped
@pytest.mark.parametrize("name", ["portrait.png", "portrait_stylised.png"])
def test_shipped_tracker_follows_the_demo_face_when_the_picture_turns(name):
    picture = read_picture(ASSETS / name)
    tracker = FaceTracker.load()
    faces = tracker.track(picture)
    assert len(faces) == 1 and faces[0].confidence > 0.9
    upright = faces[0].landmarks
    size, angle = picture.shape[0], np.deg2rad(25)
    planes = cut_crop(as_planes(picture), (size / 2, size / 2), size * 1.3, angle, size)
    turned = (planes[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    face = tracker.track(turned)[0].landmarks
    c, s = np.cos(angle), np.sin(angle)
    back = (face[:, :2] - size / 2) * 1.3 @ np.array([[c, s], [-s, c]]) + size / 2
    error = np.linalg.norm(back - upright[:, :2], axis=1).mean() / inter_ocular_distance(upright)
    assert error < 0.03
    assert mouth_opening(face) == pytest.approx(mouth_opening(upright), abs=0.04)


@shipped
def test_shipped_tracker_finds_a_small_face_in_a_large_picture_and_two_beside_each_other():
    picture = read_picture(ASSETS / "portrait.png")
    tracker = FaceTracker.load()
    small = picture[::4, ::4]
    large = np.full((1400, 1400, 3), 90, np.uint8)
    large[900 : 900 + small.shape[0], 200 : 200 + small.shape[1]] = small
    face, note = tracker.find(large)
    assert note == "" and 200 < face.box.centre[0] < 200 + small.shape[1] and face.box.centre[1] > 900
    pair = np.concatenate([picture, picture[:, ::-1]], 1)
    face, note = tracker.find(pair)
    assert "2 faces" in note
    other = tracker.find(pair, index=1)[0]
    assert face.box.overlap(other.box) == 0
    with pytest.raises(UserError, match="box contains no face"):
        tracker.find(pair, box=FaceBox(0, 0, 40, 40))


@shipped
def test_shipped_tracker_follows_a_video():
    picture = read_picture(ASSETS / "portrait.png")
    frames = [np.roll(picture, 4 * step, axis=1) for step in range(4)]
    faces = list(FaceTracker.load().track_video(frames))
    steps = np.diff([face.box.centre[0] for face in faces])
    assert steps == pytest.approx(np.full(3, 4.0), abs=1.0)
