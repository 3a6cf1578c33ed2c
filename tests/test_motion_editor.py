"""The motion editor: its JavaScript gives what Python gives, and its files hold what it needs."""

import json
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion import blinks, edit, keyframes, tools
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.editor import (
    EditStages,
    face_for_editor,
    quantised,
    sound_peaks,
    write_editor_motion,
    write_sound,
)
from fd2talk_core.motion.interchange import control_readings
from fd2talk_core.motion.keyframes import INTERPOLATIONS, Keyframe, curve, parse_keyframes

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node to run JavaScript with; a browser test covers it, too")
FRAMES = 60


def in_javascript(what: str, **request):
    done = subprocess.run(
        [NODE, str(Path(__file__).parent / "motion_editor.mjs")],
        input=json.dumps({"what": what, **request}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


@pytest.fixture
def clip(face):
    generator = torch.Generator().manual_seed(3)
    expression = torch.randn(FRAMES, 64, generator=generator) * face.exp_std
    pose = 0.1 * torch.randn(FRAMES, 6, generator=generator)
    return MotionClip(expression, pose, 29.97, face.hash)


@needs_node
def test_curves_are_those_of_python():
    rng = np.random.default_rng(0)
    tracks = [[[0.5, 0.3]], [[0, 0], [1, 1]], [[1, 0], [2, 1], [2.4, 1], [3, -0.5]], [[0.033367, 1], [0.066733, -1]]]
    for count in (3, 5, 12, 40):
        times = np.sort(rng.choice(np.arange(1, 400), count, replace=False)) / 97
        tracks.append(np.stack([times, rng.choice([-1, 0, 0.5, 0.5, 2], count) * rng.random(count)], 1).tolist())
    for track in tracks[1:]:
        kinds = rng.choice([None, *INTERPOLATIONS], len(track))
        tracks.append([[*key, kind] if kind else key for key, kind in zip(track, kinds, strict=True)])
    # Frames of several rates, moments on keys, and moments outside.
    times = np.concatenate([np.arange(130) / 29.97, np.arange(110) / 25, rng.uniform(0, 5, 200), [0.0, 4.5, 100.0]])
    keys = [[dict(zip(("time", "value", "interpolation"), key, strict=False)) for key in track] for track in tracks]
    answers = in_javascript("curves", tracks=keys, times=times.tolist(), interpolations=INTERPOLATIONS)
    for track, answer in zip(tracks, answers, strict=True):
        for interpolation, values in zip(INTERPOLATIONS, answer, strict=True):
            expected = curve([Keyframe(*key) for key in track], times, interpolation)
            assert np.abs(np.array(values) - expected).max() < 1e-9, (track, interpolation)


TEXTS = [
    "",
    '{"smile_left": [[0, 0], [1.5, 0.6]], "yaw": [[0, 0], [2, 10]]}',
    '{"yaw": [{"time": 2, "value": 10}, {"value": -3.25, "time": 0.04}]}',
    '{"zoom": [[0, -0.9]]}',
    '{"yaw": [[0, 1, "hold"], [1, 2], [2, 3, "linear"], {"time": 3, "value": 1, "interpolation": "smooth"}]}',
]
BAD_TEXTS = [
    "[[0, 1]]",
    '{"yaw": [[0, 1]',
    '{"yaw": []}',
    '{"yaw": 3}',
    '{"yaw": [[0, 1], [0, 2]]}',
    '{"yaw": [[-1, 1]]}',
    '{"yaw": [[0, 91]]}',
    '{"jaw_open": [[0, 11]]}',
    '{"zoom": [[0, -0.95]]}',
    '{"yaw": [[0, NaN]]}',
    '{"yaw": [[0, "1"]]}',
    '{"yaw": [[0, 1, 2]]}',
    '{"yaw": [[0, true]]}',
    '{"yaw": [[0, 1, "bezier"]]}',
    '{"yaw": [[0, 1, null]]}',
    '{"yaw": [[0, 1, "hold", "hold"]]}',
    '{"yaw": [{"time": 0, "value": 1, "interpolation": ""}]}',
    '{"yaw": [{"time": 0, "interpolation": "hold"}]}',
    '{"yaw": [{"time": 0, "value": 1, "ease": 1}]}',
    '{"yaw": [[0, 1]], "yaw": [[0, 2]]}',
]


@needs_node
def test_texts_are_read_and_refused_as_in_python():
    answers = in_javascript("texts", texts=TEXTS + BAD_TEXTS)
    for text, answer in zip(TEXTS, answers, strict=False):
        expected = parse_keyframes(text) if text else {}
        read = parse_keyframes(answer) if answer else {}
        assert read == {name: sorted(keys, key=lambda key: key.time) for name, keys in expected.items()}
    for text, answer in zip(BAD_TEXTS, answers[len(TEXTS) :], strict=True):
        assert isinstance(answer, dict), f"the editor accepts {text}"
        with pytest.raises(UserError):
            parse_keyframes(text)


@needs_node
def test_limits_are_those_of_python():
    names = ["jaw_open", *keyframes.POSE_NAMES]
    for name, (least, most) in zip(names, in_javascript("limits", names=names), strict=True):
        for value, fine in ((least, True), (most, True), (least - 0.01, False), (most + 0.01, False)):
            text = json.dumps({name: [[0, value]]})
            if fine:
                parse_keyframes(text)
            else:
                with pytest.raises(UserError):
                    parse_keyframes(text)


SETTINGS = {
    "gains": {"gaze": 0.0, "eyelids": 0.5, "brows": 1.5, "mouth": 0.7, "rest": 1.0},
    "rotation": 0.5,
    "translation": 2.0,
    "controls": {"brow_furrow": 0.4, "smile_left": 0.2},
    "keyframes": json.dumps(
        {
            "smile_left": [[0, 0], [0.5, 0.9, "hold"], [0.9, 0.4, "linear"], [1.4, -0.2]],
            "smile_right": [[0.2, 0.4]],
            "mouth_wide": [[0, 0.1], [1, 0.5]],
            "yaw": [[0, -5], [1, 20]],
            "x": [[0, 0.1], [1, -0.1]],
            "zoom": [[0.3, 0], [0.9, 0.2]],
        }
    ),
}


def edited(clip, face, mode, interpolation, late):
    """What Edit Motion does, stage by stage."""
    motion = edit.scale_pose(edit.scale_regions(clip, face, SETTINGS["gains"]), 0.5, 2.0)
    if late:
        motion = blinks.set_blink_rate(tools.pose_preset(motion, "lively"), face, 20, seed=1)
    shaped = motion
    motion = edit.apply_controls(motion, face, SETTINGS["controls"])
    parsed = parse_keyframes(SETTINGS["keyframes"])
    keyed = motion = keyframes.apply_keyframes(motion, face, parsed, mode, interpolation)
    if late:
        motion = tools.limit_pose(blinks.add_blinks(motion, face, 60, 2), (0.2, 0.3, 0.2), 0.1, 0.1)
    return EditStages(clip, shaped, keyed, motion)


@needs_node
@pytest.mark.parametrize("late", [False, True], ids=["plain", "with blinks, preset and limit"])
@pytest.mark.parametrize(("mode", "interpolation"), [("add", "smooth"), ("replace", "linear"), ("replace", "hold")])
def test_the_editor_shows_what_the_node_gives(clip, face, tmp_path, mode, interpolation, late):
    stages = edited(clip, face, mode, interpolation, late)
    assert not late or not torch.equal(stages.result.pose, stages.keyed.pose)
    (tmp_path / "face").write_bytes(face_for_editor(face))
    peaks = sound_peaks(np.ones(16000, np.float32), 16000)
    write_editor_motion(tmp_path / "motion", stages, face, SETTINGS["gains"], 0.5, 2.0, peaks)
    tracks = ["smile_left", "jaw_open", "yaw", "zoom"]
    answer = in_javascript(
        "motion",
        face=str(tmp_path / "face"),
        motion=str(tmp_path / "motion"),
        settings={**SETTINGS, "mode": mode, "interpolation": interpolation},
        frames=list(range(FRAMES)),
        tracks=tracks,
    )
    assert (answer["frames"], answer["fps"], answer["peaks"]) == (FRAMES, 29.97, 100)
    assert set(answer["names"]) == {*face.controls, *keyframes.POSE_NAMES}
    result = stages.result
    assert np.array(answer["expression"]) == pytest.approx(result.expression.numpy(), abs=2e-4)
    assert np.array(answer["pose"]) == pytest.approx(result.pose.numpy(), abs=5e-5)
    landmarks = face.landmarks(torch.zeros(FRAMES, 80), result.expression, result.pose, 1.0).numpy()
    assert np.array(answer["landmarks"]).reshape(FRAMES, 478, 3) == pytest.approx(landmarks, abs=1e-3)
    readings = np.stack([*control_readings(result, face, tracks[:2]).numpy().T, *keyframes.pose_in_units(result).T])
    assert np.array(answer["readings"]) == pytest.approx(readings[[0, 1, 3, 7]], abs=5e-3)
    unkeyed = edit.apply_controls(stages.shaped, face, SETTINGS["controls"])
    before = np.stack([*control_readings(unkeyed, face, tracks[:2]).numpy().T, *keyframes.pose_in_units(unkeyed).T])
    assert np.array(answer["before"]) == pytest.approx(before[[0, 1, 3, 7]], abs=5e-3)


VALUES = {"keyframes": TEXTS[1], "gains": {"mouth_gain": 1}, "mode": "add", "interpolation": "smooth"}


@needs_node
@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([], {"smile_left": [[0, 0], [1.5, 0.6]], "yaw": [[0, 0], [2, 10]]}),
        ([["addKey", "yaw", 1.01, 500]], {"yaw": [[0, 0], [1, 90], [2, 10]]}),
        ([["addKey", "yaw", 2.01, 3]], {"yaw": [[0, 0], [2, 3]]}),
        ([["select", "yaw", 0], ["moveSelected", 2.6, -4]], {"yaw": [[2, 10], [2.6, -4]]}),
        ([["select", "yaw", 0], ["moveSelected", 2.0, -4]], {"yaw": [[0, -4], [2, 10]]}),
        ([["select", "yaw", 0], ["moveSelected", -5, 0]], {"yaw": [[0, 0], [2, 10]]}),
        ([["select", "yaw", 1], ["deleteSelected"], ["deleteSelected"]], {"yaw": None}),
        ([["removeTrack", "smile_left"], ["undo"]], {"smile_left": [[0, 0], [1.5, 0.6]]}),
        ([["removeTrack", "smile_left"], ["undo"], ["redo"]], {"smile_left": None}),
        ([["removeTrack", "smile_left"], ["undo"], ["removeTrack", "yaw"], ["redo"]], {"yaw": None}),
        ([["select", "yaw", 0], ["setSelectedInterpolation", "hold"]], {"yaw": [[0, 0, "hold"], [2, 10]]}),
        (
            [
                ["select", "yaw", 0],
                ["setSelectedInterpolation", "hold"],
                ["moveSelected", 1, 3],
                ["addKey", "yaw", 1.52, 4],
            ],
            {"yaw": [[1, 3, "hold"], [1.52, 4, "hold"], [2, 10]]},
        ),
        (
            [["select", "yaw", 1], *[["cycleSelectedInterpolation"]] * 3, ["addKey", "yaw", 2, 5]],
            {"yaw": [[0, 0], [2, 5, "hold"]]},
        ),
        ([["select", "yaw", 1], *[["cycleSelectedInterpolation"]] * 4], {"yaw": [[0, 0], [2, 10]]}),
        ([["select", "yaw", 0], ["setSelectedInterpolation", "linear"], ["undo"]], {"yaw": [[0, 0], [2, 10]]}),
        ([["addKey", "x", 0.5, 1], ["undo"], ["undo"], ["undo"]], {"x": None, "yaw": [[0, 0], [2, 10]]}),
    ],
)
def test_editing_and_undo(actions, expected):
    answer = in_javascript("actions", values=VALUES, frameTime=0.04, actions=actions)
    tracks = json.loads(answer["values"]["keyframes"] or "{}")
    for name, keys in expected.items():
        assert tracks.get(name) == keys
    if tracks:
        parse_keyframes(answer["values"]["keyframes"])


