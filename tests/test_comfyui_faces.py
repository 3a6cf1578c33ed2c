"""Choosing faces, two people of one picture and dubbing, through a real ComfyUI server."""

from __future__ import annotations

import io
import json
import shutil

import av
import numpy as np
import pytest
from comfy_server import PACK, VOICE_SECONDS, ExecutionFailed, api_prompt, missing
from PIL import Image

from fd2talk_core import dubbing
from fd2talk_core.audio.loading import frame_count
from fd2talk_core.face.landmarks import mouth_opening
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.video import faces
from fd2talk_core.video.reading import iter_frames

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]

FPS = 10.0


def workflow(server, name: str) -> dict:
    content = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    return api_prompt(content, server.get_json("/object_info"))


def nodes_of(prompt: dict, kind: str) -> list[dict]:
    return [node["inputs"] for node in prompt.values() if node["class_type"] == kind]


def saved_video(server, outputs: dict) -> tuple[list[np.ndarray], float, float]:
    """Frames, frame rate and seconds of sound of the one video that was saved."""
    pictures = [item for output in outputs.values() for item in output.get("images", [])]
    [result] = [item for item in pictures if item["filename"].endswith(".mp4")]
    content = server.download(result)
    with av.open(io.BytesIO(content)) as file:
        rate = float(file.streams.video[0].average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with av.open(io.BytesIO(content)) as file:
        heard = sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate
    return frames, rate, heard


def encode_prompt(picture: str, **inputs) -> dict:
    return {
        "1": {"class_type": "FD2TalkLoadModels", "inputs": {"checkpoint": "default (shipped)", "dtype": "auto"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "3": {
            "class_type": "FD2TalkEncodeAppearance",
            "inputs": {"frame_model": ["1", 1], "image": ["2", 0], "face_index": 0, "size": "256", **inputs},
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 1]}},
    }


def pictures(server, shown: list[dict]) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(server.download(one))).convert("RGB")).astype(int) for one in shown]


@pytest.fixture(scope="module")
def people(server):
    shutil.copy(PACK / "assets/two_people.jpg", server.base / "input")
    return server


def test_choices_are_those_of_the_library(server):
    info = server.get_json("/object_info")
    for node in ("FD2TalkEncodeAppearance", "FD2TalkTrackMotion", "FD2TalkDubVideo"):
        assert info[node]["input"]["optional"]["face_order"][1]["options"] == list(faces.ORDERS)
    dub = info["FD2TalkDubVideo"]["input"]["required"]
    assert dub["longer_sound"][1]["options"] == list(dubbing.LONGER_SOUND)
    assert dub["no_face"][1]["options"] == list(dubbing.NO_FACE)


def test_the_node_shows_the_landmarks_and_of_several_faces_which(people):
    outputs = people.run(encode_prompt("portrait.png"))
    [drawn] = pictures(people, outputs["3"]["images"])
    [crop] = pictures(people, outputs["4"]["images"])
    assert drawn.shape == (512, 512, 3) and crop.shape == (256, 256, 3)
    green = (drawn[..., 1] - drawn[..., 0] > 60) & (drawn[..., 1] - drawn[..., 2] > 40)
    assert 0.002 < green.mean() < 0.1, "the outlines are drawn in green"
    outputs = people.run(encode_prompt("two_people.jpg", face_order="left to right", face_index=1))
    _, numbered = pictures(people, outputs["3"]["images"])
    green = (numbered[..., 1] - numbered[..., 0] > 100) & (numbered[..., 1] - numbered[..., 2] > 60)
    assert green[:, :390].sum() == 0 < green[:, 390:].sum(), "the one that was taken is framed in green"


@pytest.mark.parametrize(
    "inputs",
    [
        {"face_order": "left to right", "face_index": 1},
        {"face_order": "nearest to point", "point_x": 0.9, "point_y": 0.4},
    ],
)
def test_the_right_one_of_two_people(people, inputs):
    [crop] = pictures(people, people.run(encode_prompt("two_people.jpg", **inputs))["4"]["images"])
    [left] = pictures(people, people.run(encode_prompt("two_people.jpg", face_order="left to right"))["4"]["images"])
    warm = [picture[80:170, 90:170, 0].mean() - picture[80:170, 90:170, 2].mean() for picture in (crop, left)]
    assert warm[0] > warm[1] + 20, "the painted face is the warmer one"


