"""A browser with a ComfyUI page in it, for the tests that do what a user does: click, look, wait.

Needs playwright and a chromium (any that is on the path; none is downloaded). FD2TALK_ARTEFACTS is the folder of the
screenshots, default tests/artefacts.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from comfy_server import LINKED, ComfyServer, missing

ARTEFACTS = Path(os.environ.get("FD2TALK_ARTEFACTS") or Path(__file__).parent / "artefacts")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
PATIENCE = 120_000  # ms: the machine may be busy
MODES = {"classic canvas": False, "Nodes 2.0": True}  # name of the page's mode: Comfy.VueNodes.Enabled
READY = "window.app && app.extensionManager && app.vueAppReady"
COMPLAINTS = re.compile("^(error-|missing-|runtime-error)")
# The page draws a node's share as a bar from `progress`, in both modes; its own events say when a run has ended.
WATCH = """() => {
    const seen = { progress: {}, outcome: null };
    clearInterval(window.fd2talkTest?.timer);
    seen.timer = setInterval(() => app.graph.nodes.filter(node => node.progress).forEach(node => {
        const shares = (seen.progress[node.type] ??= []);
        if (shares.at(-1) !== node.progress) shares.push(node.progress);
    }), 20);
    for (const type of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(type, () => (seen.outcome ??= { type, at: Date.now() }), { once: true });
    window.fd2talkTest = seen;
}"""


def no_page() -> str:
    """Why there is no ComfyUI page to test with, "" when there is one."""
    if not find_spec("playwright"):
        return "no playwright (pip install playwright)"
    return missing() or ("" if CHROMIUM else "no chromium on the path")


@contextmanager
def chromium():
    """A headless browser, as playwright drives it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class ComfyPage:
    """A ComfyUI page. Settings are the server's, so they hold for pages that are opened later, too.

    vue: Nodes 2.0 instead of the classic canvas.
    """

    def __init__(self, server: ComfyServer, browser, vue: bool):
        server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue})
        self.server, self.vue, self.errors, self.loaded = server, vue, [], 0
        self.page = browser.new_page(viewport={"width": 1500, "height": 950})
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        self.page.goto(server.url)
        self.page.wait_for_function(READY)
        self.page.wait_for_function("app.extensions.some(extension => extension.name === 'fd2talk.motionEditor')")

    def load(self, prompt: dict) -> None:
        """Show a workflow that is given in the API format; inputs that it leaves out have their defaults."""
        # ComfyUI gives a workflow of a name that it has seen the outputs that it remembers by that name.
        self.loaded += 1
        self.page.evaluate("([prompt, name]) => app.loadApiJson(prompt, name)", [prompt, f"test {self.loaded}"])
        self.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(prompt))

    def open_template(self, name: str) -> None:
        """Choose one of this pack's templates in the page's browser of templates."""
        browser = self.page.get_by_test_id("template-workflows-content")
        self.page.get_by_role("button", name="Templates", exact=True).click()
        self.page.get_by_role("button", name=LINKED, exact=True).click()
        browser.get_by_test_id(f"template-workflow-{name}").click()
        browser.wait_for(state="hidden")
        self.page.wait_for_function("name => document.title.includes(name)", arg=name)

    def press_run(self) -> None:
        """Press the page's own button, and from now on note how far the nodes are said to be (see `progress`)."""
        self.page.evaluate(WATCH)
        self.page.get_by_test_id("queue-button").click()

    def progress(self) -> dict[str, list[float]]:
        """Shares, 0 to 1, that the page has shown of each node since `press_run`, by the nodes' types."""
        return self.page.evaluate("window.fd2talkTest.progress")

    def wait_for_outcome(self, seconds: float = 300) -> dict:
        """What ended the run that was started by `press_run`: {"type": "execution_success" or _error, _interrupted,
        "at": ms since 1970 when the page knew it}."""
        self.page.wait_for_function("window.fd2talkTest.outcome", timeout=1000 * seconds)
        return self.page.evaluate("window.fd2talkTest.outcome")

    def complaints(self) -> list[str]:
        """Texts about errors and about missing nodes, models and files that can be seen now."""
        texts = [part.inner_text() for part in self.page.get_by_test_id(COMPLAINTS).all() if part.is_visible()]
        return list(filter(None, texts))

    def close(self) -> None:
        """Close the page; errors of this pack's own scripts that happened in it are an assertion's."""
        self.page.close()
        assert not [error for error in self.errors if "fd2" in error.lower()]

    def screenshot(self, name: str) -> Path:
        """Keep what is seen now, as a test artefact."""
        path = ARTEFACTS / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path
