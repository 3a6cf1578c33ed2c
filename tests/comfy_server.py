"""A real ComfyUI server for the integration tests, with a folder of its own and this pack linked in.

COMFYUI_DIR is a ComfyUI checkout, COMFYUI_PYTHON an interpreter with ComfyUI's and this pack's requirements.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import wave
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from fd2talk_core.checkpoint import default_weights

PACK = Path(__file__).parents[1]
COMFYUI_DIR = Path(os.environ.get("COMFYUI_DIR") or Path.home() / "comfy/ComfyUI")
COMFYUI_PYTHON = Path(os.environ.get("COMFYUI_PYTHON") or Path.home() / "comfy/venv/bin/python")
FRONTEND_ONLY = ("MarkdownNote", "Note")
LINKED = "fd2talk"
VOICE_SECONDS = 2.7  # not a whole number of frames


def missing() -> str:
    """Why there is no ComfyUI to test with, "" when there is one."""
    if not (COMFYUI_DIR / "main.py").is_file():
        return f"no ComfyUI checkout in {COMFYUI_DIR} (set COMFYUI_DIR)"
    if not COMFYUI_PYTHON.is_file():
        return f"no interpreter {COMFYUI_PYTHON} (set COMFYUI_PYTHON)"
    return ""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}


class ExecutionFailed(Exception):
    """A prompt that ended in an error; the text is what the page shows to the user."""


class ComfyServer:
    """Starts on construction, answers until `stop`. options: more of the command line's."""

    def __init__(self, base: Path, *options: str | Path):
        for name in ("custom_nodes", "input", "output", "models/fd2talk", "user"):
            (base / name).mkdir(parents=True)
        (base / "custom_nodes" / LINKED).symlink_to(PACK)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.base, self.url = base, f"http://127.0.0.1:{port}"
        self.log_file = base / "server.log"
        command = [
            COMFYUI_PYTHON, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
            "--base-directory", base, "--database-url", f"sqlite:///{base}/comfy.db",
            "--disable-auto-launch", "--disable-api-nodes", *options,
        ]  # fmt: skip
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=COMFYUI_DIR, env=environment(), stdout=log, stderr=log
            )
        self._wait_until_up(300)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def _wait_until_up(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting:\n{self.log[-3000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:  # refused, reset, or a busy machine's time-out
                time.sleep(0.3)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start within {seconds:g} s:\n{self.log[-3000:]}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def get_json(self, path: str):
        return json.loads(self.get(path))

    def post(self, path: str, data: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else {}

    def queue(self, prompt: dict) -> str:
        """Queue a prompt in API format and return its id; a refused one raises with the server's reasons."""
        try:
            return self.post("/prompt", {"prompt": prompt})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise ExecutionFailed(f"refused: {error.read().decode()}") from error

    def wait(self, prompt_id: str, seconds: float = 600) -> dict:
        """The finished prompt's history entry, whatever its outcome."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if prompt_id in (history := self.get_json(f"/history/{prompt_id}")):
                return history[prompt_id]
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI died:\n{self.log[-3000:]}")
            time.sleep(0.2)
        raise RuntimeError(f"prompt not finished after {seconds:g} s:\n{self.log[-3000:]}")

    def run(self, prompt: dict, seconds: float = 600) -> dict[str, dict]:
        """Run a prompt to its end and return each node's shown results; raises ExecutionFailed with the message."""
        entry = self.wait(self.queue(prompt), seconds)
        for kind, message in entry["status"]["messages"]:
            if kind == "execution_error":
                raise ExecutionFailed(message["exception_message"].strip())
            if kind == "execution_interrupted":
                raise ExecutionFailed("interrupted")
        return entry["outputs"]

    def download(self, result: dict) -> bytes:
        """The file behind one entry of a node's shown results."""
        return self.get("/view?" + urllib.parse.urlencode(result))


def api_prompt(workflow: dict, object_info: dict) -> dict:
    """Turn a workflow as the page saves it into the API format, as the page does when Run is pressed."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in FRONTEND_ONLY:
            continue
        described = object_info[node["type"]]["input"]
        options = {**described.get("required", {}), **described.get("optional", {})}
        inputs, values = {}, list(node.get("widgets_values", []))
        for slot in node["inputs"]:
            name = slot["name"]
            if "widget" in slot and values:
                value = values.pop(0)
                if len(options.get(name, ())) > 1 and options[name][1].get("control_after_generate"):
                    values.pop(0)
                if name in options or name.split(".")[0] in options:
                    inputs[name] = value
            if slot.get("link") is not None:
                inputs[name] = sources[slot["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def write_voice(path: Path, seconds: float) -> None:
    """The beginning of the demo voice."""
    with wave.open(str(PACK / "assets/voice.wav")) as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(round(seconds * source.getframerate())))


def write_silent_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def fill(server: ComfyServer) -> None:
    """Put pictures, sounds, videos and checkpoints, usable and not, where the tests look for them."""
    folder = server.base / "input"
    portrait = Image.open(PACK / "assets/portrait.png").convert("RGB")
    portrait.save(folder / "portrait.png")
    portrait.convert("RGBA").save(folder / "rgba.png")
    Image.fromarray(np.asarray(portrait.convert("L")).astype(np.uint16) * 257).save(folder / "grey16.png")
    two = Image.new("RGB", (768, 512), (120, 120, 120))
    two.paste(portrait, (0, 0))
    two.paste(portrait.resize((240, 240)), (520, 100))
    two.save(folder / "two.png")
    portrait.resize((96, 96)).save(folder / "tiny.png")
    Image.fromarray(np.full((300, 300, 3), 90, np.uint8)).save(folder / "no_face.png")
    write_voice(folder / "voice.wav", VOICE_SECONDS)
    shutil.copy(folder / "voice.wav", folder / "fd2talk_voice.wav")  # what the templates name, but shorter
    write_voice(folder / "half.wav", 0.5)
    write_voice(folder / "short.wav", 0.1)
    write_silent_video(folder / "silent.mp4")
    portrait_stylised = Image.open(PACK / "assets/portrait_stylised.png").convert("RGB")
    portrait_stylised.save(folder / "portrait_stylised.png")
    shutil.copy(PACK / "assets/driving.mp4", folder)
    models = server.base / "models/fd2talk"
    (models / "damaged.safetensors").write_bytes(b"not safetensors")
    (models / "README.txt").write_text("not offered in the list")
    save_file({"x": torch.zeros(1)}, models / "foreign.safetensors")
    shutil.copy(default_weights("face_model"), models / "other_part.safetensors")
    shutil.copy(default_weights("motion"), models / "own_motion.safetensors")


LOAD_PACK = """
import asyncio, json, sys, time
sys.argv = ["main.py", "--cpu", "--disable-api-nodes"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server, execution
asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
# The processor's time: what else the machine does is not the pack's fault.
before, start = set(sys.modules), time.process_time()
assert asyncio.run(nodes.load_custom_node({pack!r}))
seconds = time.process_time() - start
result = dict(seconds=seconds, modules=sorted(set(name.split(".")[0] for name in set(sys.modules) - before)))
"""


def in_comfyui(code: str, **values: str) -> dict:
    """Run code in ComfyUI's interpreter with the pack loaded, and return its `result`."""
    code = (LOAD_PACK + code).format(pack=str(PACK), **values) + "\nprint('RESULT', json.dumps(result))\n"
    done = subprocess.run(
        [COMFYUI_PYTHON, "-c", code], cwd=COMFYUI_DIR, env=environment(), capture_output=True, text=True, timeout=300
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert results, done.stderr[-3000:]
    return json.loads(results[0].removeprefix("RESULT "))
