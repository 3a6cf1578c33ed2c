"""Pictures of the example workflows, run and photographed in a real ComfyUI page.

    python tools/make_workflow_pictures.py ["Talking Portrait" ...]    # run these (default: all) and write their .jpg
    python tools/make_workflow_pictures.py --check                     # only say which nodes overlap

Needs chromium and playwright, and ComfyUI as the tests do. The input files are the examples of the pack.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

PACK = Path(__file__).parents[1]
sys.path.insert(0, str(PACK / "tests"))
from comfy_page import READY, chromium  # noqa: E402
from comfy_server import ComfyServer  # noqa: E402

QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Minimap.Visible": False,
}
SCALE, MARGIN, WIDTH = 0.8, 24, 1400  # of the graph on the screen, around it, of the picture in pixels
SHOWN_SECOND = 1.0  # of every video: somebody speaks
LEAST_TIME = 6.0  # seconds that the page needs to show the results of a run

# Title bars stand above a node's position; hidden widgets and collapsed nodes are part of getBounding.
BOXES = "app.graph.nodes.map(n => [n.title, Array.from(n.getBounding())])"
PLACE = """([scale, x, y]) => { app.canvas.ds.scale = scale; app.canvas.ds.offset = [x, y];
    app.canvas.deselectAll?.(); app.canvas.setDirty(true, true); }"""
VIDEOS = """second => Promise.all([...document.querySelectorAll('video')].map(video => new Promise(done => {
    video.pause(); video.onseeked = done; setTimeout(done, 5000);
    video.currentTime = Math.min(second, (video.duration || 0) / 2); })))"""


def opened(browser, server: ComfyServer) -> Page:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(server.url)
    page.wait_for_function(READY)
    page.evaluate("app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    return page


def show(page: Page, path: Path) -> list[tuple[str, list[float]]]:
    """Load a workflow and return its nodes' titles and boxes (x, y, width, height)."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    time.sleep(2)  # widgets of the front-end extensions change sizes
    return page.evaluate(BOXES)


def overlaps(boxes: list[tuple[str, list[float]]]) -> list[str]:
    found = []
    for (one, a), (other, b) in combinations(boxes, 2):
        if a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]:
            found.append(f"{one} ({a[0]:.0f}, {a[1]:.0f}, {a[2]:.0f} x {a[3]:.0f}) overlaps {other} at {b[1]:.0f}")
    return found


def run(page: Page, server: ComfyServer) -> None:
    before = set(server.get_json("/history"))
    page.evaluate("app.queuePrompt(0)")
    while not (done := set(server.get_json("/history")) - before):
        time.sleep(1)
    entry = server.get_json("/history")[done.pop()]
    if entry["status"]["status_str"] != "success":
        raise SystemExit(f"the workflow failed: {entry['status']['messages'][-1]}")
    time.sleep(LEAST_TIME)
    page.evaluate(VIDEOS, SHOWN_SECOND)


def photograph(page: Page) -> Image.Image:
    boxes = [box for _, box in page.evaluate(BOXES)]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    size = [round(length * SCALE) + 2 * MARGIN for length in (right - left, bottom - top + 20)]
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.evaluate(PLACE, [SCALE, MARGIN / SCALE - left, MARGIN / SCALE - top + 20])
    time.sleep(2)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.LANCZOS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of workflows; default: all")
    parser.add_argument("--check", action="store_true", help="look for overlapping nodes only")
    parser.add_argument("--to", type=Path, default=PACK / "workflows", help="folder of the pictures")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        server = ComfyServer(Path(folder) / "comfy")
        try:
            server.post("/settings", QUIET)
            page = opened(browser, server)
            for path in sorted((PACK / "workflows").glob("*.json")):
                if arguments.names and path.stem not in arguments.names:
                    continue
                found += [f"{path.stem}: {sentence}" for sentence in overlaps(show(page, path))]
                if not arguments.check:
                    run(page, server)
                    found += [f"{path.stem}, after a run: {text}" for text in overlaps(page.evaluate(BOXES))]
                    photograph(page).save(arguments.to / f"{path.stem}.jpg", quality=85, optimize=True)
        finally:
            server.stop()
    print("\n".join(found) or "no nodes overlap")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
