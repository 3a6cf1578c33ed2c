"""Example workflows around the ones that other files test: a painting, and a chain of ComfyUI's own image nodes."""

from __future__ import annotations

import numpy as np
import pytest
from comfy_server import VOICE_SECONDS, missing
from test_comfyui_faces import nodes_of, saved_video, workflow

from fd2talk_core.audio.loading import frame_count
from fd2talk_core.face.landmarks import mouth_opening
from fd2talk_core.face.tracker import FaceTracker

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]

FPS = 10.0
CORNER = np.s_[:60, :60]


def quickened(server, name: str) -> dict:
    """A workflow as it is shipped, at a lower frame rate and with fewer steps."""
    prompt = workflow(server, name)
    [generate], [sample] = nodes_of(prompt, "FD2TalkAudioToMotion"), nodes_of(prompt, "FD2TalkSampleFrames")
    generate |= {"fps": FPS, "steps": 3}
    sample |= {"steps": 1}
    return prompt


def mouths(frames: list[np.ndarray]) -> np.ndarray:
    faces = list(FaceTracker.load().track_video(frames))
    assert all(face is not None for face in faces)
    return mouth_opening(np.stack([face.landmarks for face in faces]))


def test_a_painting_speaks_and_stays_a_painting(server):
    frames, rate, heard = saved_video(server, server.run(quickened(server, "Stylised Portrait")))
    assert (len(frames), rate) == (frame_count(VOICE_SECONDS, FPS), FPS) and heard >= VOICE_SECONDS - 0.01
    assert np.ptp(mouths(frames)) > 0.04
    ground = np.stack([frame[CORNER] for frame in frames]).astype(float)
    assert np.ptp(ground, axis=0).mean() < 3, "the background moves"


def test_frames_go_through_comfyuis_own_image_nodes(server):
    prompt = quickened(server, "Upscale and Background")
    [trim], [ground] = nodes_of(prompt, "TrimAudioDuration"), nodes_of(prompt, "EmptyImage")
    trim["duration"] = 1
    frames, rate, heard = saved_video(server, server.run(prompt))
    assert (len(frames), rate, frames[0].shape) == (10, FPS, (768, 768, 3)) and heard == pytest.approx(1, abs=0.1)
    colour = [ground["color"] >> shift & 255 for shift in (16, 8, 0)]
    assert np.abs(frames[5][CORNER] - np.array(colour, float)).mean() < 5, "the new background is not there"
    assert np.ptp(mouths(frames)) > 0.02
