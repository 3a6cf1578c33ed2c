"""The archive that the registry publishes and ComfyUI Manager installs: tracked files without those of .comfyignore."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from describe_nodes import PACK, SNAPSHOT, load
from PIL import Image

import fd2talk_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

WEIGHTS = ("autoencoder", "face_model", "frames", "lip_expert", "motion", "tracker")
PROJECT = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
RAW = "https://raw.githubusercontent.com/fd2talk/fd2talk/main/"


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", "-c", "core.quotepath=off", *arguments], cwd=PACK, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return [name for name in done.stdout.split("\0") if name]


def archive_files() -> list[str]:
    """Names of the published files, as comfy-cli and publish-node-action choose them."""
    left_out = set(git("ls-files", "-z", "-ci", "--exclude-from=.comfyignore"))
    return [name for name in git("ls-files", "-z") if name not in left_out and (PACK / name).is_file()]


def pack_archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in archive_files():
            archive.write(PACK / name, name)
    return path


def example_files() -> tuple[str, ...]:
    """What nodes/examples.py copies out of assets/ for the templates."""
    spec = spec_from_file_location("examples", PACK / "nodes/examples.py")
    spec.loader.exec_module(examples := module_from_spec(spec))
    return examples.EXAMPLES


@pytest.fixture(scope="module")
def files() -> list[str]:
    return archive_files()


def test_everything_a_user_needs_is_in_it(files):
    needed = {"__init__.py", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "requirements.txt"}
    needed |= {f"fd2talk_core/weights/{part}.safetensors" for part in WEIGHTS}
    needed |= {"fd2talk_core/weights/README.md", "locales/en/nodeDefs.json", "locales/zh/nodeDefs.json"}
    needed |= {f"web/docs/{node}.md" for node in load(SNAPSHOT)}
    needed |= {f"assets/{name}" for name in example_files()}
    of_kind = {"nodes": "py", "fd2talk_core": "py", "web": "js", "workflows": "json", "subgraphs": "json"}
    for folder, suffix in of_kind.items():
        tracked = [name for name in git("ls-files", "-z", folder) if name.endswith(suffix)]
        assert tracked
        needed |= set(tracked)
    needed |= {name.removesuffix("json") + "jpg" for name in needed if name.startswith("workflows/")}
    assert needed <= set(files), sorted(needed - set(files))


def test_nothing_else_is_in_it(files):
    folders = {name.split("/")[0] for name in files if "/" in name}
    assert folders <= {"assets", "docs", "fd2talk_core", "locales", "nodes", "subgraphs", "web", "workflows"}
    for name in files:
        size = (PACK / name).stat().st_size
        if not name.startswith("fd2talk_core/weights/"):
            assert size <= 300_000, f"{name} has {size} bytes"
            assert not re.search(r"\.(safetensors|pt|pth|ckpt|onnx|bin|npz|npy|task|csv|zip)$", name), name


def test_its_size_is_what_the_readme_says(files, tmp_path):
    megabytes = pack_archive(tmp_path / "node.zip").stat().st_size / 1e6
    [stated] = re.findall(r"download of about (\d+) MB", (PACK / "README.md").read_text(encoding="utf-8"))
    assert abs(megabytes - int(stated)) < 2, f"the archive has {megabytes:.1f} MB"
    weights = sum((PACK / name).stat().st_size for name in files if name.endswith(".safetensors"))
    assert weights <= 32e6


def test_it_runs_nothing_that_the_registry_forbids(files):
    for name in (name for name in files if name.endswith(".py")):
        for node in ast.walk(ast.parse((PACK / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                direct = isinstance(node.func, ast.Name)
                assert not (direct and called in ("eval", "exec", "compile", "__import__")), f"{name}:{node.lineno}"
                assert called not in ("system", "popen"), f"{name}:{node.lineno}"
            if isinstance(node, ast.Import):
                assert not {"pickle", "pip"} & {alias.name for alias in node.names}, f"{name}:{node.lineno}"


def test_requirements_are_few_and_leave_comfyuis_own_alone():
    listed = (PACK / "requirements.txt").read_text(encoding="utf-8").split("\n")
    listed = [line for line in listed if line and not line.startswith("#")]
    assert sorted(listed) == sorted(PROJECT["project"]["dependencies"])
    assert not [line for line in listed if re.search(r"<|==|~=", line)], "upper bounds would change what is installed"
    assert {re.split(r"[><=\[ ]", line)[0] for line in listed} == {"diffusers", "imageio", "librosa"}


def test_metadata_is_what_the_registry_asks_for():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert project["name"] == "fd2talk"  # the pack's id for ever
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and project["version"] == fd2talk_core.__version__
    assert project["license"] == {"file": "LICENSE"} and project["description"] and project["requires-python"]
    assert project["urls"]["Repository"].startswith("https://github.com/")
    assert comfy["PublisherId"] and comfy["DisplayName"] == "FD2Talk"
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    for field, check in (("Icon", lambda w, h: w == h <= 400), ("Banner", lambda w, h: w * 9 == h * 21)):
        with Image.open(PACK / comfy[field].removeprefix(RAW)) as picture:
            assert check(*picture.size), f"{field} has {picture.size}"


def test_the_changelog_describes_this_version():
    changelog = (PACK / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(fd2talk_core.__version__)}\b", changelog, re.MULTILINE)
