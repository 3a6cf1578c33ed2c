import csv
import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from safetensors.numpy import save_file

from fd2talk_core.errors import UserError
from fd2talk_core.evaluation import (
    apart,
    bench,
    bench_motion,
    lip_expert,
    motion,
    parts,
    reenactment,
    report,
    retrack,
    summary,
)
from fd2talk_core.evaluation.metrics import mouth_box
from fd2talk_core.evaluation.tracked import track_clip
from fd2talk_core.face.landmarks import FACE_OVAL, LIPS_OUTER
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceBox, FaceTracker, TrackedFace
from fd2talk_core.frames.autoencoder import Autoencoder
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.lip_expert import LipExpert
from fd2talk_core.motion.model import MotionConfig, MotionModel
from fd2talk_core.prepare.labels import FrameLabels
from fd2talk_core.training.baseline import Baseline, BaselineConfig
from fd2talk_core.training.data import is_held_back, list_clips
from fd2talk_core.video.writer import SegmentedWriter

SIZE, FRAMES = 64, 20


@pytest.fixture(scope="module")
def face_model():
    return FaceModel.load()


def landmarks_of(face_model, frames):
    """A face that opens its mouth in a known rhythm, pixels of a SIZE crop."""
    beta = 0.5 * torch.sin(torch.arange(frames)[:, None] / 3) * face_model.controls["jaw_open"]
    pose = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, float(np.log(0.3))]).expand(frames, 6)
    return face_model.landmarks(torch.zeros(frames, 80), beta, pose, SIZE).numpy().astype(np.float32)


def drawing(points):
    picture = Image.new("RGB", (SIZE, SIZE), (90, 110, 130))
    draw = ImageDraw.Draw(picture)
    draw.polygon([tuple(map(float, points[i, :2])) for i in FACE_OVAL], fill=(220, 180, 160))
    draw.polygon([tuple(map(float, points[i, :2])) for i in LIPS_OUTER], fill=(160, 40, 50))
    return np.asarray(picture)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, face_model):
    """A prepared folder: two talking clips and two stills, one of each held back."""
    folder = tmp_path_factory.mktemp("prepared")
    held = next(f"who{i}" for i in range(99) if is_held_back(f"who{i}"))
    seen = next(f"who{i}" for i in range(99) if not is_held_back(f"who{i}"))
    rows = []
    for name, identity, still, kind in (
        ("talk_a", held, False, ""),
        ("talk_b", seen, False, ""),
        ("painting", held, True, "painting"),
        ("photo", seen, True, "official_portrait"),
    ):
        points = landmarks_of(face_model, 1 if still else FRAMES)
        pictures = np.stack([drawing(p) for p in points])
        tensors = {
            "landmarks": points / SIZE,
            "blendshapes": np.zeros((len(points), 52), np.float32),
            "valid": np.ones(len(points), bool),
        }
        if still:
            Image.fromarray(pictures[0]).save(folder / f"{name}.png")
        else:
            noise = np.random.default_rng(0).normal(0, 2000, FRAMES * 640)
            tensors["audio"] = noise.astype(np.int16)
            writer = SegmentedWriter(folder / f"{name}.mp4", 25, (SIZE, SIZE), "k")
            writer.write(pictures)
            writer.finish()
        save_file(tensors, folder / f"{name}.safetensors")
        rows.append(
            {"clip": name, "identity": identity, "kind": kind, "size": SIZE, "still": still, "disagree": False}
        )
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


class Oracle:
    """Knows the right landmarks; `shift` of them in px, `blind` finds nothing."""

    def __init__(self, truth, shift=0.0, blind=False):
        self.truth, self.shift, self.blind = truth, shift, blind

    def detect(self, picture):
        return [] if self.blind else [FaceBox(*report_box(self.truth), 1.0), FaceBox(0, 0, 3, 3, 1.0)]

    def landmarks(self, picture, box):
        return TrackedFace(self.truth + np.float32([self.shift, 0, 0]), box, 1.0)


def report_box(points):
    return (*points[:, :2].min(0).tolist(), *points[:, :2].max(0).tolist())


def test_only_held_back_clips_are_used(prepared):
    clips, new = report.find_clips(prepared)
    assert {c.name for c in clips} == {"talk_a", "painting"} == {c.name for c in new}
    everything, new = report.find_clips(prepared, only_held_back=False)
    assert len(everything) == 4 and len(new) == 2
    assert [parts.kind_of(c) for c in sorted(everything, key=lambda c: c.name)] == [
        "painting or stylised",
        "photo",
        "video",
        "video",
    ]


