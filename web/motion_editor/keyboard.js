// The editor's keys.

import { decimalsOf } from "./keyframes.js";
import { make } from "./theme.js";
import { roundTo } from "./timeline.js";

const HELP = [
  [["Double-click"], "adds a keyframe"],
  [["Enter"], "adds one at the playhead"],
  [["←", "→", "↑", "↓"], "move it (Shift: further)"],
  [[",", "."], "previous, next keyframe"],
  [["I"], "smooth, linear or hold after it"],
  [["Page Up", "Page Down"], "other track"],
  [["Delete"], "deletes it"],
  [["Space"], "plays"],
  [["Ctrl+Z", "Ctrl+Y"], "undo, redo"],
  [["Ctrl + wheel", "Shift + wheel"], "zoom, pan"],
];

export function keyHelp() {
  const lines = HELP.map(([keys, what]) => {
    const names = keys.flatMap((key, index) => [index ? " " : "", make("kbd", { textContent: key })]);
    return make("div", {}, ...names, ` ${what}`);
  });
  return make("div", { className: "fd2e-keys", role: "note", "aria-label": "Keys" }, ...lines);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** Typing belongs to the field it happens in. */
const isTyping = (target) => target.tagName === "SELECT" || (target.tagName === "INPUT" && target.type !== "range");

function arrow(editor, [across, up], far) {
  const { document, player, timeline } = editor;
  const frame = document.frameTime ?? 0.04;
  const key = document.selectedKey;
  if (!key) {
    if (across) player.seek(player.seconds + across * frame * (far ? 10 : 1));
    return;
  }
  const { name } = document.selected;
  const step = 10 ** -decimalsOf(name) * (name in { pitch: 0, yaw: 0, roll: 0 } ? 5 : 1) * (far ? 10 : 1);
  const time = across ? key.time + across * frame * (far ? 10 : 1) : key.time;
  document.moveSelected(time, up ? roundTo(name, key.value + up * step) : key.value);
  timeline.activate(name);
}

function otherTrack({ document, timeline }, by) {
  const { names } = timeline;
  const index = Math.min(names.length - 1, Math.max(0, names.indexOf(timeline.active) + by));
  document.select(null);
  if (names[index]) timeline.activate(names[index]);
}

/** What a key does on the timeline, by its name. */
const ON_TIMELINE = {
  Enter: ({ timeline }) => timeline.active && timeline.addHere(timeline.active),
  Insert: ({ timeline }) => timeline.active && timeline.addHere(timeline.active),
  Delete: ({ document }) => document.deleteSelected(),
  Backspace: ({ document }) => document.deleteSelected(),
  ",": ({ document, timeline }) => document.selectNeighbour(timeline.active, -1),
  ".": ({ document, timeline }) => document.selectNeighbour(timeline.active, 1),
  i: ({ document }) => document.cycleSelectedInterpolation(),
  I: ({ document }) => document.cycleSelectedInterpolation(),
  PageUp: (editor) => otherTrack(editor, -1),
  PageDown: (editor) => otherTrack(editor, 1),
  Home: ({ player }) => player.seek(0),
  End: ({ player }) => player.seek(player.duration),
};

function withControl(editor, event) {
  const key = event.key.toLowerCase();
  if (key === "enter") editor.queue();
  else if (isTyping(event.target)) return false;
  else if (key === "z") event.shiftKey ? editor.document.redo() : editor.document.undo();
  else if (key === "y") editor.document.redo();
  else return false;
  return true;
}

function handled(editor, event) {
  if (event.ctrlKey || event.metaKey) return withControl(editor, event);
  if (event.altKey || isTyping(event.target)) return false;
  if (event.key === " ") {
    if (event.target.tagName === "BUTTON") return false;
    editor.player.toggle();
    return true;
  }
  if (!editor.timeline.surface.contains(event.target)) return false;
  if (event.key in ARROWS) arrow(editor, ARROWS[event.key], event.shiftKey);
  else if (event.key === "Escape" && editor.document.selected) editor.document.select(null);
  else if (event.key in ON_TIMELINE) ON_TIMELINE[event.key](editor);
  else return false;
  return true;
}

export function onKey(editor, event) {
  // ComfyUI's own keys would delete or undo the node behind the window.
  event.stopPropagation();
  if (handled(editor, event)) event.preventDefault();
}
