// What the user edits: keyframes, gains and modes, with a selection and undo. Knows nothing of pages or widgets.

import { INTERPOLATIONS, cleanTime, formatKeyframes, limitsOf, parseKeyframes } from "./keyframes.js";

const MOST_STEPS = 200;

export class EditorDocument {
  /**
   * values: { keyframes: text, gains: { widget name: number }, mode, interpolation }.
   * onChange(document, finished): after every change; `finished` is false while something is being dragged.
   * Throws KeyframesError for a text that is not keyframes.
   */
  constructor(values, onChange = () => {}) {
    this.onChange = onChange;
    this.frameTime = null; // seconds between frames, once known
    this.selected = null; // { name, index }
    this.restore(values);
    this.steps = [this.values()];
    this.position = 0;
  }

  restore({ keyframes, gains, mode, interpolation }) {
    this.tracks = parseKeyframes(keyframes);
    this.gains = { ...gains };
    this.mode = mode;
    this.interpolation = interpolation;
    if (!this.selectedKey) this.selected = null;
  }

  /** The values to write into the node, or to restore. */
  values() {
    const { gains, mode, interpolation } = this;
    return { keyframes: formatKeyframes(this.tracks), gains: { ...gains }, mode, interpolation };
  }

  get selectedKey() {
    return this.selected ? (this.tracks.get(this.selected.name)?.[this.selected.index] ?? null) : null;
  }

  get canUndo() {
    return this.position > 0;
  }

  get canRedo() {
    return this.position < this.steps.length - 1;
  }

  /** End of a change: becomes one step of undo, unless nothing is different. */
  commit() {
    const values = this.values();
    if (JSON.stringify(values) !== JSON.stringify(this.steps[this.position])) {
      this.steps = [...this.steps.slice(0, this.position + 1), values].slice(-MOST_STEPS);
      this.position = this.steps.length - 1;
    }
    this.onChange(this, true);
  }

  step(by) {
    const position = this.position + by;
    if (position < 0 || position >= this.steps.length) return false;
    this.position = position;
    this.restore(this.steps[position]);
    this.onChange(this, true);
    return true;
  }

  undo() {
    return this.step(-1);
  }

  redo() {
    return this.step(1);
  }

  set(name, value) {
    this[name] = value;
    this.commit();
  }

  setGain(name, value, finished = true) {
    this.gains[name] = value;
    if (finished) this.commit();
    else this.onChange(this, false);
  }

  snapped(seconds) {
    const time = Math.max(0, seconds);
    const grid = this.frameTime ?? 0.01;
    return cleanTime(Math.round(time / grid) * grid);
  }

  select(name, index) {
    this.selected = name === null ? null : { name, index };
    this.onChange(this, false);
  }

  /** Index of a key of the track at the same frame, or -1. */
  indexAt(name, time, except = -1) {
    const near = (this.frameTime ?? 0.01) / 2;
    const keys = this.tracks.get(name) ?? [];
    return keys.findIndex((key, index) => index !== except && Math.abs(key.time - time) < near);
  }

  /** Add a key, or change the value of the one that is there; selects it. New keys go on as the one before them. */
  addKey(name, seconds, value) {
    const time = this.snapped(seconds);
    const [least, most] = limitsOf(name);
    const kept = Math.min(most, Math.max(least, value));
    const keys = this.tracks.get(name) ?? [];
    const there = this.indexAt(name, time);
    const { interpolation } = keys.findLast((other) => other.time < time) ?? {};
    const key = interpolation ? { time, value: kept, interpolation } : { time, value: kept };
    if (there >= 0) keys[there] = { ...keys[there], value: kept };
    else keys.push(key);
    keys.sort((a, b) => a.time - b.time);
    this.tracks.set(name, keys);
    this.selected = { name, index: there >= 0 ? there : keys.indexOf(key) };
    this.commit();
  }

  /** Move the selected key; a moment that another key of its track has is refused, and the key stays at its own. */
  moveSelected(seconds, value, finished = true) {
    const key = this.selectedKey;
    if (!key) return;
    const { name, index } = this.selected;
    const keys = this.tracks.get(name);
    const time = seconds === key.time ? key.time : this.snapped(seconds);
    const [least, most] = limitsOf(name);
    const moved = {
      ...key,
      time: this.indexAt(name, time, index) < 0 ? time : key.time,
      value: Math.min(most, Math.max(least, value)),
    };
    keys[index] = moved;
    keys.sort((a, b) => a.time - b.time);
    this.selected = { name, index: keys.indexOf(moved) };
    if (finished) this.commit();
    else this.onChange(this, false);
  }

  /** How it goes on from the selected key: one of INTERPOLATIONS, or null for what all keys have. */
  setSelectedInterpolation(interpolation) {
    if (!this.selectedKey) return;
    const { name, index } = this.selected;
    const { time, value } = this.selectedKey;
    this.tracks.get(name)[index] = interpolation ? { time, value, interpolation } : { time, value };
    this.commit();
  }

  /** The next of all choices. */
  cycleSelectedInterpolation() {
    const choices = [null, ...INTERPOLATIONS];
    const now = choices.indexOf(this.selectedKey?.interpolation ?? null);
    this.setSelectedInterpolation(choices[(now + 1) % choices.length]);
  }

  deleteSelected() {
    if (!this.selectedKey) return;
    const { name, index } = this.selected;
    const keys = this.tracks.get(name);
    keys.splice(index, 1);
    if (!keys.length) this.tracks.delete(name);
    this.selected = keys.length ? { name, index: Math.min(index, keys.length - 1) } : null;
    this.commit();
  }

  removeTrack(name) {
    this.tracks.delete(name);
    if (this.selected?.name === name) this.selected = null;
    this.commit();
  }

  /** Select the next (1) or previous (-1) key of a track; from its ends it stays. */
  selectNeighbour(name, by) {
    const keys = this.tracks.get(name);
    if (!keys?.length) return;
    const from = this.selected?.name === name ? this.selected.index + by : by > 0 ? 0 : keys.length - 1;
    this.select(name, Math.min(keys.length - 1, Math.max(0, from)));
  }
}
