// The editor's window: puts timeline, face, gains and player together, and writes into the node's widgets.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { EditorDocument } from "./document.js";
import { FaceView } from "./face.js";
import { keyHelp, onKey } from "./keyboard.js";
import { INTERPOLATIONS, KeyframesError, MODES, POSE_COLUMNS, limitsOf } from "./keyframes.js";
import { EditedMotion, Motion } from "./motion.js";
import * as nodes from "./node.js";
import { GainPanel } from "./panel.js";
import { Player } from "./player.js";
import { addStyle, coloursOf, make, paint } from "./theme.js";
import { Timeline, labelOf } from "./timeline.js";

// Lanes of an editor that has no keyframes yet.
const FIRST = [
  ...["jaw_open", "smile_left", "smile_right", "brow_raise_left", "brow_raise_right", "gaze_x"],
  ...["pitch", "yaw"],
];
const SECONDS_BEFORE_RUN = 10;
const MODE_WORDS = { add: "add to the motion", replace: "replace the motion" };

let opened = null;

/** Open the editor of a node; only one is open at a time. */
export function openEditor(node) {
  opened?.close();
  opened = new MotionEditor(node);
  return opened;
}

/** Let an open editor of this node show what a run gave. */
export function showRun(node) {
  if (opened?.node === node) opened.loadRun();
}

class MotionEditor {
  constructor(node) {
    addStyle();
    this.node = node;
    this.face = null;
    this.motion = new Motion();
    this.edited = null;
    this.listeners = [];
    this.problem = "";
    this.busy = "";
    const values = nodes.readValues(node);
    try {
      this.document = new EditorDocument(values, (_, finished) => this.changed(finished));
    } catch (error) {
      if (!(error instanceof KeyframesError)) throw error;
      this.problem = `${error.message} Correct the text in the node, or begin anew: what you do here replaces it.`;
      this.document = new EditorDocument({ ...values, keyframes: "" }, (_, finished) => this.changed(finished));
    }
    if (nodes.isLinked(node, "keyframes")) {
      this.problem = "The keyframes come by a wire from another node. What you set here counts once it is removed.";
    }
    this.build();
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.colours = coloursOf(this.dialog);
    paint(this.dialog, this.colours);
    this.timeline.setNames(this.lanes());
    this.timeline.setDuration(this.reach());
    this.player.load(null, this.length());
    this.refresh();
    this.timeline.surface.focus();
    this.listenToRuns();
    this.start();
  }

  async start() {
    try {
      this.face = await nodes.loadFace();
    } catch (error) {
      this.problem = `The face model could not be loaded (${error.message}). Look into ComfyUI's log.`;
      this.refresh();
      return;
    }
    if (opened !== this) return;
    this.faceView = new FaceView(this.faceCanvas, this.face);
    this.fillTrackChoice();
    this.timeline.rebuildLabels();
    await this.loadRun();
  }

  async loadRun() {
    if (!this.face) return;
    const run = nodes.lastRun(this.node);
    // An unchanged workflow that is run again hands over what is here already.
    if (run && run.motion === this.run?.motion) return;
    if (run) {
      try {
        this.motion = await nodes.loadMotion(run.motion);
        this.run = run;
      } catch {
        this.lost = true; // the temp folder is emptied when ComfyUI starts
      }
    }
    if (opened !== this) return;
    this.document.frameTime = this.motion.fps ? 1 / this.motion.fps : null;
    this.applyEdits();
    this.timeline.setDuration(this.reach());
    this.player.load(this.run?.sound ? nodes.soundUrl(this.run.sound) : null, this.length());
    this.refresh();
  }

  get lastKey() {
    return Math.max(0, ...[...this.document.tracks.values()].flat().map(({ time }) => time));
  }

  /** Seconds that play: the motion's, or before a run a guess with room behind the last key. */
  length() {
    return this.motion.frames ? this.motion.duration : Math.max(SECONDS_BEFORE_RUN, this.lastKey + 2);
  }

