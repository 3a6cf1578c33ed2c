// The strip in the node: a picture of sound and keyframes, and the button that opens the editor.

import { overview } from "./drawing.js";
import { parseKeyframes } from "./keyframes.js";
import { lastRun, loadMotion, readValues } from "./node.js";
import { addStyle, coloursOf, make, penOf } from "./theme.js";

export class Strip {
  constructor(node, open) {
    addStyle();
    this.node = node;
    this.motion = null;
    this.button = make("button", { textContent: "Open motion editor", type: "button" });
    this.canvas = make("canvas", { title: "Keyframes and sound. Click to edit." });
    this.element = make("div", { className: "fd2e-strip" }, this.button, this.canvas);
    this.button.addEventListener("click", open);
    this.canvas.addEventListener("click", open);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
  }

  /** After a run: fetch its sound and length. */
  async load() {
    const run = lastRun(this.node);
    if (!run || run.motion === this.loaded) return;
    this.loaded = run.motion;
    try {
      this.motion = await loadMotion(run.motion);
    } catch {
      this.motion = null; // the file is gone when the server was started again
    }
    this.draw();
  }

  draw() {
    const sheet = penOf(this.canvas);
    if (!sheet) return;
    let tracks = new Map();
    try {
      tracks = parseKeyframes(readValues(this.node).keyframes);
    } catch {
      // The editor says in words what is wrong with the text.
    }
    const last = Math.max(0, ...[...tracks.values()].flat().map(({ time }) => time));
    const duration = this.motion?.duration || Math.max(1, last * 1.1);
    overview(sheet, { tracks, peaks: this.motion?.peaks ?? null, duration, colours: coloursOf(this.element) });
  }

  close() {
    this.observer.disconnect();
  }
}
