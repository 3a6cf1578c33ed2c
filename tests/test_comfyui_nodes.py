"""The nodes as ComfyUI sees them, against what is written down: tests/object_info.json and locales/.

Renew those on purpose with: python tools/describe_nodes.py --write
"""

from __future__ import annotations

import subprocess
import sys
import zipfile

import describe_nodes
import pytest
from comfy_server import COMFYUI_PYTHON, PACK, missing
from describe_nodes import inputs_of, load, read_nodes, snapshot_of, texts_of
from test_archive import WEIGHTS, pack_archive

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]

RENEW = "run: python tools/describe_nodes.py --write"
FILES = {("FD2TalkLoadModels", "checkpoint"), ("FD2TalkLoadMotion", "file")}  # choices that are files on this machine


@pytest.fixture(scope="module")
def ours(server) -> dict[str, dict]:
    """/object_info of our nodes, without the choices that are files of this server."""
    info = {key: node for key, node in server.get_json("/object_info").items() if key.startswith("FD2Talk")}
    for node, name in FILES:
        options = inputs_of(info[node])[name][1]
        options["options"] = options["options"][:1]
    return info


def test_no_node_changed_by_accident(ours):
    now, then = snapshot_of(ours), load(describe_nodes.SNAPSHOT)
    then["FD2TalkLoadMotion"]["inputs"][0]["options"] = now["FD2TalkLoadMotion"]["inputs"][0]["options"]
    assert list(now) == list(then), RENEW
    for node in now:
        assert now[node] == then[node], f"{node} is not as tests/object_info.json says; {RENEW}"


def test_every_text_is_the_one_in_the_locales(ours):
    texts, written = texts_of(ours), load(describe_nodes.ENGLISH)
    for node in texts:
        assert texts[node] == written.get(node), f"{node}: {RENEW}"


def test_comfyui_serves_the_translations(server):
    served = server.get_json("/i18n")
    for language in ("en", "zh"):
        assert served[language]["nodeDefs"] == load(PACK / f"locales/{language}/nodeDefs.json")


def test_the_tool_reads_the_same_and_finds_nothing_to_do(ours):
    assert texts_of(read_nodes()) == texts_of(ours)
    done = subprocess.run(
        [sys.executable, PACK / "tools/describe_nodes.py"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_published_archive_works_as_it_is(tmp_path):
    """Unpacked like the Manager does, under another name: the same nodes, and every shipped network loads."""
    pack = tmp_path / "custom_nodes/fd2talk-0"
    with zipfile.ZipFile(pack_archive(tmp_path / "node.zip")) as archive:
        archive.extractall(pack)
    assert snapshot_of(read_nodes(pack)) == load(describe_nodes.SNAPSHOT)
    code = f"from fd2talk_core.checkpoint import default_weights as d; print(*map(d, {WEIGHTS}))"
    loading = (
        "from fd2talk_core.face.tracker import FaceTracker; from fd2talk_core.frames.model import FrameModel; "
        "from fd2talk_core.motion.model import MotionModel; "
        "FaceTracker.load(); FrameModel.load(); MotionModel.load(); "
    )
    done = subprocess.run([COMFYUI_PYTHON, "-c", loading + code], cwd=pack, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(str(pack) in path for path in done.stdout.split())