def test_tracker_rows_measure_error_and_recall(prepared, face_model):
    still = [c for c in list_clips(prepared) if c.name == "photo"]
    truth = landmarks_of(face_model, 1)[0]
    distance = np.linalg.norm(truth[33] - truth[263])
    (row,) = parts.evaluate_tracker(still, Oracle(truth, shift=1.0))
    assert row["nme"] == pytest.approx(1 / distance, rel=1e-3)
    assert row["recall"] == 1 and row["extra_faces"] == 1
    (row,) = parts.evaluate_tracker(still, Oracle(truth, blind=True))
    assert row["recall"] == 0 and row["nme"] == pytest.approx(0, abs=1e-6)


def test_untrained_tracker_runs_through(prepared):
    rows = parts.evaluate_tracker(list_clips(prepared)[:1], FaceTracker().eval())
    assert rows[0]["frames"] == parts.FRAMES_PER_CLIP and np.isfinite(rows[0]["nme"])


def test_autoencoder_rows(prepared):
    class Perfect(torch.nn.Module):
        def encode(self, x):
            return x

        def decode(self, x):
            return x + 0.01

    torch.manual_seed(0)
    rows = parts.evaluate_autoencoder(list_clips(prepared)[:2], {"ours": Autoencoder().eval(), "good": Perfect()}, 2)
    assert len(rows) == 2
    for row in rows:
        assert row["good_psnr"] > 39.9 and row["good_ms_ssim"] > 0.99 and row["ours_psnr"] < 30


def test_mouth_box_covers_the_drawn_mouth(face_model):
    points = landmarks_of(face_model, 1)[0]
    x0, y0, x1, y1 = mouth_box(points, SIZE)
    red = np.argwhere(np.abs(drawing(points).astype(int) - (160, 40, 50)).sum(-1) < 9)
    assert (red >= (y0, x0)).all() and (red < (y1, x1)).all()


def test_tracked_motion_projects_onto_the_real_frames(prepared, face_model):
    clip = next(c for c in list_clips(prepared) if c.name == "talk_a")
    appearance, motion, real, landmarks = reenactment.tracked_motion(clip, face_model, frames=10, size=128)
    assert real.shape == (10, 3, 128, 128) and landmarks.shape == (10, 478, 3) and len(motion) == 10
    alpha, pose = appearance.alpha.expand(10, -1), appearance.pose + motion.pose
    found = face_model.landmarks(alpha, motion.expression, pose, 128).numpy()
    assert np.abs(found - landmarks)[..., :2].mean() < 0.5
    assert appearance.crop.shape == (3, 128, 128)


def test_comparison_of_frames_with_themselves_and_with_a_blurred_mouth(prepared, face_model):
    clip = next(c for c in list_clips(prepared) if c.name == "talk_a")
    _, _, real, landmarks = reenactment.tracked_motion(clip, face_model, frames=6, size=128)
    same = reenactment.compare_frames(real, real, landmarks)
    assert same["mouth_l1"] == 0 and same["mouth_sharpness"] == pytest.approx(1) and same["ssim"] > 0.999
    soft = torch.nn.functional.avg_pool2d(real, 5, 1, 2, count_include_pad=False)
    scores = reenactment.compare_frames(soft, real, landmarks)
    assert scores["mouth_sharpness"] < 0.5 and scores["mouth_l1"] > 0.005 and scores["gmsd"] > 0.01
    assert scores["face_psnr"] < scores["psnr"] < 45


def test_frames_without_residual_equal_the_geometry(prepared, face_model, monkeypatch):
    # Geometry-only frames are the decoder's.
    monkeypatch.setattr(reenactment, "sample_frames", partial(reenactment.sample_frames, finished=False))
    torch.manual_seed(0)
    model = FrameModel(residual_scale=0.0, face_model_hash=face_model.hash).eval()
    clips = [c for c in list_clips(prepared) if c.held_back]
    (row,) = reenactment.evaluate_frames(clips, model, face_model, frames=5, steps=1, size=64)
    assert row["frames"] == 5 and row["mouth_l1_ratio"] == pytest.approx(1, abs=1e-3)
    assert row["face_psnr"] == pytest.approx(row["geometry_face_psnr"], abs=0.01)
    # The stills' mouth does not move, but an untrained decoder's picture is far worse still.
    assert row["still_face_psnr"] > row["geometry_face_psnr"]


def small_motion_model(face_model):
    config = MotionConfig(width=48, pose_width=48, audio_width=48, heads=2, pose_heads=2, depth=1)
    model = MotionModel(config, face_model.hash).eval()
    torch.manual_seed(0)
    for weights in model.pose_dit.parameters():  # fresh output layers are zero, and so would heads be
        torch.nn.init.normal_(weights, 0, 0.05)
    return model


