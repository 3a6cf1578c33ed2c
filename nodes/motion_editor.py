"""The server's side of the motion editor: files of a run, and the face model; the page's side is web/motion_editor/."""

from __future__ import annotations

import hashlib
import json
import os
import uuid

import folder_paths
from aiohttp import web

from .common import audio_samples


def shown_in_editor(
    stages, face_model, gains, rotation: float, translation: float, audio, settings: dict
) -> dict[str, list[str]]:
    """Write a run's motion and sound into ComfyUI's temp folder; returns their names there for the page.

    settings: the values of widgets that shaped the motion, with which the page tells whether it is out of date.
    """
    from ..fd2talk_core.motion.editor import sound_peaks, write_editor_motion, write_sound

    folder, name = folder_paths.get_temp_directory(), f"fd2talk_{uuid.uuid4().hex}"
    files, peaks = {"motion": f"{name}.safetensors", "sound": None, "settings": settings}, None
    # A video without sound gives no AUDIO; the editor then plays without.
    if audio and audio.get("waveform") is not None:
        samples, rate = audio_samples(audio)
        peaks = sound_peaks(samples, rate)
        # By content: the sound stays the same from run to run while the motion is edited.
        digest = hashlib.sha256(samples.tobytes() + str(rate).encode()).hexdigest()
        files["sound"] = f"fd2talk_{digest[:32]}.flac"
        if not os.path.exists(sound := os.path.join(folder, files["sound"])):
            write_sound(sound, samples, rate)
    path = os.path.join(folder, files["motion"])
    write_editor_motion(path, stages, face_model, gains, rotation, translation, peaks)
    # As text: the page takes anything that has a file name for a picture, and lists it.
    return {"fd2talk_editor": [json.dumps(files)]}


async def editor_face(request: web.Request) -> web.Response:
    """The face model, which the editor shows before anything has run."""
    from ..fd2talk_core.errors import UserError
    from ..fd2talk_core.face.model import FaceModel
    from ..fd2talk_core.motion.editor import face_for_editor

    try:
        return web.Response(body=face_for_editor(FaceModel.load()), content_type="application/octet-stream")
    except UserError as error:
        return web.Response(status=500, text=str(error))


def with_editors_as_outputs(request: dict) -> dict:
    """Let a partial run end at an Edit Motion, which its editor's Update asks for.

    ComfyUI runs output nodes and what they need. Edit Motion is none, or one that lies unconnected on the canvas would
    be an error of every run. request: what the page posted to /prompt; changed only where it names such a node.
    """
    prompt, targets = request.get("prompt"), request.get("partial_execution_targets") or []
    for index, target in enumerate(targets):
        if prompt.get(target, {}).get("class_type") == "FD2TalkEditMotion":
            targets[index] = f"{target}.end"
            prompt[targets[index]] = {"class_type": "PreviewAny", "inputs": {"source": [target, 0]}}
    return request


def add_routes(server) -> None:
    """server: ComfyUI's PromptServer."""
    server.routes.get("/fd2talk/editor_face")(editor_face)
    server.add_on_prompt_handler(with_editors_as_outputs)
