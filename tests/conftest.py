"""The repository root is a ComfyUI pack, so it has an __init__.py; pytest must not import it as a test package."""

from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[1]


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


@pytest.fixture
def short_voice(tmp_path: Path) -> Path:
    """Six tenths of a second of the demo voice."""
    samples, rate = soundfile.read(ROOT / "assets" / "voice.wav", dtype="float32")
    soundfile.write(tmp_path / "short_voice.wav", samples[: int(0.6 * rate)], rate)
    return tmp_path / "short_voice.wav"