def test_motion_rows_of_an_untrained_model_and_of_a_regressor(prepared, face_model):
    rows = motion.evaluate_motion(
        list_clips(prepared), small_motion_model(face_model), face_model, seeds=2, steps=2,
        baseline=Baseline(BaselineConfig(width=8), face_model.hash).eval(), dominant={"nobody"},
        heard={"talk_b": "talk_c"},
    )  # fmt: skip
    assert [(row["clip"], row["model"]) for row in rows] == [
        (clip, kind) for clip in ("talk_a", "talk_b") for kind in ("stage 1", "baseline")
    ]
    for row in rows:
        assert row["frames"] == FRAMES and row["still_mae"] > 0.01 and -1 <= row["correlation"] <= 1
        assert row["first_distance"] > 0 and row["real_lip_jitter"] >= 0
    assert "pose_spread" in rows[0] and "pose_spread" not in rows[1] and rows[0]["seed_difference"] > 0
    assert rows[0]["talker"] == motion.OTHERS and rows[2]["talker"] == motion.HEARD
    assert rows[2]["sound_heard_in"] == "talk_c"
    summary_of = motion.summarise_motion(rows)
    assert list(summary_of)[:2] == ["all", "baseline: all"] and summary_of["all"]["clips"] == 2


def test_the_right_motion_scores_perfectly(prepared, face_model, monkeypatch):
    clip = next(c for c in list_clips(prepared) if c.name == "talk_a")
    real = track_clip(clip, face_model)

    def oracle(model, samples, fps, **settings):
        return MotionClip(real.expression, real.pose - real.pose[0], fps, face_model.hash)

    monkeypatch.setattr("fd2talk_core.motion.sampling.generate_motion", oracle)
    (row,) = motion.evaluate_motion([clip], None, face_model, seeds=2)
    assert row["correlation"] > 0.99 and row["vs_mean"] < 1e-6 and row["range_ratio"] == pytest.approx(1, abs=0.1)
    assert row["lip_jitter"] == pytest.approx(row["real_lip_jitter"]) and row["seed_difference"] == 0
    assert row["pose_spread"] == pytest.approx(row["real_pose_spread"])


def test_pooled_numbers_weigh_clips_by_what_happens_in_them():
    quiet = {"blinks": 1, "real_blinks": 2, "seconds": 3, "lip_distance": 0.1, "mean_distance": 0.1}
    lively = {"blinks": 0, "real_blinks": 0, "seconds": 57, "lip_distance": 0.2, "mean_distance": 0.5}
    rows = [
        quiet | {"lip_jitter": float("nan"), "real_lip_jitter": float("nan")},
        lively | {"lip_jitter": 0.1, "real_lip_jitter": 0.2},
    ]
    numbers = motion.pooled(rows)
    assert numbers["blinks_per_minute"] == 1 and numbers["real_blinks_per_minute"] == 2
    assert numbers["vs_mean"] == pytest.approx(0.5) and numbers["lip_jitter_ratio"] == pytest.approx(0.5)
    assert "seed_difference_ratio" not in numbers


def test_labels_of_the_real_frames_equal_the_real_clip(prepared, face_model):
    clip = next(c for c in list_clips(prepared) if c.name == "talk_a")
    real, labels = track_clip(clip, face_model), clip.labels()
    labels.valid[5] = False
    labels.landmarks[5] = 0
    row = retrack.compare_labels(labels, SIZE, real, face_model, (real.opening, real.eyes))
    assert row["correlation"] > 0.97 and row["asked_correlation"] > 0.97 and row["vs_mean"] < 0.2
    assert row["face_lost"] == pytest.approx(1 / FRAMES) and row["frames"] == FRAMES
    labels.valid[:] = False
    with pytest.raises(UserError, match="no face"):
        retrack.compare_labels(labels, SIZE, real, face_model)
    with pytest.raises(UserError, match="--landmarker"):
        retrack.evaluate_retracked([clip], None, face_model)


def test_lip_expert_part_leaves_out_what_is_shorter_than_a_second(prepared, face_model):
    assert "error" in lip_expert.evaluate_lip_expert(list_clips(prepared), None, face_model)


def test_lip_expert_part_on_a_longer_clip(face_model):
    class LongClip:
        name, identity, size, still, synced = "long", "who", SIZE, False, True

        def samples(self):
            return np.random.default_rng(0).normal(0, 0.1, 60 * 640).astype(np.float32)

        def labels(self):
            points = landmarks_of(face_model, 60)
            return FrameLabels(points, np.zeros((60, 52), np.float32), np.ones(60, bool))

    expert = LipExpert().eval()
    expert.set_face_model(face_model)
    result = lip_expert.evaluate_lip_expert([LongClip()], expert, face_model, heard={"long": "another"})
    assert list(result["summary"]) == ["all", motion.HEARD]
    numbers = result["summary"]["all"]
    assert numbers["clips"] == 1 and numbers["offsets_tried"] == 31 and numbers["windows"] == 1
    assert 0 <= numbers["clip_of_32"] <= 1 and numbers["crowd"] == 2