@needs_node
def test_gains_and_modes_are_undone_too_and_a_drag_is_one_step():
    drag = [["setGain", "mouth_gain", value, False] for value in (0.9, 0.5)]
    actions = [*drag, ["setGain", "mouth_gain", 0, True], ["set", "mode", "replace"], ["undo"], ["undo"]]
    answer = in_javascript("actions", values=VALUES, frameTime=None, actions=actions)
    assert answer["values"]["gains"] == {"mouth_gain": 1} and answer["values"]["mode"] == "add"
    actions = [["set", "interpolation", "hold"], ["setGain", "mouth_gain", 0, True], ["undo"]]
    answer = in_javascript("actions", values=VALUES, frameTime=None, actions=actions)
    assert answer["values"]["gains"] == {"mouth_gain": 1} and answer["values"]["interpolation"] == "hold"


def test_an_unchanged_motion_needs_no_extra_columns(clip, face, tmp_path):
    ones = dict.fromkeys(face.slices, 1.0)
    path = write_editor_motion(tmp_path / "a", EditStages(clip, clip, clip, clip), face, ones, 1.0, 1.0)
    assert set(load_file(path)) == {"valid", "expression", "expression_step", "pose", "pose_step"}
    assert path.stat().st_size < FRAMES * 70 * 2 + 2000
    with pytest.raises(UserError, match="cannot be written"):
        write_editor_motion(path / "b", EditStages(clip, clip, clip, clip), face, ones, 1.0, 1.0)


def test_quantising_keeps_five_digits():
    values = torch.randn(50, 7)
    values[:, 3] = 0
    integers, step = quantised(values)
    assert integers.dtype == torch.int16
    assert (integers * step - values).abs().max() <= values.abs().max() / 65000


@pytest.mark.parametrize("length", [1, 2205, 100_000])
def test_sound_is_kept_to_the_sample(tmp_path, length):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, (2, length)).astype(np.float32)
    path = write_sound(tmp_path / "sound.flac", samples, 22050)
    with av.open(str(path)) as file:
        read = np.concatenate([frame.to_ndarray().ravel() for frame in file.decode(audio=0)])
    assert len(read) == length and np.abs(read / 32767 - samples.mean(0)).max() < 1e-4
    assert not (tmp_path / "sound.flac.partial").exists()


def test_peaks_follow_loudness():
    samples = np.zeros((1, 44100), np.float32)
    samples[0, 22050:] = 0.25
    peaks = sound_peaks(samples, 44100)
    assert len(peaks) == 100 and not peaks[:50].any() and (peaks[50:] == 255).all()
    assert not sound_peaks(np.zeros(10, np.float32), 8000).any()
    assert sound_peaks(np.array([np.nan, 1.0], np.float32), 8000).tolist() == [255]
