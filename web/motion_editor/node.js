// The node behind the editor: its widgets, what its last run gave, and what belongs to neither.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { Face, Motion } from "./motion.js";

export const NODE = "FD2TalkEditMotion";
export const REGIONS = ["mouth", "eyelids", "gaze", "brows", "rest"];
export const HEAD = ["rotation", "translation"];

// What shapes the motion before the editor gets it, or after; a change shows only after another run.
const SHAPING = {
  smoothing: "smoothing",
  smoothing_method: "smoothing method",
  mirror: "mirror",
  speed: "speed",
  pose_preset: "pose preset",
  preset_strength: "preset strength",
  pose_limit: "pose limit",
  blink_rate: "blink rate",
  blink_seed: "blink seed",
  extra_blinks: "extra blinks",
};

export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** Whether an input comes by a wire, so that its widget does not count. */
export const isLinked = (node, name) => node.inputs?.find((input) => input.name === name)?.link != null;

/** What the editor edits. */
export function readValues(node) {
  const gains = {};
  for (const name of [...REGIONS, ...HEAD]) gains[name] = Number(widgetOf(node, `${name}_gain`)?.value ?? 1);
  return {
    keyframes: String(widgetOf(node, "keyframes")?.value ?? ""),
    gains,
    mode: widgetOf(node, "keyframe_mode")?.value ?? "add",
    interpolation: widgetOf(node, "interpolation")?.value ?? "smooth",
  };
}

function setWidget(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
}

export function writeValues(node, { keyframes, gains, mode, interpolation }) {
  setWidget(node, "keyframes", keyframes);
  for (const [name, gain] of Object.entries(gains)) setWidget(node, `${name}_gain`, gain);
  setWidget(node, "keyframe_mode", mode);
  setWidget(node, "interpolation", interpolation);
  node.setDirtyCanvas(true, true);
}

/** Constant amounts of named controls, from the node's sliders. */
export function readControls(node, face) {
  const controls = {};
  for (const name of face.controls.keys()) {
    const value = Number(widgetOf(node, name)?.value ?? 0);
    if (value) controls[name] = value;
  }
  return controls;
}

/** The server's name of a node, which for one in a subgraph begins with the boxes around it. */
export function executionId(node, graph = app.rootGraph ?? app.graph, path = "") {
  for (const other of graph.nodes) {
    if (other === node) return `${path}${other.id}`;
    const inside = other.subgraph && executionId(node, other.subgraph, `${path}${other.id}:`);
    if (inside) return inside;
  }
  return "";
}

/** One step for ComfyUI's own undo, and the mark of an unsaved workflow. */
export function markChanged() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.();
}

/** What the node's last run handed over: { motion, sound, settings }, or null. */
export function lastRun(node) {
  // Undo and switching of workflows make a new node object; ComfyUI then still has the outputs.
  const graph = node.graph;
  const key = graph && !graph.isRootGraph ? `${graph.id}:${node.id}` : String(node.id);
  const text = (node.fd2talkRun ?? app.nodeOutputs?.[key]?.fd2talk_editor)?.[0];
  return text ? JSON.parse(text) : null;
}

/** Settings that were others in the last run, as words. */
export function changedSince(node, run) {
  return Object.entries(SHAPING)
    .filter(([name]) => !isLinked(node, name) && widgetOf(node, name) && name in run.settings)
    .filter(([name]) => widgetOf(node, name).value !== run.settings[name])
    .map(([, words]) => words);
}

const viewUrl = (filename) => `/view?${new URLSearchParams({ filename, type: "temp", subfolder: "" })}`;

export const soundUrl = (filename) => api.apiURL(viewUrl(filename));

async function fetched(route) {
  const answer = await api.fetchApi(route);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

let facePromise = null;

/** The face model; asked for once. */
export function loadFace() {
  facePromise ??= fetched("/fd2talk/editor_face").then((buffer) => new Face(buffer));
  facePromise.catch(() => (facePromise = null));
  return facePromise;
}

export async function loadMotion(filename) {
  return new Motion(await fetched(viewUrl(filename)));
}
