// The face model, and a motion with the editor's changes: what fd2talk_core/motion/keyframes.py, edit.py and
// face/model.py do, for one frame at a time. Numbers come quantised; `step` is what one integer stands for.

import { POSE_COLUMNS, curveOf } from "./keyframes.js";
import { readSafetensors } from "./safetensors.js";

const EXPRESSION = 64;
const POSE = 6;
const ALONE = 1e-5; // of a direction's length: what is left of one that the others span

const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < EXPRESSION; i++) sum += a[i] * b[i];
  return sum;
};

/** Real numbers of a quantised tensor; `columns` of them in each row. */
function numbers(tensors, name) {
  const { shape, data } = tensors[name];
  const step = tensors[`${name}_step`].data;
  const columns = shape[1];
  return Float32Array.from(data, (value, index) => value * step[index % columns]);
}

export class Face {
  /** buffer: what the server gives for /fd2talk/editor_face. */
  constructor(buffer) {
    const { tensors, metadata } = readSafetensors(buffer);
    this.mean = tensors.mean.data; // (478 x 3)
    this.basis = numbers(tensors, "basis"); // (64, 478 x 3)
    this.triangles = tensors.triangles.data;
    this.contours = {};
    for (const [name, { data }] of Object.entries(tensors)) {
      if (name.startsWith("contour.")) this.contours[name.slice("contour.".length)] = data;
    }
    this.controls = new Map(
      metadata.controls.split(",").map((name, row) => [
        name,
        Float64Array.from(tensors.controls.data.subarray(row * EXPRESSION, (row + 1) * EXPRESSION)),
      ]),
    );
    this.regions = metadata.regions.split(",").map((text) => {
      const [name, start, stop] = text.split(":");
      return { name, start: Number(start), stop: Number(stop) };
    });
  }

  /** Everything that can have keyframes. */
  get names() {
    return [...this.controls.keys(), ...Object.keys(POSE_COLUMNS)];
  }

  /** Vertices (478 x 3) of an expression (64), in the head's own frame, in distances between the eyes. */
  vertices(expression) {
    const result = Float64Array.from(this.mean);
    const width = result.length;
    for (let k = 0; k < EXPRESSION; k++) {
      const value = expression[k];
      if (!value) continue;
      const row = k * width;
      for (let i = 0; i < width; i++) result[i] += value * this.basis[row + i];
    }
    return result;
  }
}

/** Turn, shift and scale vertices: (478 x 3) in picture widths, x right, y down, z away. Pose as in the face model. */
export function project(vertices, pose, rest = [0, 0, 0, 0, 0, 0]) {
  const [pitch, yaw, roll, tx, ty, zoom] = rest.map((value, column) => value + pose[column]);
  const [sx, cx, sy, cy, sz, cz] = [pitch, yaw, roll].flatMap((angle) => [Math.sin(angle), Math.cos(angle)]);
  const scale = Math.exp(zoom);
  const rows = [
    [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx, tx, 0.5],
    [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx, ty, 0.5],
    [-sy, cy * sx, cy * cx, 0, 0],
  ];
  const result = new Float64Array(vertices.length);
  for (let i = 0; i < vertices.length; i += 3) {
    rows.forEach(([a, b, c, shift, centre], axis) => {
      const turned = a * vertices[i] + b * vertices[i + 1] + c * vertices[i + 2];
      result[i + axis] = (turned + shift) * scale + centre;
    });
  }
  return result;
}

const inPoseUnits = (name, value) => {
  if (name === "zoom") return Math.log1p(value);
  return POSE_COLUMNS[name] < 3 ? (value * Math.PI) / 180 : value;
};

const inTrackUnits = (name, value) => {
  if (name === "zoom") return Math.expm1(value);
  return POSE_COLUMNS[name] < 3 ? (value * 180) / Math.PI : value;
};

/** Orthonormal directions that span what these controls move (modified Gram-Schmidt, twice for accuracy). */
function span(directions) {
  const basis = [];
  for (const direction of directions) {
    const left = Float64Array.from(direction);
    for (let round = 0; round < 2; round++) {
      for (const unit of basis) {
        const share = dot(unit, left);
        for (let i = 0; i < EXPRESSION; i++) left[i] -= share * unit[i];
      }
    }
    const length = Math.sqrt(dot(left, left));
    if (length > ALONE * Math.sqrt(dot(direction, direction))) basis.push(left.map((value) => value / length));
  }
  return basis;
}

