"""The files that the templates name: in ComfyUI's input folder from the first start on, in nobody's way."""

from __future__ import annotations

import json

import pytest
from comfy_server import PACK, in_comfyui, missing

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "ComfyUI is there")]


def test_what_the_templates_load_can_be_chosen(server):
    info, found = server.get_json("/object_info"), {}
    for path in (PACK / "workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] in ("LoadImage", "LoadAudio", "LoadVideo"):
                kind, *options = next(iter(info[node["type"]]["input"]["required"].values()))
                names = kind if isinstance(kind, list) else options[0]["options"]
                found[f"{path.stem}: {node['title']}"] = node["widgets_values"][0] in names
    assert len(found) > 8 and all(found.values()), found


def test_nothing_is_overwritten_and_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "fd2talk_voice.wav").write_bytes(b"somebody's own")
    result = in_comfyui(
        """
import importlib
pack = nodes.NODE_CLASS_MAPPINGS["FD2TalkTalkingHead"].__module__.rsplit(".", 1)[0]
put_examples = importlib.import_module(pack + ".examples").put_examples
result = [put_examples(folder) for folder in ({folder!r}, {folder!r}, {folder!r} + "/fd2talk_voice.wav")]
""",
        folder=str(tmp_path),
    )
    written, again, nowhere = map(set, result)
    assert written | {"fd2talk_voice.wav"} == {path.name for path in tmp_path.iterdir()} and len(written) > 3
    assert not again and not nowhere and (tmp_path / "fd2talk_voice.wav").read_bytes() == b"somebody's own"
    assert (tmp_path / "fd2talk_portrait.png").read_bytes() == (PACK / "assets/portrait.png").read_bytes()
