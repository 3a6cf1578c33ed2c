// The timeline: ruler, waveform, and one lane per track with its curves and keyframes.

import { POSE_COLUMNS, decimalsOf, limitsOf, unitOf } from "./keyframes.js";
import { lanes, ruler } from "./drawing.js";
import { make, penOf } from "./theme.js";

export const LANE = 88; // px
const REACH = 9; // px around a key that still hits it
const INSET = 10; // px beside the first and the last moment, so that keys there can be seen and taken
const STILL = 3; // px that the pointer may tremble without dragging
const SHORTEST = 0.2; // seconds that the view shows at least
const SAMPLES = 400; // moments of the result from which a lane's range of values is taken
const REST = 250; // ms without a change, after which all frames of a long clip are worked out

const usual = (name) => {
  if (!(name in POSE_COLUMNS)) return [-0.25, 1];
  return unitOf(name) ? [-15, 15] : [-0.2, 0.2];
};

export const labelOf = (name) => name.replaceAll("_", " ");

export const roundTo = (name, value) => Number(value.toFixed(decimalsOf(name)));

export class Timeline {
  /**
   * host: { document, colours, edited (EditedMotion or null), silence: words where no sound is drawn, knows(name),
   * seek(seconds), focusValue() }.
   * `edited` may change; call `measure` after that, and `draw` after any other change.
   */
  constructor(host) {
    this.host = host;
    this.names = [];
    this.active = null;
    this.view = { start: 0, span: 10 };
    this.duration = 10;
    this.before = new Map();
    this.after = null; // readings of all frames, when there are more than pixels
    this.ranges = new Map();
    this.drag = null;
    this.request = 0;
    this.seconds = 0; // of the playhead

    this.top = make("canvas", { role: "img", "aria-label": "Time and waveform. Click to go to a moment." });
    this.top.style.height = "58px";
    this.legend = make("div", { className: "fd2e-legend" });
    this.canvas = make("canvas", {});
    this.labels = make("div", {});
    this.surface = make(
      "div",
      {
        className: "fd2e-surface",
        tabIndex: 0,
        role: "application",
        "aria-label": "Keyframes. Arrow keys move the selected keyframe, Page Up and Page Down change the track.",
      },
      this.canvas,
    );
    const lanesElement = make("div", { className: "fd2e-lanes" }, this.labels, this.surface);
    this.scroll = make("div", { className: "fd2e-scroll" }, lanesElement);
    this.playhead = make("div", { className: "fd2e-playhead" });
    this.element = make(
      "section",
      { className: "fd2e-time", "aria-label": "Timeline" },
      make("div", { className: "fd2e-top" }, this.legend, this.top),
      this.scroll,
      this.playhead,
    );
    this.listen();
  }

