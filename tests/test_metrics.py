import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fd2talk_core.evaluation import metrics


def pictures(count=3, size=192, seed=0):
    noise = torch.rand(count, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(size, size), mode="bicubic").clamp(0, 1)


def blurred(x):
    return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, stride=1)


def landmarks(size=100.0):
    points = np.random.default_rng(0).uniform(0.2, 0.8, (478, 3)).astype(np.float32) * size
    points[33], points[263] = (30, 40, 0), (70, 40, 0)
    return points


def test_nme_is_in_inter_ocular_distances():
    true = landmarks()
    found = true.copy()
    found[:, 0] += 3
    found[:, 1] += 4
    found[:, 2] += 100  # depth does not count
    assert metrics.nme(found, true) == pytest.approx(5 / 40)
    assert metrics.nme(np.stack([true, found]), np.stack([true, true])) == pytest.approx([0, 5 / 40])


def test_box_iou():
    assert metrics.box_iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert metrics.box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert metrics.box_iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_psnr_of_a_known_error_per_picture():
    truth = torch.full((2, 3, 32, 32), 0.5)
    off = truth.clone()
    off[0] += 0.1
    off[1] += 0.01
    assert metrics.psnr(off, truth).tolist() == pytest.approx([20, 40], abs=1e-3)


@pytest.mark.parametrize("measure", [metrics.ssim, metrics.ms_ssim])
def test_structural_similarity_falls_with_damage(measure):
    truth = pictures()
    noise = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    assert measure(truth, truth).shape == (3,)
    assert torch.allclose(measure(truth, truth), torch.ones(3), atol=1e-4)
    assert (measure((truth + noise).clamp(0, 1), truth) < 0.985).all()


def test_gmsd_is_zero_for_equal_and_grows_with_blur():
    truth = pictures()
    assert metrics.gmsd(truth, truth).abs().max() < 1e-6
    once, twice = blurred(truth), blurred(blurred(truth))
    assert (metrics.gmsd(once, truth) > 0.005).all()
    assert (metrics.gmsd(twice, truth) > metrics.gmsd(once, truth)).all()


def test_blur_lowers_sharpness():
    truth = pictures()
    assert (metrics.laplacian_energy(blurred(truth)) < 0.5 * metrics.laplacian_energy(truth)).all()
    # The Laplacian of x² / 2 is 1.
    x = torch.arange(16.0).expand(16, 16)
    assert metrics.laplacian_energy((x**2 / 2).expand(1, 3, 16, 16)).item() == pytest.approx(1, rel=1e-4)


def test_mouth_box_holds_the_lips_and_stays_inside():
    points = landmarks()
    x0, y0, x1, y1 = metrics.mouth_box(points, 100)
    lips = points[list(metrics.LIPS_OUTER)]
    assert (lips[:, :2] >= (x0, y0)).all() and (lips[:, :2] <= (x1, y1)).all()
    assert 0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 100
    outside = points + np.array([90, 90, 0], np.float32)
    x0, y0, x1, y1 = metrics.mouth_box(outside, 100)
    assert x1 - x0 >= 8 and y1 - y0 >= 8 and x1 <= 100 and y1 <= 100
    assert metrics.crop_box(torch.zeros(2, 3, 100, 100), (10, 20, 40, 30)).shape == (2, 3, 10, 30)


def test_opening_scores_find_the_lag():
    real = np.abs(np.sin(np.arange(100) / 4)) * 0.3
    late = np.roll(real, 2) * 0.5
    scores = metrics.opening_scores(late, real)
    assert scores["best_lag"] == -2 and scores["best_correlation"] > 0.98 > scores["correlation"]
    assert scores["range_ratio"] == pytest.approx(0.5, abs=0.02)
    assert metrics.opening_scores(real, real)["correlation"] == pytest.approx(1)
    still = metrics.opening_scores(np.full(100, real.mean()), real)
    assert still["correlation"] == 0 and still["mae"] == pytest.approx(still["still_mae"])


def test_eye_boxes_hold_each_eye_with_a_margin():
    points = landmarks()
    rng = np.random.default_rng(1)
    for eye, centre in ((metrics.EYE_RIGHT, 30), (metrics.EYE_LEFT, 70)):
        points[list(eye)] = rng.uniform(-3, 3, (len(eye), 3)) + (centre, 40, 0)
    points[33], points[263] = (27, 40, 0), (73, 40, 0)
    eyes = (metrics.EYE_RIGHT, metrics.EYE_LEFT)
    for (x0, y0, x1, y1), eye in zip(metrics.eye_boxes(points, 100), eyes, strict=True):
        low, high = points[list(eye), :2].min(0), points[list(eye), :2].max(0)
        assert np.abs(np.array([x0, y0]) - (low - 0.12 * 46)).max() <= 1
        assert np.abs(np.array([x1, y1]) - (high + 0.12 * 46)).max() <= 1


@pytest.mark.parametrize(
    "colour, expected",
    [((1, 1, 1), (100, 0, 0)), ((1, 0, 0), (53.24, 80.09, 67.20)), ((0, 0, 1), (32.30, 79.19, -107.86)),
     ((0, 0, 0), (0, 0, 0)), ((0.5, 0.5, 0.5), (53.39, 0, 0))],
)  # fmt: skip
def test_lab_of_known_colours(colour, expected):
    picture = torch.tensor(colour, dtype=torch.float32)[None, :, None, None]
    assert metrics.lab(picture)[0, :, 0, 0].tolist() == pytest.approx(expected, abs=0.05)
