"""The subgraph blueprint in the real page: found by its name, dropped on the canvas, wired and run."""

from __future__ import annotations

import io
import time

import av
import pytest
from comfy_page import MODES, ComfyPage, no_page
from comfy_server import LINKED

from fd2talk_core.audio.loading import frame_count

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(no_page()), reason=no_page() or "all is there")]

NAME = "Talking Head (steps)"
SECONDS = 0.5  # of half.wav
BOX = f"app.graph.nodes.find(node => node.title === '{NAME}')"
WIRE = """() => {
    const box = BOX, add = (type, at, values) => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        node.pos = at;
        for (const [name, value] of Object.entries(values)) node.widgets.find(one => one.name === name).value = value;
        return node;
    };
    const input = name => box.inputs.findIndex(slot => slot.name === name);
    add("LoadImage", [-400, 0], { image: "portrait.png" }).connect(0, box, input("image"));
    add("LoadAudio", [-400, 500], { audio: "half.wav" }).connect(0, box, input("audio"));
    box.connect(0, add("SaveVideo", [800, 0], { filename_prefix: "video/blueprint" }), 0);
    box.widgets.find(widget => widget.name === "steps").value = 1;
}""".replace("BOX", BOX)


def test_the_blueprint_is_served(server):
    found = [one for one in server.get_json("/global_subgraphs").values() if one["name"] == NAME]
    assert [one["info"]["node_pack"] for one in found] == [f"custom_nodes.{LINKED}"]


@pytest.fixture(params=MODES.values(), ids=MODES)
def comfy(request, server, browser):
    comfy = ComfyPage(server, browser, request.param)
    yield comfy
    comfy.close()


def test_it_drops_in_as_one_box_and_runs(server, comfy):
    page = comfy.page
    page.evaluate("app.graph.clear()")
    # By its command: whether two clicks are a double click depends on how busy the machine is.
    page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.locator("input:focus").type(NAME)
    page.get_by_text(NAME, exact=True).first.wait_for()
    page.wait_for_timeout(2000)  # the list is filtered a moment after the last letter
    page.keyboard.press("Enter")
    page.wait_for_function(BOX)
    page.mouse.click(700, 400)  # puts it down
    shown = page.evaluate(f"{BOX}.widgets.map(widget => widget.name)")
    assert shown == ["size", "seed", "expression_strength", "pose_strength", "steps"]
    inside = page.evaluate(f"{BOX}.subgraph.nodes.map(node => node.type)")
    assert {"FD2TalkEncodeAppearance", "FD2TalkAudioToMotion", "FD2TalkRenderVideo"} <= set(inside)

    page.evaluate(WIRE)
    comfy.screenshot(f"blueprint {comfy.vue}")
    before, end = set(server.get_json("/history")), time.monotonic() + 300
    page.evaluate("app.extensionManager.command.execute('Comfy.QueuePrompt')")
    while not (done := set(server.get_json("/history")) - before):
        assert time.monotonic() < end, f"the run does not end; the page says: {comfy.complaints()}"
        page.wait_for_timeout(300)
        assert not page.evaluate("app.lastNodeErrors && JSON.stringify(app.lastNodeErrors)")
    entry = server.get_json("/history")[done.pop()]
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    shown = [item for output in entry["outputs"].values() for item in output.get("images", [])]
    [result] = [item for item in shown if item["type"] == "output"]
    assert result["filename"].startswith("blueprint")
    with av.open(io.BytesIO(server.download(result))) as video:
        assert video.streams.audio and sum(1 for _ in video.decode(video=0)) == frame_count(SECONDS, 25)
