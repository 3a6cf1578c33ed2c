"""Keyframes: curves between keys, and what they drive."""

import json
import math

import numpy as np
import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.motion.interchange import control_readings
from fd2talk_core.motion.keyframes import (
    Keyframe,
    apply_keyframes,
    curve,
    load_keyframes,
    parse_keyframes,
    pose_in_units,
)

TIMES = np.arange(100) / 25
KEYS = [Keyframe(1, 0.0), Keyframe(2, 1.0), Keyframe(2.4, 1.0), Keyframe(3, -0.5)]


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


def talking(face, frames=100):
    generator = torch.Generator().manual_seed(0)
    expression = torch.randn(frames, 64, generator=generator) * face.exp_std
    return MotionClip(expression, 0.1 * torch.randn(frames, 6, generator=generator), 25, face.hash)


@pytest.mark.parametrize("interpolation", ["smooth", "linear", "hold"])
def test_curves_pass_through_their_keys_and_hold_outside(interpolation):
    values = curve(KEYS[::-1], TIMES, interpolation)
    assert values[[25, 50, 60, 75]] == pytest.approx([0, 1, 1, -0.5])
    assert (values[:26] == 0).all() and values[76:] == pytest.approx(-0.5)
    assert values.max() <= 1 + 1e-9 and values.min() >= -0.5 - 1e-9  # no overshoot
    assert curve([Keyframe(9, 0.3)], TIMES, interpolation) == pytest.approx(0.3)


def test_interpolations_differ_as_they_should():
    smooth, linear, hold = (curve(KEYS, TIMES, name) for name in ("smooth", "linear", "hold"))
    assert linear[37] == pytest.approx(0.48) and hold[49] == 0 and smooth[50:61] == pytest.approx(1)
    fine = np.arange(4000) / 1000
    velocity = np.diff(curve(KEYS, fine, "smooth")) * 1000
    assert np.abs(np.diff(velocity)).max() < 0.05  # it rests at the ends and has no corner
    assert np.abs(np.diff(np.diff(curve(KEYS, fine, "linear")) * 1000)).max() > 0.9
    with pytest.raises(UserError, match="no interpolation 'bezier'"):
        curve(KEYS, TIMES, "bezier")


def test_a_key_can_have_its_own_way_to_the_next():
    own = [Keyframe(0, 0, "hold"), Keyframe(1, 1), Keyframe(2, 2, "linear"), Keyframe(3, 0, "smooth"), Keyframe(4, 1)]
    values = curve(own, TIMES, "linear")
    assert (values[:25] == 0).all() and values[[25, 37, 50, 62]] == pytest.approx([1, 1.48, 2, 1.04])
    assert values[87] == pytest.approx(curve([Keyframe(3, 0), Keyframe(4, 1)], TIMES)[87])
    same = [Keyframe(key.time, key.value, "smooth") for key in KEYS]
    assert np.array_equal(curve(same, TIMES, "hold"), curve(KEYS, TIMES, "smooth"))


def test_a_smooth_way_goes_on_as_the_straight_line_beside_it():
    fine = np.arange(3000) / 1000
    for keys in (
        [Keyframe(0, 0, "linear"), Keyframe(1, 1, "smooth"), Keyframe(2, 1.6), Keyframe(3, 1.6)],
        [Keyframe(0, 0, "smooth"), Keyframe(1, 0.6, "linear"), Keyframe(2, 1.6), Keyframe(3, 1.6, "hold")],
    ):
        values = curve(keys, fine, "smooth")
        velocity = np.diff(values) * 1000
        assert velocity[1000] == pytest.approx(velocity[998], abs=0.01) == pytest.approx(1, abs=0.01)
        assert (np.diff(values) >= -1e-12).all() and values.max() <= 1.6 + 1e-9
    steep = curve([Keyframe(0, 0, "linear"), Keyframe(1, 9, "smooth"), Keyframe(2, 9.1), Keyframe(3, 0)], fine)
    assert steep.max() <= 9.1 + 1e-9


def test_adding_moves_the_named_controls_alone(face):
    clip = talking(face)
    edited = apply_keyframes(clip, face, {"smile_left": KEYS, "yaw": [Keyframe(0, 0), Keyframe(2, 10)]})
    change = edited.expression - clip.expression
    amount = torch.from_numpy(curve(KEYS, TIMES)).float()[:, None]
    assert torch.allclose(change, amount * face.controls["smile_left"], atol=1e-5)
    mouth = face.slices["mouth"]
    assert torch.equal(edited.expression[:, : mouth.start], clip.expression[:, : mouth.start])
    turn = torch.rad2deg(edited.pose - clip.pose)
    assert turn[50:, 1] == pytest.approx(10, abs=1e-4) and not turn[:, [0, 2, 3, 4, 5]].any()
    assert torch.equal(apply_keyframes(clip, face, {}).expression, clip.expression)


def test_replacing_drives_controls_to_absolute_values(face):
    clip = talking(face)
    for names in (("jaw_open",), ("blink_left", "blink_right", "jaw_open", "frown_left", "frown_right")):
        edited = apply_keyframes(clip, face, {name: KEYS for name in names}, "replace")
        directions = torch.stack([face.controls[name] for name in names], 1).double()
        reading = edited.expression.double() @ torch.linalg.pinv(directions).T
        for column in reading.T:
            assert column.numpy() == pytest.approx(curve(KEYS, TIMES), abs=1e-3)
        untouched = ~directions.any(1)
        assert untouched.sum() > 10 and torch.equal(edited.expression[:, untouched], clip.expression[:, untouched])
        assert edited.expression.abs().max() < 10 * clip.expression.abs().max()  # near-parallel controls stay tame
    jaw = apply_keyframes(clip, face, {"jaw_open": KEYS}, "replace")
    assert control_readings(jaw, face, ["jaw_open"])[:, 0].numpy() == pytest.approx(curve(KEYS, TIMES), abs=1e-3)


