import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from fd2talk_core.cli_training import DEMO
from fd2talk_core.errors import UserError
from fd2talk_core.evaluation import (
    commanded,
    drift,
    flicker,
    goals,
    learned,
    out_of_domain,
    reenactment,
    sheets,
    summary,
)
from fd2talk_core.evaluation.metrics import eye_boxes
from fd2talk_core.face.landmarks import FACE_OVAL
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.frames.appearance import from_landmarks
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.prepare.labels import FrameLabels
from fd2talk_core.video.reading import read_picture

SIZE, FRAMES = 128, 12


@pytest.fixture(scope="module")
def face_model():
    return FaceModel.load()


def pose_at(frames, log_scale=0.22):
    pose = torch.zeros(frames, 6)
    pose[:, 5] = float(np.log(log_scale))
    return pose


def landmarks_of(face_model, beta, pose=None, size=SIZE):
    pose = pose_at(len(beta)) if pose is None else pose
    return face_model.landmarks(torch.zeros(len(beta), 80), beta, pose, size).numpy().astype(np.float32)


@pytest.fixture(scope="module")
def still_face(face_model):
    return landmarks_of(face_model, torch.zeros(FRAMES, 64))


def noise(frames=FRAMES, size=SIZE, seed=0):
    return torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def portrait(face_model, size=64):
    points = landmarks_of(face_model, torch.zeros(1, 64), size=size)[0]
    picture = (noise(1, size)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return from_landmarks(picture, points, face_model, size, crop_box=(0, 0, size))


def test_flicker_is_the_trembling_of_fine_detail(still_face):
    real = torch.full((FRAMES, 3, SIZE, SIZE), 0.5)
    static = flicker.static_pixels(real, still_face)
    # A checkerboard that swaps its fields trembles by its contrast, and has no low frequencies.
    board = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2 * 2.0 - 1
    swap = torch.tensor([1.0, -1.0]).repeat(FRAMES // 2)[:, None, None, None]
    made = real + 0.02 * swap * board
    assert flicker.flicker(made, static) == pytest.approx(0.02 * 255, rel=0.05)
    # The whole picture growing brighter is no flicker.
    assert flicker.flicker(real + 0.1 * torch.linspace(0, 1, FRAMES)[:, None, None, None], static) < 0.01
    scores = flicker.compare_flicker(made, real, still_face)
    assert scores["real_flicker"] < 1e-3
    assert scores["flicker_ratio"] == pytest.approx(0.02 * 255 * math.sqrt(12), rel=0.05)


def test_static_pixels_are_outside_of_the_face_and_still(still_face):
    real = torch.full((FRAMES, 3, SIZE, SIZE), 0.5)
    real[:, :, :, :20] += 0.2 * torch.rand(FRAMES, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    static = flicker.static_pixels(real, still_face)
    assert not static[:, :18].any() and static[:, -5:].all()
    oval = still_face[0, list(FACE_OVAL), :2].round().astype(int).clip(0, SIZE - 1)
    assert not static[oval[:, 1], oval[:, 0]].any()
    assert flicker.static_pixels(noise(), still_face) is None
    assert flicker.compare_flicker(noise(4), real[:4], still_face[:4])["flicker_ratio"] is None


def test_comparison_of_eyes_sees_only_eyes(still_face):
    real = noise()
    made = real.clone()
    for x0, y0, x1, y1 in eye_boxes(still_face[0], SIZE):
        made[:, :, y0:y1, x0:x1] = (real[:, :, y0:y1, x0:x1] - 0.5) * 0.5 + 0.5
    scores = reenactment.compare_frames(made, real, still_face)
    assert scores["eye_l1"] == pytest.approx(0.125, abs=0.01) and scores["mouth_l1"] == 0
    assert scores["eye_sharpness"] == pytest.approx(0.25, abs=0.02) and scores["mouth_sharpness"] == 1
    row = scores | {f"geometry_{key}": value for key, value in scores.items()}
    row |= {"geometry_eye_l1": 0.25, "geometry_psnr": scores["psnr"] - 2, "geometry_mouth_l1": 0.1}
    gains = reenactment.gains(row)
    assert gains["eye_l1_ratio"] == pytest.approx(0.5, abs=0.05) and gains["psnr_gain"] == pytest.approx(2)
    assert gains["gmsd_gain"] == 0 and gains["mouth_l1_ratio"] == 0


def test_goals_count_clips_and_compare_sums():
    rows = [
        {"mouth_l1_ratio": 0.5, "mouth_l1": 1, "geometry_mouth_l1": 2, "psnr_gain": 2.0, "flicker_ratio": None},
        {"mouth_l1_ratio": 0.9, "mouth_l1": 9, "geometry_mouth_l1": 10, "psnr_gain": -1.0, "flicker_ratio": None},
    ]
    found = goals.judge("frames", rows)
    mouth = found["mouth_l1_ratio"]
    assert mouth["mean"] == pytest.approx(0.7) and mouth["ratio_of_sums"] == pytest.approx(10 / 12)
    assert mouth["reached"] and (mouth["clips_passed"], mouth["clips"]) == (1, 2)
    assert not found["psnr_gain"]["reached"] and found["psnr_gain"]["ratio_of_sums"] is None
    assert "flicker_ratio" not in found and goals.judge("tracker", rows) == {}


def test_every_clip_and_goal_is_drawn():
    rows = [{"clip": f"clip {i}", "mouth_l1_ratio": i / 2, "mouth_l1": i, "geometry_mouth_l1": 2} for i in range(3)]
    content = {"summary": summary.summarise(rows, None), "rows": rows, "goals": goals.judge("frames", rows)}
    content["learned"] = {"fid": 12.5, "csim": "not measured: no --identity-model"}
    text = io.StringIO()
    summary.show({"parts": {"frames": content}}, Console(file=text, width=200))
    for wanted in ("clip 0", "clip 2", "<= 0.8", "2 of 3", "12.5", "no --identity-model"):
        assert wanted in text.getvalue()


def test_commanded_motion_seen_exactly_and_turned(face_model):
    phase = torch.linspace(0, 6, 40)[:, None]
    beta = phase.sin().abs() * face_model.controls["jaw_open"]
    lids = face_model.control_vector({"blink_left": 1.0, "blink_right": 1.0})
    beta = beta + (phase * 2).cos().clamp(min=0) * lids
    pose, alpha = pose_at(40), torch.zeros(80)
    points = landmarks_of(face_model, beta, pose)
    seen = FrameLabels(points.copy(), np.zeros((40, 52), np.float32), np.ones(40, bool))
    seen.valid[7], seen.landmarks[7] = False, 0
    scores = commanded.compare_commanded(seen, points, alpha, pose, SIZE, face_model)
    assert scores["mouth_correlation"] > 0.98 and scores["eye_correlation"] > 0.98
    assert scores["pose_error"] < 0.3 and scores["face_lost"] == pytest.approx(1 / 40)
    turned = pose.clone()
    turned[:, 1] += math.radians(9)
    seen.landmarks = landmarks_of(face_model, beta, turned)
    scores = commanded.compare_commanded(seen, points, alpha, pose, SIZE, face_model)
    assert scores["pose_error"] == pytest.approx(3, abs=0.3)  # mean over pitch, yaw and roll
    few = FrameLabels(seen.landmarks[:5], seen.blendshapes[:5], seen.valid[:5])
    assert commanded.compare_commanded(few, points[:5], alpha, pose[:5], SIZE, face_model)["mouth_correlation"] is None
    still = landmarks_of(face_model, torch.zeros(40, 64))
    scores = commanded.compare_commanded(seen, still, alpha, pose, SIZE, face_model)
    assert scores["eye_correlation"] is None and scores["mouth_correlation"] == 0
    seen.valid[:] = False
    with pytest.raises(UserError, match="no face"):
        commanded.compare_commanded(seen, points, alpha, pose, SIZE, face_model)
    with pytest.raises(UserError, match="--landmarker"):
        commanded.evaluate_commanded([], None, None, face_model)


def test_long_motion_repeats_the_window_and_nothing_else(face_model):
    values = torch.arange(50.0)[:, None]
    clip = drift.long_motion(MotionClip(values.expand(50, 64), values.expand(50, 6), 25, face_model.hash), radius=5)
    assert clip.duration > 600
    near = torch.arange(-13, 14)
    assert torch.equal(clip.expression[drift.EARLY + near], clip.expression[drift.LATE + near])
    outside = torch.arange(-40, -13)
    assert not torch.equal(clip.pose[drift.EARLY + outside], clip.pose[drift.LATE + outside])


def test_drift_is_found_in_renders_that_drift():
    frame = noise(1, 32)[0].permute(1, 2, 0)

    def steady(first, batch):
        return frame.expand(batch, -1, -1, -1)

    assert drift.compare_instants(steady)["psnr"] == drift.MOST

    def darkens(first, batch):
        return (frame * (0.5 if first > 1000 else 0.6)).expand(batch, -1, -1, -1)

    later = drift.compare_instants(darkens)
    assert later["same_place_psnr"] < 30
    place = torch.linspace(1, 0.8, drift.BATCH)[:, None, None, None]
    by_place = drift.compare_instants(lambda first, batch: frame * place[:batch])
    assert by_place["same_place_psnr"] == drift.MOST and by_place["psnr"] == by_place["other_place_psnr"] < 30


def test_stage_2_does_not_drift(face_model):
    torch.manual_seed(0)
    model = FrameModel(face_model_hash=face_model.hash).eval()
    motion = out_of_domain.probe_motion(face_model, torch.zeros(64))
    scores = drift.measure_drift(model, face_model, portrait(face_model), motion, steps=1)
    assert scores["psnr"] >= 40


def test_probe_motion_opens_blinks_and_turns(face_model):
    motion = out_of_domain.probe_motion(face_model, torch.zeros(64))
    points = landmarks_of(face_model, motion.expression)
    opening, eyes = out_of_domain.mouth_opening(points), commanded.eye_opening(points)
    assert opening.max() > opening[0] + 0.1 and opening[-1] == pytest.approx(opening[0], abs=1e-3)
    assert eyes.min() < 0.6 * eyes[0] and eyes.std() > commanded.EYES_MOVE_FROM
    assert motion.pose[:, 1].rad2deg().abs().max() == pytest.approx(10, abs=0.3)


def test_colours_of_the_skin(still_face):
    grey = torch.full((2, 3, SIZE, SIZE), 0.5)
    reference = grey[0]
    same = out_of_domain.compare_colours(grey, still_face[:2], reference, still_face[0])
    assert max(same.values()) < 1e-3
    darker = out_of_domain.compare_colours(grey * 0.8, still_face[:2], reference, still_face[0])
    assert darker["colour_shift"] > 5 and darker["chroma_shift"] < 0.1
    pink = grey + torch.tensor([0.1, -0.02, -0.02])[:, None, None]
    assert out_of_domain.compare_colours(pink, still_face[:2], reference, still_face[0])["chroma_shift"] > 5
    skin = out_of_domain.skin_mask(still_face[0], SIZE)
    lips = still_face[0, 13, :2].round().astype(int)
    assert skin.any() and not skin[lips[1], lips[0]] and not skin[0].any()


def test_structure_ignores_the_mouth(face_model):
    points = landmarks_of(face_model, torch.zeros(2, 64), size=192)
    geometry = noise(2, 192)
    made = geometry.clone()
    x, y = points[0, 13, :2].round().astype(int)
    made[:, :, y - 3 : y + 4, x - 4 : x + 5] = 0
    scores = out_of_domain.compare_structure(made, geometry, points)
    assert scores["structure_gmsd"] == 0 and scores["structure_ms_ssim"] == pytest.approx(1)
    assert made[0, :, y, x].max() == 0  # the input stays as it was
    made[:, :, :60] = 0.5
    assert out_of_domain.compare_structure(made, geometry, points)["structure_gmsd"] > 0.05


def test_mouth_of_frames_in_which_the_tracker_sees_too_little(still_face):
    class Sees:
        def __init__(self, found):
            self.found = found

        def track_video(self, frames):
            faces = [type("Face", (), {"landmarks": points})() for points in still_face]
            return [face if found else None for face, found in zip(faces, self.found, strict=True)]

    blind = out_of_domain.compare_mouth(noise(), still_face, Sees([False] * 10 + [True] * 2))
    assert blind["face_found"] == pytest.approx(1 / 6) and blind["mouth_correlation"] is None
    assert out_of_domain.compare_mouth(noise(), still_face, Sees([True] * 12))["mouth_correlation"] == 0


class OneStill:
    still, held_back = True, True

    def __init__(self, name, kind, picture, points):
        self.name, self.meta, self._picture, self._points = name, {"kind": kind}, picture, points

    def labels(self):
        return FrameLabels(self._points[None], np.zeros((1, 52), np.float32), np.ones(1, bool))

    def frames(self):
        return [self._picture]


def test_pictures_are_chosen_by_kind_and_photos_lose_their_colours(still_face):
    colours = (noise(1)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    names = (("b", "painting"), ("a", "painting"), ("c", "sculpture"), ("d", "ai_photo"), ("e", "animal"))
    clips = [OneStill(name, kind, colours, still_face[0]) for name, kind in names]
    chosen = out_of_domain.choose_pictures(clips, limit=1)
    assert [(p.name, p.kind) for p in chosen] == [("a", "painting"), ("c", "sculpture"), ("d", "greyscale")]
    assert out_of_domain.is_grey(chosen[-1].picture) and not out_of_domain.is_grey(colours)
    grey = OneStill("f", "photo", chosen[-1].picture, still_face[0])
    assert [p.name for p in out_of_domain.choose_pictures([*clips, grey]) if p.kind == "greyscale"] == ["f"]


@pytest.mark.weights
def test_a_portrait_moves_as_commanded_and_keeps_its_colours(face_model, tmp_path):
    picture = read_picture(DEMO / "portrait.png")
    tracker = FaceTracker.load()
    still = out_of_domain.Picture("demo", "photo", True, picture, tracker.track(picture)[0].landmarks)
    (row,) = out_of_domain.evaluate_out_of_domain(
        [still], FrameModel.load().eval(), face_model, tracker, steps=1, size=192, sheets=tmp_path, frames=8
    )
    assert row["face_found"] == 1 and row["encoded_by"] == "tracker" and row["mouth_correlation"] > 0.8
    assert row["chroma_shift"] < 3 and row["structure_ms_ssim"] > 0.9
    assert (tmp_path / "photo_demo.jpg").is_file()


def test_sheets_show_rows_and_details(tmp_path, still_face):
    frames = noise()
    path = tmp_path / "deep" / "sheet.jpg"
    sheets.save_sheet(path, {"ours": frames, "real": frames}, still_face, ("ours", "real"))
    sheet = Image.open(path)
    details = [round(sheets.CELL * high / wide) for _, _, (wide, high) in sheets.WINDOWS]
    assert sheet.size == (sheets.MARGIN + sheets.COLUMNS * sheets.CELL, 2 * sheets.CELL + 2 * sum(details))
    cells = np.asarray(sheet)[: sheets.CELL, sheets.MARGIN :].astype(int)
    first, last = cells[:, : sheets.CELL], cells[:, -sheets.CELL :]
    assert np.abs(first - last).mean() > 10  # other instants
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        sheets.save_sheet(tmp_path / "file" / "sheet.jpg", {"ours": frames}, still_face, ("ours",))


def test_faces_are_aligned_whatever_their_pose(face_model):
    pose = pose_at(2)
    pose[1, 2], pose[1, 3], pose[1, 5] = 0.4, 0.3, float(np.log(0.3))
    points = landmarks_of(face_model, torch.zeros(2, 64), pose)
    pictures = torch.zeros(2, 3, SIZE, SIZE)
    for picture, nose in zip(pictures, points[:, learned.NOSE_TIP].round().astype(int), strict=True):
        picture[:, nose[1] - 2 : nose[1] + 3, nose[0] - 2 : nose[0] + 3] = 1
    faces = learned.aligned_faces(pictures, points)
    assert faces.shape == (2, 3, 112, 112) and faces.min() >= -1
    for face in faces:
        y, x = (torch.nonzero(face[0] > 0).float().mean(0)).tolist()
        assert abs(x - 56) < 6 and abs(y - 72) < 10


def test_csim_by_a_users_network(tmp_path, face_model, still_face):
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    torch.jit.script(Mean()).save(str(tmp_path / "net.pt"))
    measures = learned.LearnedMeasures(tmp_path / "net.pt")
    look = portrait(face_model, SIZE)
    bright = torch.ones(FRAMES, 3, SIZE, SIZE)
    look.crop = bright[0]
    scores = measures.compare(bright, 0 * bright, look, still_face)
    assert scores["csim"] == pytest.approx(1) and scores["real_csim"] == pytest.approx(-1)
    assert "csim" not in measures.notes
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for name in ("junk.pt", "nowhere.pt"):
        with pytest.raises(UserError, match="not a TorchScript network"):
            learned.LearnedMeasures(tmp_path / name)


def test_absent_weights_are_told_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(learned, "find_spec", lambda name: name)
    notes = learned.LearnedMeasures().summary()
    assert notes["lpips"].startswith(learned.ABSENT) and notes["fid"].startswith(learned.ABSENT)
    assert notes["csim"] == "not measured: no --identity-model"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").touch()
    assert learned.why_not("fid") is None