def test_numbers_without_a_value_are_null_in_the_file(tmp_path):
    summary.write_json(tmp_path / "r.json", {"a": [1.0, float("nan")], "b": {"c": float("inf")}})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": [1.0, None], "b": {"c": None}}


def test_tall_tables_have_a_row_per_number():
    groups = {"all": {"clips": 2, "correlation": 0.5, "vs_mean": float("nan")}, "other voices": {"clips": 1}}
    (table,) = summary.tables({"parts": {"motion": {"summary": groups, "rows": []}}})
    assert [column.header for column in table.columns] == ["number", "all", "other voices"]
    assert list(table.columns[0].cells) == ["clips", "correlation", "vs mean"]
    assert list(table.columns[1].cells) == ["2", "0.5", ""]


def test_summary_groups_and_lags():
    rows = [
        {"clip": "a", "kind": "photo", "nme": 0.1, "best_lag": 0},
        {"clip": "b", "kind": "photo", "nme": 0.3, "best_lag": 3},
        {"clip": "c", "kind": "video", "nme": 0.5, "best_lag": 1},
    ]
    means = summary.summarise(rows)
    assert means["all"]["nme"] == pytest.approx(0.3) and means["photo"]["nme"] == pytest.approx(0.2)
    assert means["all"]["best_lag"] == 1 and means["all"]["lag_within_1"] == pytest.approx(2 / 3)
    assert means["video"]["clips"] == 1


def test_limits_spread_over_people(prepared):
    clips = list_clips(prepared) * 10
    assert len(report.spread(clips, 7)) == 7 and report.spread(clips, None) is clips
    chosen = report.spread_by_identity(clips, 6)
    assert len(chosen) <= 6 and len({c.identity for c in chosen}) == 2


def test_missing_weights_are_reported_and_the_rest_goes_on(prepared, tmp_path, monkeypatch):
    nothing = tmp_path / "nothing.safetensors"
    monkeypatch.setattr("fd2talk_core.frames.autoencoder.default_weights", lambda name: nothing)
    monkeypatch.setattr(report.FaceTracker, "load", lambda: FaceTracker().eval())
    result = report.evaluate(prepared, ("tracker", "autoencoder"), limit=1, out_json=tmp_path / "sub" / "r.json")
    assert "missing or damaged" in result["parts"]["autoencoder"]["error"]
    assert result["parts"]["tracker"]["summary"]["all"]["clips"] == 1
    assert json.loads((tmp_path / "sub" / "r.json").read_text()) == result
    text = io.StringIO()
    report.show(result, Console(file=text, width=200))
    assert "nme" in text.getvalue() and "not measured" in text.getvalue()


def test_other_weights_are_used_when_given(prepared, tmp_path):
    nothing = tmp_path / "nothing.safetensors"
    options = {"motion": nothing, "lip_expert": nothing, "landmarker": nothing}
    result = report.evaluate(prepared, ("motion", "lip-expert", "retrack"), **options)
    assert all("nothing.safetensors is missing" in part["error"] for part in result["parts"].values())


def test_bad_requests(prepared, tmp_path):
    with pytest.raises(UserError, match="no part called 'nose'"):
        report.evaluate(prepared, ("nose",))
    with pytest.raises(UserError, match="number of seeds is 0"):
        report.evaluate(prepared, ("motion",), seeds=0)
    with pytest.raises(UserError, match="does not exist"):
        report.evaluate(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not prepared.*--landmarker"):
        report.evaluate(tmp_path)


def test_a_long_recording_repeats_the_voice(tmp_path):
    voice = np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.5
    apart.write_recording(voice, 0.05, tmp_path / "long.wav")
    read = apart.load_mono_16k(tmp_path / "long.wav")
    assert len(read) == 48_000 and np.abs(read[16_000:32_000] - voice).max() < 2e-3
    with pytest.raises(UserError, match="above 0"):
        bench_motion.bench_motion(tmp_path / "long.wav", (0.0,))


@pytest.mark.weights
def test_stage_1_is_measured_in_a_process_of_its_own(tmp_path):
    apart.write_recording(np.random.default_rng(0).normal(0, 0.1, 16_000), 0.02, tmp_path / "voice.wav")
    result = bench_motion.bench_motion(tmp_path / "voice.wav", (0.05, 0.02))
    assert [row["frames"] for row in result["lengths"]] == [30, 75]
    assert all(row["x_real_time"] > 0 and row["peak_memory_mb"] > 50 for row in result["lengths"])
    assert abs(result["memory_growth"]) < 0.1
    table = bench._motion_table(result | {"memory_growth": 0.5})
    assert "not flat" in table.title and table.row_count == 2


def test_coder_times_are_per_frame():
    times = bench.time_coder(Autoencoder().eval(), 64, torch.device("cpu"), batch=2)
    assert set(times) == {"encode_ms", "decode_ms"} and all(0 < value < 1000 for value in times.values())
