import numpy as np
import pytest

from fd2talk_core.evaluation.motion_metrics import (
    correlation,
    find_blinks,
    jitter,
    lip_scores,
    longest_stare,
    pose_scores,
    smoothed,
)

FPS = 25
TIME = np.arange(250) / FPS


def lips(opening):
    """Lips (T, 4, 3) whose lower half moves down by `opening` (T,)."""
    points = np.zeros((len(opening), 4, 3))
    points[:, 2:, 1] = opening[:, None]
    return points


def eyes(blinks, frames=250, width=3):
    course = np.full(frames, 0.3)
    for start in blinks:
        course[start : start + width] = 0.05
    return course


def test_jitter_hears_only_what_is_faster_than_8_hz():
    slow, fast = np.sin(2 * np.pi * 2 * TIME), np.sin(2 * np.pi * 11 * TIME)
    assert jitter(slow, FPS) < 0.02
    assert jitter(slow + 0.1 * fast, FPS) == pytest.approx(0.1 / np.sqrt(2), rel=0.15)
    assert np.isnan(jitter(fast[:10], FPS)) and jitter(fast, 15) == 0


def test_lip_distance_is_measured_against_two_still_mouths():
    real = 0.1 * np.abs(np.sin(2 * TIME))
    exact = lip_scores(lips(real), lips(real), FPS)
    assert exact["lip_distance"] == 0 and exact["vs_mean"] == 0
    # Half of the points move; the first mouth is closed, and the mean one hangs open.
    assert exact["first_distance"] == pytest.approx(real.mean() / 2)
    assert exact["mean_distance"] == pytest.approx(np.abs(real - real.mean()).mean() / 2)
    half = lip_scores(lips(real / 2), lips(real), FPS)
    assert half["vs_first"] == pytest.approx(0.5)
    still = lip_scores(lips(np.full(250, real.mean())), lips(real), FPS)
    assert still["vs_mean"] == pytest.approx(1) and still["lip_jitter"] < 1e-9


def test_blinks_are_counted_and_long_closures_are_not():
    assert find_blinks(eyes([30, 100, 200]), FPS).tolist() == [30, 100, 200]
    assert len(find_blinks(eyes([]), FPS)) == 0
    assert len(find_blinks(eyes([50], width=40), FPS)) == 0
    # Lids that only narrow do not blink; nor do eyes that open at the start.
    assert len(find_blinks(0.3 - 0.08 * (np.arange(250) % 50 < 4), FPS)) == 0
    assert len(find_blinks(eyes([0]), FPS)) == 0
    # The usual opening is each face's own.
    assert len(find_blinks(eyes([30, 100]) / 3, FPS)) == 2


def test_longest_stare_includes_the_ends():
    assert longest_stare(np.array([50, 100]), 250, FPS) == 6
    assert longest_stare(np.array([], int), 250, FPS) == 10


def test_pose_scores_of_known_swings():
    def swing(amplitude, phase=0.0):
        pose = np.zeros((250, 6))
        pose[:, 1] = np.radians(amplitude) * np.sin(2 * np.pi * TIME / 5 + phase)
        return pose

    scores = pose_scores([swing(4), swing(4, np.pi)], swing(2), FPS)
    assert scores["yaw_std"] == pytest.approx(4 / np.sqrt(2), rel=1e-3) and scores["pitch_std"] == 0
    assert scores["pose_spread"] == pytest.approx(2 * scores["real_pose_spread"])
    # Opposite swings differ by twice their own size.
    assert scores["seed_difference"] == pytest.approx(2 * scores["pose_spread"], rel=1e-3)
    assert scores["pose_speed"] == pytest.approx(4 * 4 / 5, rel=0.02)
    assert pose_scores([swing(4), swing(4)], None, FPS)["seed_difference"] == 0
    assert "seed_difference" not in pose_scores([swing(4)], None, FPS)


def test_smoothing_and_correlation():
    step = np.r_[np.zeros(20), np.ones(20)]
    assert smoothed(step, FPS).shape == step.shape and smoothed(step, FPS)[[0, 39]].tolist() == [0, 1]
    assert smoothed(np.full(9, 2.0), FPS) == pytest.approx(2)
    assert correlation(TIME, 3 * TIME + 1) == pytest.approx(1) and correlation(TIME, np.ones(250)) == 0