def test_two_people_workflow(people):
    prompt = workflow(people, "Two People")
    for node in nodes_of(prompt, "FD2TalkAudioToMotion"):
        node |= {"fps": FPS, "steps": 3}
    for node in nodes_of(prompt, "FD2TalkSampleFrames"):
        node |= {"steps": 1}
    frames, rate, heard = saved_video(people, people.run(prompt))
    half = round(VOICE_SECONDS * FPS)
    assert rate == FPS and heard == pytest.approx(2 * VOICE_SECONDS, abs=0.1)
    assert len(frames) == frame_count(2 * VOICE_SECONDS, FPS)
    middle = frames[0].shape[1] // 2
    picture = np.asarray(Image.open(PACK / "assets/two_people.jpg").convert("RGB")).astype(int)
    tracker = FaceTracker.load()
    moves = []
    for side in (slice(None, middle), slice(middle, None)):
        part = [np.ascontiguousarray(frame[:, side]) for frame in frames]
        opening = mouth_opening(np.stack([face.landmarks for face in tracker.track_video(part)]))
        moves.append((opening[:half].std(), opening[half:].std()))
    (left_first, left_then), (right_first, right_then) = moves
    assert left_first > 2 * left_then and right_then > 2 * right_first, "who speaks moves the mouth, who listens not"
    # The background far from both, in every frame: what the encoder of the video leaves of it.
    corner = np.abs(np.stack(frames)[:, :25, :, :].astype(int) - picture[:25]).mean()
    assert corner < 3


def test_frames_of_another_picture_are_refused_as_background(people):
    prompt = workflow(people, "Two People")
    pastes = nodes_of(prompt, "FD2TalkPasteBack")
    [second] = [node for node in pastes if "background" in node]
    prompt["other"] = {"class_type": "LoadImage", "inputs": {"image": "portrait.png"}}
    second["background"] = ["other", 0]
    for node in nodes_of(prompt, "FD2TalkAudioToMotion"):
        node |= {"fps": 1.0, "steps": 1}
    for node in nodes_of(prompt, "FD2TalkSampleFrames"):
        node |= {"steps": 1}
    with pytest.raises(ExecutionFailed, match="The background has 512 x 512 pixels, but the portrait 780 x 512"):
        people.run(prompt)


def test_dub_a_video_workflow(server):
    prompt = workflow(server, "Dub a Video")
    [node] = nodes_of(prompt, "FD2TalkDubVideo")
    node |= {"steps": 1}
    [loader] = nodes_of(prompt, "LoadAudio")
    loader["audio"] = "half.wav"
    frames, rate, heard = saved_video(server, server.run(prompt))
    own = np.stack(list(iter_frames(PACK / "assets/driving.mp4", None))).astype(int)
    assert rate == 25 and len(frames) == len(own) and heard == pytest.approx(len(own) / 25, abs=0.1)
    made = np.stack(frames).astype(int)
    tracker = FaceTracker.load()
    opening = [
        mouth_opening(np.stack([face.landmarks for face in tracker.track_video(video.astype(np.uint8))]))
        for video in (own, made)
    ]
    # Half a second of sound, then the mouth rests, whatever the video did; where it stood widest a little shows.
    assert opening[1][25:].std() < 0.7 * opening[0][25:].std() and opening[1][25:].max() < 0.6 * opening[0][25:].max()
    height = own.shape[1]
    assert np.abs(made - own)[:, : height * 2 // 5].mean() < 2, "eyes and hair are the video's, but for its encoding"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"face_index": 4}, "There is no face number 4: 1 face was found"),
        ({"audio": ["4", 1]}, "There is no audio"),
    ],
)
def test_unusable_dubs_are_explained(server, inputs, message):
    prompt = workflow(server, "Dub a Video")
    [node] = nodes_of(prompt, "FD2TalkDubVideo")
    [video] = nodes_of(prompt, "LoadVideo")
    if "audio" in inputs:
        video["file"] = "silent.mp4"
    node |= inputs
    with pytest.raises(ExecutionFailed, match=message):
        server.run(prompt)