  listen() {
    this.observer = new ResizeObserver(() => {
      const bar = this.scroll.offsetWidth - this.scroll.clientWidth;
      this.element.style.setProperty("--fd2e-scrollbar", `${bar}px`);
      this.draw();
    });
    this.observer.observe(this.element);
    const seek = (event) => this.host.seek(this.timeAt(event.offsetX));
    this.top.addEventListener("pointerdown", (event) => {
      this.top.setPointerCapture(event.pointerId);
      seek(event);
    });
    this.top.addEventListener("pointermove", (event) => event.buttons === 1 && seek(event));
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => this.release());
    this.canvas.addEventListener("dblclick", (event) => this.add(event));
    for (const canvas of [this.top, this.canvas]) {
      canvas.addEventListener("wheel", (event) => this.wheel(event, canvas === this.top), { passive: false });
    }
  }

  /** Length in seconds; the view keeps its place where it can. */
  setDuration(seconds) {
    if (Math.max(seconds, SHORTEST) === this.duration) return;
    const whole = this.view.start === 0 && Math.abs(this.view.span - this.duration) < 1e-6;
    this.duration = Math.max(seconds, SHORTEST);
    if (whole) this.fit();
    else this.setView(this.view.start, this.view.span);
  }

  fit() {
    this.setView(0, this.duration);
  }

  setView(start, span) {
    const shown = Math.min(Math.max(span, SHORTEST), this.duration);
    this.view = { span: shown, start: Math.min(Math.max(0, start), this.duration - shown) };
    this.draw();
  }

  /** Zoom by a factor around a moment; by default around the playhead where it is seen. */
  zoom(factor, around = this.seconds) {
    const { start, span } = this.view;
    const fixed = around >= start && around <= start + span ? around : start + span / 2;
    this.setView(fixed - (fixed - start) * factor, span * factor);
  }

  wheel(event, overRuler) {
    if (event.shiftKey || event.deltaX) {
      this.setView(this.view.start + ((event.deltaX || event.deltaY) / 600) * this.view.span, this.view.span);
    } else if (event.ctrlKey || event.metaKey || event.altKey || overRuler) {
      this.zoom(Math.exp(event.deltaY / 400), this.timeAt(event.offsetX));
    } else {
      return; // scrolls the lanes
    }
    event.preventDefault();
  }

  get width() {
    return this.canvas.clientWidth;
  }

  /** Seconds that a pixel stands for. */
  get pixel() {
    return this.view.span / Math.max(1, this.width - 2 * INSET);
  }

  timeAt(x) {
    return Math.max(0, this.view.start + (x - INSET) * this.pixel);
  }

  xOf(seconds) {
    return INSET + (seconds - this.view.start) / this.pixel;
  }

  /** Lanes to show, in this order. */
  setNames(names) {
    this.names = names;
    if (!names.includes(this.active)) this.active = names[0] ?? null;
    this.canvas.style.height = `${LANE * names.length}px`;
    this.rebuildLabels();
    this.measure();
  }

  activate(name) {
    if (this.active === name) return;
    this.active = name;
    for (const [index, lane] of [...this.labels.children].entries()) {
      lane.classList.toggle("active", this.names[index] === name);
    }
    this.labels.children[this.names.indexOf(name)]?.scrollIntoView({ block: "nearest" });
    this.draw();
  }

  rebuildLabels() {
    const lane = (name) => {
      const title = make("b", { textContent: labelOf(name), title: name });
      title.addEventListener("click", () => this.activate(name));
      const add = make("button", { textContent: "+ key", "aria-label": `Add a keyframe of ${labelOf(name)} here` });
      add.title = "Add a keyframe at the playhead";
      add.addEventListener("click", () => this.addHere(name));
      const remove = make("button", { textContent: "Remove", "aria-label": `Remove track ${labelOf(name)}` });
      remove.title = "Remove this track and its keyframes";
      remove.addEventListener("click", () => this.host.removeTrack(name));
      const element = make("div", { className: "fd2e-lane" }, title, make("small", {}), make("div", {}, add, remove));
      element.style.height = `${LANE}px`;
      element.classList.toggle("active", name === this.active);
      element.classList.toggle("unknown", !this.host.knows(name));
      return element;
    };
    this.labels.replaceChildren(...this.names.map(lane));
  }

  /** A key at the playhead, with the value that the curve has there, so that nothing jumps. */
  addHere(name) {
    this.activate(name);
    this.host.document.addKey(name, this.seconds, roundTo(name, this.valueNow(name)));
    this.surface.focus();
  }

  valueNow(name) {
    const { edited, document } = this.host;
    const curve = edited?.curves.get(name);
    if (curve) return curve(this.seconds);
    // A replacing track starts from what the motion does, an adding one from nothing.
    const before = this.before.get(name);
    return document.mode === "replace" && before?.length ? before[edited.motion.frameAt(this.seconds)] : 0;
  }

  /** Read the motion's curves again, and fit the lanes' value ranges. */
  measure() {
    const { edited } = this.host;
    this.before = edited ? edited.readingsBefore(this.names) : new Map();
    this.fitRanges();
    this.draw();
  }

  /** The result is another one. What the pixels need is drawn at once, the frames between them a moment later. */
  changed() {
    clearTimeout(this.timer);
    this.after = null;
    this.draw();
    const { edited } = this.host;
    if (!edited || edited.motion.frames <= this.width) return;
    this.timer = setTimeout(() => {
      this.after = edited.readingsAfter(this.names);
      this.draw();
    }, REST);
  }

  fitRanges() {
    if (this.drag?.moved) return; // else the key would run away from the pointer
    const { document, edited } = this.host;
    const frames = edited?.motion.frames ?? 0;
    const step = Math.max(1, Math.floor(frames / SAMPLES));
    const results = [];
    for (let frame = 0; frame < frames; frame += step) results.push(edited.at(frame / edited.motion.fps));
    for (const name of this.names) {
      let [low, high] = usual(name);
      const include = (value) => {
        low = Math.min(low, value);
        high = Math.max(high, value);
      };
      const before = this.before.get(name);
      for (const value of before ?? []) include(value);
      for (const { value } of document.tracks.get(name) ?? []) include(value);
      for (const state of results) include(edited.reading(name, state));
      const margin = 0.12 * (high - low);
      const [least, most] = limitsOf(name);
      this.ranges.set(name, [Math.max(low - margin, least - margin), Math.min(high + margin, most + margin)]);
    }
  }

  yOf(name, value) {
    const [low, high] = this.ranges.get(name);
    return this.names.indexOf(name) * LANE + 8 + ((high - value) / (high - low)) * (LANE - 16);
  }

  valueAt(name, y) {
    const [low, high] = this.ranges.get(name);
    return high - ((y - this.names.indexOf(name) * LANE - 8) / (LANE - 16)) * (high - low);
  }

  nameAt(y) {
    return this.names[Math.floor(y / LANE)] ?? null;
  }

  /** The nearest key within reach: { name, index } or null. */
  keyAt(x, y) {
    const name = this.nameAt(y);
    let best = null;
    let least = REACH;
    for (const [index, key] of (this.host.document.tracks.get(name) ?? []).entries()) {
      const distance = Math.hypot(this.xOf(key.time) - x, this.yOf(name, key.value) - y);
      if (distance <= least) [best, least] = [{ name, index }, distance];
    }
    return best;
  }

  press(event) {
    if (event.button !== 0) return;
    this.surface.focus({ preventScroll: true });
    event.preventDefault();
    const { offsetX: x, offsetY: y } = event;
    const hit = this.keyAt(x, y);
    const name = this.nameAt(y);
    if (name) this.activate(name);
    this.host.document.select(hit?.name ?? null, hit?.index);
    this.canvas.setPointerCapture(event.pointerId);
    if (hit) {
      this.drag = { x, y, key: this.host.document.selectedKey, name: hit.name, moved: false };
    } else {
      this.drag = { seeking: true };
      this.host.seek(this.timeAt(x));
    }
  }

  move(event) {
    const { offsetX: x, offsetY: y } = event;
    const { drag } = this;
    if (!drag) {
      this.canvas.style.cursor = this.keyAt(x, y) ? "grab" : "crosshair";
      return;
    }
    if (drag.seeking) {
      this.host.seek(this.timeAt(x));
      return;
    }
    const [dx, dy] = [x - drag.x, y - drag.y];
    if (!drag.moved && Math.hypot(dx, dy) < STILL) return;
    drag.moved = true;
    this.canvas.style.cursor = "grabbing";
    // With Shift along one axis only: the one that the pointer went further on.
    const alongTime = !event.shiftKey || Math.abs(dx) >= Math.abs(dy);
    const alongValue = !event.shiftKey || !alongTime;
    const time = drag.key.time + (alongTime ? dx * this.pixel : 0);
    const [low, high] = this.ranges.get(drag.name);
    const value = drag.key.value - (alongValue ? (dy / (LANE - 16)) * (high - low) : 0);
    const within = Math.min(high, Math.max(low, value));
    this.host.document.moveSelected(
      alongTime ? time : drag.key.time,
      alongValue ? roundTo(drag.name, within) : drag.key.value,
      false,
    );
  }

  release() {
    const moved = this.drag?.moved;
    this.drag = null;
    if (moved) {
      this.host.document.commit();
      this.fitRanges();
      this.draw();
    }
  }

  /** Double-click: a key where the pointer is; on a key, its value can be typed. */
  add(event) {
    const { offsetX: x, offsetY: y } = event;
    if (this.keyAt(x, y)) {
      this.host.focusValue();
      return;
    }
    const name = this.nameAt(y);
    if (!name || !this.host.knows(name)) return;
    this.host.document.addKey(name, this.timeAt(x), roundTo(name, this.valueAt(name, y)));
  }

  /** Show the moment; while playing, the view follows. */
  setTime(seconds, playing) {
    this.seconds = seconds;
    const { start, span } = this.view;
    if (playing && (seconds > start + span || seconds < start)) this.setView(seconds, span);
    this.place();
  }

  place() {
    const x = this.xOf(this.seconds);
    const seen = x >= -1 && x <= this.width + 1;
    this.playhead.style.display = seen ? "" : "none";
    this.playhead.style.left = `${this.surface.offsetLeft + x}px`;
  }

  /** What the lines mean. */
  showLegend(mode, hasMotion) {
    const { colours } = this.host;
    const entry = (colour, dash, text) => {
      const line = make("i", {});
      line.style.borderTopColor = colour;
      line.style.borderTopStyle = dash ? "dashed" : "solid";
      return make("div", {}, line, text);
    };
    const lines = [entry(colours.key, mode === "add", "keyframes")];
    if (hasMotion) lines.unshift(entry(colours.before, false, "motion before"), entry(colours.accent, false, "result"));
    this.legend.replaceChildren(...lines);
  }

  /** The tracks' values at the playhead, under their names. */
  showValues(state) {
    const { edited } = this.host;
    if (!edited) return;
    for (const [index, name] of this.names.entries()) {
      const text = this.host.knows(name) ? `${edited.reading(name, state).toFixed(2)}${unitOf(name)}` : "unknown name";
      this.labels.children[index].children[1].textContent = text;
    }
  }

  draw() {
    cancelAnimationFrame(this.request);
    this.request = requestAnimationFrame(() => {
      const top = penOf(this.top);
      if (top) ruler(this, top);
      const sheet = penOf(this.canvas);
      if (sheet) lanes(this, sheet);
      this.place();
    });
  }

  close() {
    cancelAnimationFrame(this.request);
    clearTimeout(this.timer);
    this.observer.disconnect();
  }
}
