"""Prepare, on tiny clips of the demo portrait, with the real labelling tool where it is installed."""

import csv
import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import inter_ocular_distance
from fd2talk_core.face.model import FaceModel
from fd2talk_core.prepare import run
from fd2talk_core.prepare.coefficients import add_coefficients
from fd2talk_core.prepare.labels import FrameLabels
from fd2talk_core.prepare.quality import audio_envelope, lagged_correlation, quality_flags

ROOT = Path(__file__).parents[1]
PORTRAIT = ROOT / "assets" / "portrait.png"
LANDMARKER = Path(
    os.environ.get("FD2TALK_LANDMARKER", ROOT.parent / "shared/models/face_landmarker_v2_with_blendshapes.task")
)


@pytest.fixture
def landmarker():
    pytest.importorskip("mediapipe", reason="the extra 'prepare' is not installed", exc_type=ImportError)
    if not LANDMARKER.is_file():
        pytest.skip("no labelling model; set FD2TALK_LANDMARKER")
    return LANDMARKER


def write_clip(path, frames=15, fps=30, sound=True):
    """The demo portrait, moving sideways, in a wide frame, with the demo voice."""
    picture = np.asarray(Image.open(PORTRAIT).resize((240, 240)))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        video.width, video.height, video.pix_fmt = 400, 240, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index in range(frames):
            canvas = np.full((240, 400, 3), 90, np.uint8)
            canvas[:, 60 + index : 300 + index] = picture
            container.mux(video.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        container.mux(video.encode())
        if audio:
            samples = soundfile.read(ROOT / "assets" / "voice.wav", dtype="float32")[0][: 16000 * frames // fps]
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_clips_and_a_manifest(tmp_path, landmarker):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "people").mkdir(parents=True)
    write_clip(source / "people" / "one.mp4")
    write_clip(source / "silent.mp4", sound=False)
    Image.open(PORTRAIT).save(source / "still.png")
    (source / "broken.mp4").write_bytes(b"no video")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(source / "wall.png")

    rows = {row["clip"]: row for row in run.prepare(source, target, landmarker, size=128, workers=1)}
    assert list(rows) == ["people__one", "silent", "still"]
    assert rows["people__one"]["frames"] == pytest.approx(15 * 25 / 30, abs=1)
    assert not rows["people__one"]["cut"] and not rows["people__one"]["too_small"]
    failed = {Path(row["source"]).name: row["reason"] for row in read_csv(target / "failed.csv")}
    assert set(failed) == {"broken.mp4", "wall.png"}
    assert "cannot be read as a video" in failed["broken.mp4"] and "No face was found" in failed["wall.png"]

    clip = load_file(target / "people__one.safetensors")
    count = rows["people__one"]["frames"]
    assert clip["landmarks"].shape == (count, 478, 3) and clip["landmarks"].dtype == np.float32
    assert clip["blendshapes"].shape == (count, 52) and clip["valid"].all()
    assert clip["audio"].dtype == np.int16 and len(clip["audio"]) / 16000 == pytest.approx(0.5, abs=0.1)
    assert "audio" not in load_file(target / "silent.safetensors")
    # The crop is fixed: the face moves through it as it moved through the video, 1 of 400 pixels a frame at 30 fps.
    side = int(rows["people__one"]["crop"].split()[2])
    nose = clip["landmarks"][:, 1, 0]
    assert (nose[-1] - nose[0]) * side == pytest.approx((count - 1) * 30 / 25, abs=3)
    assert 0.2 < inter_ocular_distance(clip["landmarks"]).mean() < 0.5
    with av.open(str(target / "people__one.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.frames, stream.width, stream.height, stream.average_rate) == (count, 128, 128, 25)


def test_it_resumes_and_merges_metadata(tmp_path, landmarker, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    Image.open(PORTRAIT).save(source / "still.png")
    run.prepare(source, target, landmarker, size=128, workers=1)
    before = (target / "still.safetensors").stat().st_mtime_ns
    (tmp_path / "about.csv").write_text("file,identity,licence,size\nstill.png,nobody,CC0,9999\nother.png,x,y,1\n")
    rows = run.prepare(source, target, landmarker, size=128, workers=1, metadata=tmp_path / "about.csv")
    assert (target / "still.safetensors").stat().st_mtime_ns == before
    assert len(rows) == 1 and rows[0]["identity"] == "nobody" and rows[0]["licence"] == "CC0"
    assert rows[0]["size"] == 128
    assert read_csv(target / "manifest.csv")[0]["identity"] == "nobody"


def test_metadata_without_the_column_file(tmp_path):
    (tmp_path / "about.csv").write_text("name,identity\nx,y\n")
    with pytest.raises(UserError, match="no column named file"):
        run.read_metadata(tmp_path / "about.csv")
    with pytest.raises(UserError, match="cannot be read"):
        run.read_metadata(tmp_path / "missing.csv")


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="contains no videos or pictures"):
        run.prepare(tmp_path, tmp_path / "out", LANDMARKER)


def test_missing_labelling_model(tmp_path):
    pytest.importorskip("mediapipe", reason="the extra 'prepare' is not installed", exc_type=ImportError)
    Image.open(PORTRAIT).save(tmp_path / "still.png")
    with pytest.raises(UserError, match="Pass --landmarker"):
        run.prepare_one(tmp_path / "still.png", tmp_path / "out", tmp_path / "missing.task", 128)


def labels_of(landmarks):
    return FrameLabels(landmarks, np.zeros((len(landmarks), 52), np.float32), np.ones(len(landmarks), bool))


def moving_face(frames=60, width=100.0):
    """A face-like cloud of landmarks whose lower lip goes up and down twice."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.uniform(20, 20 + width, (1, 478, 3)), frames, 0).astype(np.float32)
    points[..., 2] = 0
    points[:, 33, :2], points[:, 263, :2] = (30, 60), (90, 60)
    points[:, 13, :2] = (60, 100)
    opening = 4 + 4 * np.sin(np.arange(frames) * 4 * np.pi / frames)
    points[:, 14, :2] = np.stack([np.full(frames, 60), 100 + opening], 1)
    return points, opening


def test_quality_of_matching_sound():
    points, opening = moving_face()
    rng = np.random.default_rng(0)
    loudness = np.repeat(opening / 8, 640)
    samples = (rng.normal(0, 0.1, len(loudness)) * loudness).astype(np.float32)
    flags = quality_flags(labels_of(points), samples, 25)
    assert flags["sync"] > 0.6 and abs(flags["sync_lag"]) <= 2 and not flags["disagree"]
    assert flags["face_lost"] == 0 and not flags["cut"] and not flags["too_small"]


def test_quality_of_foreign_sound_cut_and_small_face():
    points, _ = moving_face()
    samples = np.random.default_rng(1).normal(0, 0.1, 60 * 640).astype(np.float32)
    points[30:, :, 0] += 60
    flags = quality_flags(labels_of(points * 0.3), samples, 25)
    assert flags["disagree"] and flags["cut"] and flags["too_small"]


def test_lost_face():
    labels = labels_of(moving_face()[0])
    labels.valid[:] = False
    assert quality_flags(labels, None, 25)["face_lost"] == 1
    labels.valid[15:] = True
    assert quality_flags(labels, None, 25)["face_lost"] == 0.25


def test_lag_and_envelope():
    wave = np.random.default_rng(0).normal(size=100)
    value, lag = lagged_correlation(wave[:-2], wave[2:], 3)
    assert lag == -2 and value == pytest.approx(1)
    envelope = audio_envelope(np.concatenate([np.zeros(6400), np.ones(6400)]).astype(np.float32), 20, 25)
    assert envelope.shape == (20,) and (envelope[10:] > envelope[:10].max() + 5).all()


def test_crop_is_square_even_and_inside():
    points, _ = moving_face()
    x0, y0, side = run.choose_crop(labels_of(points), 400, 300)
    assert side % 2 == 0 and 0 <= x0 <= 400 - side and 0 <= y0 <= 300 - side
    assert side == pytest.approx(200, abs=6)
    assert run.choose_crop(labels_of(points), 220, 220) == (0, 0, 220)


def test_coefficients_are_stored_and_follow_the_face_model(tmp_path):
    face = FaceModel.load()
    generator = torch.Generator().manual_seed(0)
    beta = torch.randn(4, 64, generator=generator) * face.exp_std
    pose = torch.tensor([[0.1, -0.2, 0.05, 0.1, 0.0, -1.2]]).repeat(4, 1)
    landmarks = face.landmarks(torch.zeros(4, 80), beta, pose, 1.0).numpy()
    valid = np.array([True, True, False, True])
    path = tmp_path / "clip.safetensors"
    save_file({"landmarks": landmarks, "valid": valid}, path, {"format": run.FORMAT, "row": "{}"})
    assert add_coefficients(path, face)
    tensors = load_file(path)
    again = face.landmarks(
        torch.from_numpy(tensors["alpha"]).expand(4, -1), torch.from_numpy(tensors["beta"]),
        torch.from_numpy(tensors["pose"]), 1.0,
    )  # fmt: skip
    assert np.abs(again.numpy() - landmarks)[valid, :, :2].mean() < 0.003
    assert not tensors["beta"][2].any()
    assert not add_coefficients(path, face)  # nothing to do the second time
    assert run._finished_row(path) == {}