  /** Seconds on the timeline: keys behind the motion's end shape its curves, and can be edited. */
  reach() {
    return Math.max(this.length(), this.lastKey);
  }

  lanes() {
    const keyed = [...this.document.tracks.keys()];
    return keyed.length ? keyed : FIRST;
  }

  knows(name) {
    return name in POSE_COLUMNS || !this.face || this.face.controls.has(name);
  }

  build() {
    const { document: edits } = this;
    this.player = new Player((seconds, playing) => this.showTime(seconds, playing));
    this.timeline = new Timeline(this);
    this.gains = new GainPanel(this);
    const button = (text, action, title = "") => {
      const element = make("button", { textContent: text, title, type: "button" });
      element.addEventListener("click", action);
      return element;
    };
    const choice = (name, label, values, words = {}) => {
      const options = values.map((value) => new Option(words[value] ?? value, value));
      const element = make("select", { "aria-label": label }, ...options);
      element.addEventListener("change", () => edits.set(name, element.value));
      return element;
    };
    const field = (label, apply) => {
      const input = make("input", { type: "number", step: "any" });
      input.addEventListener("change", () => {
        if (input.value !== "" && Number.isFinite(input.valueAsNumber)) apply(input.valueAsNumber);
        this.refresh();
      });
      return [input, make("label", {}, label, input)];
    };

    this.words = make("div", { className: "fd2e-words", role: "status" });
    const update = button("Update", () => this.queue(true), "Run only what this node needs; no frames are made");
    const run = button("Run", () => this.queue(), "Run the whole workflow (Ctrl+Enter)");
    run.className = "main";
    this.playButton = button("Play", () => this.player.toggle(), "Play or pause (Space)");
    this.clock = make("span", { className: "fd2e-clock" });
    this.undoButton = button("Undo", () => edits.undo(), "Ctrl+Z");
    this.redoButton = button("Redo", () => edits.redo(), "Ctrl+Y");
    this.mode = choice("mode", "Keyframes", MODES, MODE_WORDS);
    this.interpolation = choice("interpolation", "Between keys", INTERPOLATIONS);
    this.trackChoice = make("select", { "aria-label": "Add a track" });
    this.trackChoice.addEventListener("change", () => this.addTrack(this.trackChoice.value));
    this.fillTrackChoice();
    const [time, timeLabel] = field("Time (s)", (value) => edits.moveSelected(value, edits.selectedKey.value));
    const [value, valueLabel] = field("Value", (number) => edits.moveSelected(edits.selectedKey.time, number));
    [this.timeField, this.valueField] = [time, value];
    this.keyName = make("span", { className: "fd2e-key" });
    this.keyInterpolation = make(
      "select",
      { "aria-label": "After this key", title: "How it goes on from this keyframe (I)" },
      ...["", ...INTERPOLATIONS].map((name) => new Option(name, name)),
    );
    this.keyInterpolation.addEventListener("change", () => edits.setSelectedInterpolation(this.keyInterpolation.value));
    this.deleteButton = button("Delete key", () => edits.deleteSelected(), "Delete");
    this.faceCanvas = make("canvas", { className: "fd2e-face", role: "img", "aria-label": "The face at this moment" });
    this.announcer = make("div", { className: "fd2e-hidden", "aria-live": "polite" });

    this.dialog = make(
      "dialog",
      { className: "fd2e", role: "dialog", "aria-modal": "true", "aria-label": "Motion editor" },
      make(
        "header",
        {},
        make("h2", { textContent: `Motion editor: ${this.node.getTitle?.() ?? "Edit Motion"}` }),
        this.words,
        update,
        run,
        button("Close", () => this.close(), "Esc"),
      ),
      make(
        "div",
        { className: "fd2e-tools", role: "toolbar", "aria-label": "Tools" },
        this.playButton,
        this.clock,
        this.undoButton,
        this.redoButton,
        this.trackChoice,
        make("label", {}, "Keyframes", this.mode),
        make("label", {}, "Between keys", this.interpolation),
      ),
      make(
        "div",
        { className: "fd2e-tools", role: "toolbar", "aria-label": "Selected keyframe, and zoom" },
        this.keyName,
        timeLabel,
        valueLabel,
        make("label", {}, "After it", this.keyInterpolation),
        this.deleteButton,
        make("span", { className: "fd2e-gap" }),
        button("−", () => this.timeline.zoom(1.5), "Show more time (Ctrl + wheel)"),
        button("+", () => this.timeline.zoom(1 / 1.5), "Show less time (Ctrl + wheel)"),
        button("Fit", () => this.timeline.fit(), "Show everything"),
      ),
      make(
        "div",
        { className: "fd2e-body" },
        make("div", { className: "fd2e-side" }, this.faceCanvas, this.gains.element, keyHelp()),
        this.timeline.element,
      ),
      this.announcer,
    );
    this.dialog.addEventListener("keydown", (event) => onKey(this, event));
    // Esc closes the window, but first leaves a number that is being typed.
    this.dialog.addEventListener("close", () => this.close());
  }