/** A run's motion before the gains, and what the editor cannot redo; without a buffer a face at rest, of no length. */
export class Motion {
  constructor(buffer = null) {
    this.fps = null;
    this.frames = 0;
    this.peaks = null;
    this.valid = null;
    this.extra = {};
    if (!buffer) return;
    const { tensors, metadata } = readSafetensors(buffer);
    this.fps = Number(metadata.fps);
    this.frames = tensors.expression.shape[0];
    this.expression = numbers(tensors, "expression");
    this.pose = numbers(tensors, "pose");
    this.valid = tensors.valid.data;
    this.peaks = tensors.peaks?.data ?? null;
    for (const name of ["blinks", "preset", "late_expression", "late_pose"]) {
      if (!tensors[name]) continue;
      this.extra[name] = { values: numbers(tensors, name), columns: tensors[`${name}_columns`].data };
    }
  }

  get duration() {
    return this.frames ? this.frames / this.fps : 0;
  }

  /** The frame that is seen at an instant. */
  frameAt(seconds) {
    return Math.min(Math.max(0, Math.floor(seconds * this.fps + 1e-6)), Math.max(0, this.frames - 1));
  }

  addExtra(name, frame, target) {
    const extra = this.extra[name];
    if (!extra) return;
    const width = extra.columns.length;
    extra.columns.forEach((column, index) => (target[column] += extra.values[frame * width + index]));
  }
}

/**
 * A motion under the editor's present settings.
 * settings: gains { region: factor }, rotation, translation, controls { name: amount }, tracks, mode, interpolation.
 */
export class EditedMotion {
  constructor(face, motion, settings) {
    this.face = face;
    this.motion = motion;
    this.settings = settings;
    this.curves = new Map();
    for (const [name, keys] of settings.tracks) {
      if (keys.length) this.curves.set(name, curveOf(keys, settings.interpolation));
    }
    this.columnGains = new Float64Array(EXPRESSION).fill(1);
    for (const { name, start, stop } of face.regions) {
      this.columnGains.fill(settings.gains[name] ?? 1, start, stop);
    }
    this.constant = new Float64Array(EXPRESSION);
    for (const [name, amount] of Object.entries(settings.controls)) this.addControl(this.constant, name, amount);
    const driven = [...this.curves.keys()].filter((name) => face.controls.has(name));
    this.replaced = settings.mode === "replace" ? span(driven.map((name) => face.controls.get(name))) : [];
  }

  addControl(target, name, amount) {
    const direction = amount && this.face.controls.get(name);
    if (direction) for (let i = 0; i < EXPRESSION; i++) target[i] += amount * direction[i];
  }

  /** Expression and pose of a frame before keyframes: { expression (64), pose (6) }. */
  before(frame) {
    const { motion, settings } = this;
    const expression = Float64Array.from(this.constant);
    const pose = new Float64Array(POSE);
    if (!motion.frames) return { expression, pose };
    for (let i = 0; i < EXPRESSION; i++) {
      expression[i] += this.columnGains[i] * motion.expression[frame * EXPRESSION + i];
    }
    for (let i = 0; i < POSE; i++) {
      pose[i] = motion.pose[frame * POSE + i] * (i < 3 ? settings.rotation : settings.translation);
    }
    motion.addExtra("blinks", frame, expression);
    motion.addExtra("preset", frame, pose);
    return { expression, pose };
  }

  /** Expression and pose at an instant, as the node gives them. */
  at(seconds) {
    const { motion, settings } = this;
    const frame = motion.frames ? motion.frameAt(seconds) : 0;
    const time = motion.frames ? frame / motion.fps : seconds;
    const { expression, pose } = this.before(frame);
    for (const unit of this.replaced) {
      const share = dot(unit, expression);
      for (let i = 0; i < EXPRESSION; i++) expression[i] -= share * unit[i];
    }
    for (const [name, curve] of this.curves) {
      const value = curve(time);
      const column = POSE_COLUMNS[name];
      if (column === undefined) this.addControl(expression, name, value);
      else pose[column] = inPoseUnits(name, value) + (settings.mode === "replace" ? 0 : pose[column]);
    }
    if (motion.frames) {
      motion.addExtra("late_expression", frame, expression);
      motion.addExtra("late_pose", frame, pose);
    }
    return { expression, pose };
  }

  /** How far a control is on, or where the head is, in the track's unit. */
  reading(name, { expression, pose }) {
    const column = POSE_COLUMNS[name];
    if (column !== undefined) return inTrackUnits(name, pose[column]);
    const direction = this.face.controls.get(name);
    return direction ? dot(direction, expression) / dot(direction, direction) : 0;
  }

  /** Readings of several tracks in every frame before keyframes: name -> Float32Array. */
  readingsBefore(names) {
    return this.readings(names, (frame) => this.before(frame));
  }

  /** The same of the result. */
  readingsAfter(names) {
    return this.readings(names, (frame) => this.at(frame / this.motion.fps));
  }

  readings(names, stateOf) {
    const result = new Map(names.map((name) => [name, new Float32Array(this.motion.frames)]));
    for (let frame = 0; frame < this.motion.frames; frame++) {
      const state = stateOf(frame);
      for (const name of names) result.get(name)[frame] = this.reading(name, state);
    }
    return result;
  }
}
