"""Fixtures that several test modules share."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from comfy_page import chromium
from comfy_server import ComfyServer, fill

from fd2talk_core.audio.loading import load_mono_16k
from fd2talk_core.motion.model import MotionModel

ROOT = Path(__file__).parents[1]


@pytest.fixture
def short_voice(tmp_path: Path) -> Path:
    """Six tenths of a second of the demo voice."""
    samples, rate = soundfile.read(ROOT / "assets" / "voice.wav", dtype="float32")
    soundfile.write(tmp_path / "short_voice.wav", samples[: int(0.6 * rate)], rate)
    return tmp_path / "short_voice.wav"


@pytest.fixture(scope="session")
def shipped() -> MotionModel:
    """Stage 1 with the weights of the pack; tests must leave it as it is."""
    return MotionModel.load()


@pytest.fixture(scope="session")
def voice() -> np.ndarray:
    """The demo voice at 16 kHz."""
    return load_mono_16k(ROOT / "assets" / "voice.wav")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real ComfyUI server for the whole test run."""
    server = ComfyServer(tmp_path_factory.mktemp("comfyui"))
    try:
        fill(server)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def browser():
    """A headless browser. Not for the whole run: playwright's event loop would be in the way of other tests."""
    with chromium() as browser:
        yield browser
