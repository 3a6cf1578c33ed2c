"""The motion editor in the real page, by mouse and keyboard; needs chromium and playwright beside ComfyUI."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from comfy_page import MODES, ComfyPage, no_page

from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion import edit, keyframes
from fd2talk_core.motion.clip import MotionClip

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(no_page()), reason=no_page() or "all is there")]

FRAMES, FPS = 68, 25.0
TRACKS = '{"smile_left": [[0.2, 0], [0.8, 0.7]], "yaw": [[0, 0], [1.6, 12]]}'
ON_NODE = "app.graph.nodes.find(node => node.type === 'FD2TalkEditMotion')"


@pytest.fixture(scope="module")
def clip(server) -> MotionClip:
    face_model, times = FaceModel.load(), np.arange(FRAMES) / FPS
    clip = MotionClip(torch.zeros(FRAMES, 64), torch.zeros(FRAMES, 6), FPS, face_model.hash)
    clip = edit.apply_controls(clip, face_model, {"jaw_open": 0.4 + 0.4 * np.sin(9 * times)})
    clip.save(server.base / "input/editable.safetensors")
    return clip


class EditorPage(ComfyPage):
    """A ComfyUI page with a workflow around one Edit Motion node."""

    def load_motion(self, **inputs) -> None:
        """A new workflow; inputs: of Edit Motion."""
        prompt = {
            "1": {"class_type": "FD2TalkLoadMotion", "inputs": {"file": "editable.safetensors"}},
            "2": {"class_type": "LoadAudio", "inputs": {"audio": "voice.wav"}},
            "3": {"class_type": "FD2TalkEditMotion", "inputs": {"motion": ["1", 0], "audio": ["2", 0], **inputs}},
            "4": {
                "class_type": "FD2TalkSaveMotion",
                "inputs": {"motion": ["3", 0], "filename_prefix": "motion/edited", "format": "safetensors"},
            },
        }
        self.page.evaluate("document.querySelector('dialog')?.close()")  # one that a failed test left
        self.load(prompt)
        self.page.wait_for_function(f"{ON_NODE}?.widgets.length > 40")
        self.page.evaluate("app.canvas.fitViewToSelectionAnimated?.()")

    def open(self):
        self.page.get_by_role("button", name="Open motion editor").first.click()
        self.page.locator("dialog[open]").wait_for()
        # The face model has arrived when names other than the first ones can be added.
        self.page.wait_for_function("document.querySelectorAll('.fd2e optgroup[label=Face] option').length > 20")

    def close_editor(self) -> None:
        self.page.locator("dialog").get_by_role("button", name="Close", exact=True).click()

    def widget(self, name: str):
        return self.page.evaluate(f"name => {ON_NODE}.widgets.find(widget => widget.name === name).value", name)

    def tracks(self) -> dict:
        return json.loads(self.widget("keyframes") or "{}")

    def words(self) -> str:
        return self.page.locator(".fd2e-words").inner_text()

    def face(self) -> str:
        return self.page.evaluate("document.querySelector('.fd2e-face').toDataURL()")

    def show_run(self, button: str = "Run") -> None:
        """Press Run or Update in the editor, and wait until it shows the result and nothing runs any more."""
        self.page.locator("dialog").get_by_role("button", name=button, exact=True).click()
        self.page.wait_for_function("document.querySelector('.fd2e-legend').children.length === 3")
        self.page.wait_for_function("!document.querySelector('.fd2e-words').textContent.startsWith('Running')")

    def run(self) -> MotionClip:
        """Run a workflow that has not run before, and read the motion that was saved."""
        before = set(self.server.base.glob("output/motion/edited_*"))
        self.show_run()
        for _ in range(100):
            if new := set(self.server.base.glob("output/motion/edited_*.safetensors")) - before:
                self.page.wait_for_timeout(300)  # the page draws the new curves
                return MotionClip.load(new.pop())
            self.page.wait_for_timeout(100)
        raise AssertionError(f"nothing was saved; the editor says: {self.words()}")


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def comfy(request, server, clip, browser):
    page = EditorPage(server, browser, request.param)
    yield page
    page.close()


def test_a_keyframe_is_dragged_undone_run_and_seen_in_the_motion(comfy, clip):
    comfy.load_motion(keyframes=TRACKS, brow_raise_left=0.2 + 0.1 * comfy.vue)
    page = comfy.page
    comfy.open()
    assert comfy.words().startswith("Nothing has run yet.")
    lanes = page.locator(".fd2e-surface canvas")
    box = lanes.bounding_box()
    x, y = box["x"] + 0.5 * box["width"], box["y"] + 60  # in the first lane: smile left
    page.mouse.dblclick(x, y)
    added = comfy.tracks()["smile_left"][2]
    assert added[0] == pytest.approx(5, abs=0.1) and added[1] != 0

    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y - 15, steps=4)
    assert comfy.tracks()["smile_left"][2] == added, "a drag counts when it ends"
    page.mouse.move(x - 0.4 * box["width"], y - 30, steps=4)
    page.mouse.up()
    moved = comfy.tracks()["smile_left"]
    assert len(moved) == 3 and moved[2] != added
    [key] = [key for key in moved if key not in ([0.2, 0], [0.8, 0.7])]
    assert key[0] == pytest.approx(1.0, abs=0.15) and key[1] > added[1] + 0.3

    page.keyboard.press("Control+z")
    assert comfy.tracks()["smile_left"][2] == added
    page.keyboard.press("Control+y")
    assert comfy.tracks()["smile_left"] == moved

    result, face_model = comfy.run(), FaceModel.load()
    expected = edit.apply_controls(clip, face_model, {"brow_raise_left": 0.2 + 0.1 * comfy.vue})
    expected = keyframes.apply_keyframes(expected, face_model, keyframes.parse_keyframes(comfy.widget("keyframes")))
    assert torch.allclose(result.expression, expected.expression, atol=1e-5)
    assert torch.allclose(result.pose, expected.pose, atol=1e-5)
    assert not torch.allclose(result.expression, clip.expression, atol=0.05)
    assert page.locator(".fd2e-clock").inner_text().endswith("/ 2.72 s") and comfy.words() == ""

    # Nothing of this reached the page's own undo, which would have taken the node away or the text back.
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog')")
    assert comfy.tracks()["smile_left"] == moved and page.evaluate("app.graph.nodes.length") == 4


def test_keys_play_move_and_delete(comfy):
    comfy.load_motion(keyframes=TRACKS, brow_furrow=0.1)
    page = comfy.page
    comfy.open()
    saved = set(comfy.server.base.glob("output/motion/*"))
    comfy.show_run("Update")  # by the second page, ComfyUI finds that there is nothing to do
    assert set(comfy.server.base.glob("output/motion/*")) == saved, "more has run than this node"
    resting = comfy.face()
    page.keyboard.press("Space")
    page.wait_for_function("parseFloat(document.querySelector('.fd2e-clock').textContent) > 0.4")
    assert page.locator("dialog").get_by_role("button", name="Pause").is_visible()
    page.keyboard.press("Space")
    stopped = page.locator(".fd2e-clock").inner_text()
    assert comfy.face() != resting, "the face does not move"
    page.wait_for_timeout(400)
    assert page.locator(".fd2e-clock").inner_text() == stopped

    page.keyboard.press("Home")
    page.keyboard.press(".")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    assert comfy.tracks()["smile_left"][0] == [0.24, 0.11]
    for kind in ("smooth", "linear", "hold"):
        page.keyboard.press("i")
        assert comfy.tracks()["smile_left"][0] == [0.24, 0.11, kind]
    page.get_by_label("After this key").select_option("")
    assert comfy.tracks()["smile_left"][0] == [0.24, 0.11]
    page.locator(".fd2e-surface").focus()
    page.keyboard.press("Delete")
    page.keyboard.press("PageDown")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    tracks = comfy.tracks()
    assert tracks["smile_left"] == [[0.8, 0.7]] and tracks["yaw"] == [[0.04, 0], [1.6, 12]]
    page.get_by_label("Time (s)").fill("0.52")
    page.get_by_label("Value").fill("-7.25")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert comfy.tracks()["yaw"] == [[0.52, -7.25], [1.6, 12]]
    comfy.close_editor()


def test_gains_modes_and_tracks_are_the_nodes_own(comfy):
    comfy.load_motion(keyframes="", eyelids_gain=0.8 + 0.1 * comfy.vue)
    page = comfy.page
    comfy.open()
    page.get_by_role("button", name="Mute mouth").click()
    page.get_by_label("Keyframes", exact=True).select_option("replace")
    page.get_by_label("Between keys").select_option("hold")
    page.get_by_label("Add a track").select_option("mouth_funnel")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    names, lids = ("mouth_gain", "eyelids_gain", "keyframe_mode", "interpolation"), comfy.widget("eyelids_gain")
    assert [comfy.widget(name) for name in names] == [0, lids, "replace", "hold"] and lids < 1
    assert comfy.tracks() == {"mouth_funnel": [[0, 0.01]]}
    result = comfy.run()
    mouth = FaceModel.load().slices["mouth"]
    assert result.expression[:, mouth].std(0).max() < 1e-6, "the mouth is muted, but moves"
    page.get_by_role("button", name="Mute mouth").click()
    assert comfy.widget("mouth_gain") == 1
    for _ in range(9):
        page.keyboard.press("Control+z")
    assert [comfy.widget(name) for name in names] == [1, lids, "add", "smooth"] and comfy.widget("keyframes") == ""
    comfy.close_editor()


def test_the_strip_leaves_saved_workflows_and_prompts_as_they_were(comfy):
    comfy.load_motion(keyframes=TRACKS, mouth_gain=0.5, interpolation="hold")
    page = comfy.page
    saved = page.evaluate("app.graph.serialize()")
    [node] = [node for node in saved["nodes"] if node["type"] == "FD2TalkEditMotion"]
    assert None not in node["widgets_values"] and node["widgets_values"][-1] == "hold"
    prompt = page.evaluate("app.graphToPrompt()")["output"]
    [inputs] = [node["inputs"] for node in prompt.values() if node["class_type"] == "FD2TalkEditMotion"]
    assert "motion_editor" not in inputs and inputs["keyframes"] == TRACKS
    page.evaluate("saved => app.loadGraphData(saved)", saved)
    page.wait_for_function(f"{ON_NODE}?.widgets.length > 40")
    again = page.evaluate("app.graphToPrompt()")["output"]
    [same] = [node["inputs"] for node in again.values() if node["class_type"] == "FD2TalkEditMotion"]
    assert same == inputs


def test_a_text_that_is_no_keyframes_is_explained_and_kept(comfy):
    comfy.load_motion(keyframes='{"yaw": [[0, 1]')
    comfy.open()
    assert comfy.words().startswith("The keyframes are not JSON")
    comfy.close_editor()
    assert comfy.widget("keyframes") == '{"yaw": [[0, 1]'