def test_replacing_the_pose_in_the_animators_units(face):
    keys = {name: [Keyframe(0, value)] for name, value in (("pitch", 5), ("roll", -20), ("x", 0.2), ("zoom", 0.1))}
    edited = apply_keyframes(talking(face), face, keys, "replace")
    wanted = [math.radians(5), math.radians(-20), 0.2, math.log(1.1)]
    assert torch.allclose(edited.pose[:, [0, 2, 3, 5]], torch.tensor(wanted).float(), atol=1e-6)
    assert torch.equal(edited.pose[:, [1, 4]], talking(face).pose[:, [1, 4]])
    assert pose_in_units(edited)[0, [0, 2, 3, 5]] == pytest.approx([5, -20, 0.2, 0.1], abs=1e-5)
    added = apply_keyframes(edited, face, {"zoom": [Keyframe(0, 0.1)]})
    assert pose_in_units(added)[0, 5] == pytest.approx(0.21, abs=1e-5)


def test_keys_beyond_the_clip_and_clips_of_one_frame(face):
    keys = {"jaw_open": [Keyframe(0, 0), Keyframe(8, 1)]}
    edited = apply_keyframes(talking(face), face, keys, "replace", "linear")
    assert control_readings(edited, face, ["jaw_open"])[-1].item() == pytest.approx(3.96 / 8, abs=1e-3)
    for mode in ("add", "replace"):
        assert len(apply_keyframes(talking(face, 1), face, keys, mode)) == 1


@pytest.mark.parametrize(
    ("keyframes", "told"),
    [
        ({"wink": KEYS}, "nothing called 'wink'.*jaw_open.*yaw"),
        ({"jaw_open": []}, "no keyframes"),
        ({"jaw_open": [Keyframe(-1, 0)]}, "0 or later"),
        ({"jaw_open": [Keyframe(math.nan, 0)]}, "0 or later"),
        ({"jaw_open": [Keyframe(0, math.nan)]}, "the value nan"),
        ({"jaw_open": [Keyframe(0, 99)]}, "the value 99"),
        ({"zoom": [Keyframe(0, -1)]}, "the value -1"),
        ({"jaw_open": [Keyframe(0, 0, "bezier")]}, "the interpolation 'bezier'.*smooth, linear, hold"),
        ({"jaw_open": [Keyframe(1, 0), Keyframe(2, 0), Keyframe(1, 1)]}, "two keyframes at 1 seconds"),
    ],
)
def test_keyframes_that_make_no_sense_are_refused(face, keyframes, told):
    with pytest.raises(UserError, match=told):
        apply_keyframes(talking(face), face, keyframes)


def test_modes_and_face_models_are_checked(face):
    with pytest.raises(UserError, match="no keyframe mode 'multiply'"):
        apply_keyframes(talking(face), face, {"jaw_open": KEYS}, "multiply")
    with pytest.raises(UserError, match="face model"):
        apply_keyframes(talking(face).with_changes(face_model="another"), face, {"jaw_open": KEYS})


def test_keyframes_are_read_from_json(tmp_path):
    text = '{"jaw_open": [[0, 0], [1.5, 0.8]], "yaw": [{"time": 2, "value": -10}]}'
    wanted = {"jaw_open": [Keyframe(0, 0), Keyframe(1.5, 0.8)], "yaw": [Keyframe(2, -10)]}
    assert parse_keyframes(text) == wanted and parse_keyframes("{}") == {}
    own = '{"yaw": [[0, 1, "hold"], {"time": 2, "value": 3, "interpolation": "linear"}]}'
    assert parse_keyframes(own) == {"yaw": [Keyframe(0, 1, "hold"), Keyframe(2, 3, "linear")]}
    (tmp_path / "keys.json").write_text("\ufeff" + text, encoding="utf-8")
    assert load_keyframes(tmp_path / "keys.json") == wanted
    with pytest.raises(UserError, match="cannot be read"):
        load_keyframes(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1, 2]", "3", '{"jaw_open": 1}', '{"jaw_open": [1, 2]}', '{"jaw_open": [[0, 0, 0]]}',
        '{"jaw_open": [[0, 0, "a"]]}', '{"jaw_open": [[0, 0, ["hold"]]]}', '{"jaw_open": [[0, 0, "hold", 1]]}',
        '{"jaw_open": [[0, "a"]]}', '{"jaw_open": [[0, NaN]]}', '{"jaw_open": [[0, true]]}', '{"jaw_open": []}',
        '{"jaw_open": [[0, 1], [0, 2]]}', '{"jaw_open": [[0, 1]], "jaw_open": [[0, 2]]}', '{"jaw_open": [{"time": 1}]}',
        json.dumps({"jaw_open": [[0, 10**400]]}), '{"jaw_open": [[-1, 0]]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_json_that_is_no_keyframes_is_refused(text):
    with pytest.raises(UserError):
        parse_keyframes(text)