  fillTrackChoice() {
    const controls = this.face ? [...this.face.controls.keys()] : FIRST.filter((name) => !(name in POSE_COLUMNS));
    const group = (label, names) => {
      const element = make("optgroup", { label });
      element.append(...names.map((name) => new Option(labelOf(name), name)));
      return element;
    };
    this.trackChoice.replaceChildren(
      new Option("Add track…", ""),
      group("Head", Object.keys(POSE_COLUMNS)),
      group("Face", controls),
    );
  }

  addTrack(name) {
    this.trackChoice.value = "";
    if (!name) return;
    if (!this.timeline.names.includes(name)) this.timeline.setNames([...this.timeline.names, name]);
    this.timeline.activate(name);
    this.timeline.surface.focus();
    this.showTime(this.player.seconds, this.player.playing);
  }

  removeTrack(name) {
    this.timeline.setNames(this.timeline.names.filter((other) => other !== name));
    this.document.removeTrack(name);
    this.timeline.surface.focus();
  }

  seek(seconds) {
    this.player.seek(seconds);
  }

  focusValue() {
    this.valueField.focus();
    this.valueField.select();
  }

  /** Something in the document is different: show it, and when it is finished write it into the node. */
  changed(finished) {
    if (finished) {
      nodes.writeValues(this.node, this.document.values());
      nodes.markChanged();
      this.node.fd2talkStrip?.draw();
      const missing = [...this.document.tracks.keys()].filter((name) => !this.timeline.names.includes(name));
      if (missing.length) this.timeline.setNames([...this.timeline.names, ...missing]);
      this.timeline.setDuration(this.reach());
    }
    this.applyEdits();
    this.refresh();
  }

  applyEdits() {
    if (!this.face) {
      this.timeline.draw();
      return;
    }
    const { document: edits } = this;
    const { rotation, translation, ...gains } = edits.gains;
    const controls = nodes.readControls(this.node, this.face);
    const { tracks, mode, interpolation } = edits;
    const settings = { gains, rotation, translation, controls, tracks, mode, interpolation };
    this.edited = new EditedMotion(this.face, this.motion, settings);
    const shape = JSON.stringify([edits.gains, controls, this.run?.motion, this.timeline.names]);
    if (shape === this.shape) this.timeline.fitRanges();
    else this.timeline.measure();
    this.shape = shape;
    this.timeline.changed();
    this.showTime(this.player.seconds, this.player.playing);
  }

  showTime(seconds, playing) {
    this.timeline.setTime(seconds, playing);
    this.clock.textContent = `${seconds.toFixed(2)} / ${this.player.duration.toFixed(2)} s`;
    this.playButton.textContent = playing ? "Pause" : "Play";
    if (!this.edited || !this.colours) return;
    const state = this.edited.at(seconds);
    this.faceView.draw(state, this.colours);
    this.timeline.showValues(state);
  }

