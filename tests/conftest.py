"""The repository root is a ComfyUI pack, so it has an __init__.py; pytest must not import it as a test package."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None