  refresh() {
    const { document: edits } = this;
    const key = edits.selectedKey;
    this.undoButton.disabled = !edits.canUndo;
    this.redoButton.disabled = !edits.canRedo;
    this.mode.value = edits.mode;
    this.interpolation.value = edits.interpolation;
    for (const element of [this.timeField, this.valueField, this.keyInterpolation, this.deleteButton]) {
      element.disabled = !key;
    }
    this.keyName.textContent = key ? labelOf(edits.selected.name) : "No keyframe selected";
    this.keyInterpolation.options[0].textContent = `as all (${edits.interpolation})`;
    this.keyInterpolation.value = key?.interpolation ?? "";
    this.timeField.value = key ? key.time : "";
    this.valueField.value = key ? key.value : "";
    const [least, most] = key ? limitsOf(edits.selected.name) : [-10, 10];
    this.valueField.title = `${least} to ${most}`;
    this.gains.refresh();
    this.timeline.showLegend(edits.mode, this.motion.frames > 0);
    const goesOn = key?.interpolation ? `, then ${key.interpolation}` : "";
    const said = key ? `${labelOf(edits.selected.name)}, ${key.time} seconds, ${key.value}${goesOn}` : "";
    if (this.announcer.textContent !== said) this.announcer.textContent = said;
    const [words, bad] = this.status();
    this.words.textContent = words;
    this.words.classList.toggle("bad", bad);
  }

  /** What the user should know now: [words, whether something is wrong]. */
  status() {
    if (this.busy) return [this.busy, false];
    if (this.problem) return [this.problem, true];
    if (!this.run) {
      const why = this.lost ? "The last run's data is gone, as ComfyUI was started again." : "Nothing has run yet.";
      const more = "Update brings this motion's curves and length, and the sound of a connected audio.";
      return [`${why} Keyframes can be set already. ${more}`, false];
    }
    const changed = nodes.changedSince(this.node, this.run);
    if (changed.length) return [`Changed since the last run: ${changed.join(", ")}. Press Update to see it.`, false];
    return [this.run.sound ? "" : `${this.silence}.`, false];
  }

  /** Why no sound is seen or heard, and what to do. */
  get silence() {
    if (!nodes.isLinked(this.node, "audio")) return "No sound: connect audio to this node, then press Update";
    if (!this.run) return "Press Update to see and hear the sound";
    return "The last run got no sound: press Update, or connect audio that has any";
  }

  /** Run the workflow; `alone`: only this node and what it needs. */
  async queue(alone = false) {
    this.problem = "";
    this.busy = "Running…";
    this.accepted = false;
    this.refresh();
    this.timeline.surface.focus();
    if (alone) await app.queuePrompt(0, 1, [nodes.executionId(this.node)]);
    else await app.extensionManager.command.execute("Comfy.QueuePrompt");
    // Also a workflow that leads to no output, for which ComfyUI marks no node.
    if (!this.accepted) this.finished("ComfyUI refused the workflow. Close the editor to see what is wrong.");
  }

  finished(problem = "") {
    this.busy = "";
    this.problem = problem;
    this.refresh();
  }

  listenToRuns() {
    const on = (name, action) => {
      api.addEventListener(name, action);
      this.listeners.push([name, action]);
    };
    on("promptQueued", () => (this.accepted = true));
    on("execution_start", () => {
      this.busy = "Running…";
      this.refresh();
    });
    on("execution_success", () => this.finished());
    on("execution_interrupted", () => this.finished("The run was cancelled."));
    on("execution_error", ({ detail }) => {
      this.finished(`The run failed: ${detail?.exception_message ?? "see ComfyUI's log"}`);
    });
  }

  close() {
    if (opened !== this) return;
    opened = null;
    this.player.load(null, 0);
    this.timeline.close();
    for (const [name, action] of this.listeners) api.removeEventListener(name, action);
    if (this.dialog.open) this.dialog.close();
    this.dialog.remove();
    nodes.markChanged();
  }
}
