// What the timeline and the node's strip look like: pure drawing on canvases.

import { unitOf } from "./keyframes.js";

const FONT = "11px sans-serif";
const LANE_MARGIN = 8;

/** A step of 1, 2 or 5 times a power of ten, at least `rough`. */
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= rough * 0.999);
}

function clock(seconds, step) {
  const decimals = step >= 1 ? 0 : step >= 0.1 ? 1 : 2;
  if (seconds < 60) return `${seconds.toFixed(decimals)} s`;
  const rest = (seconds % 60).toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
  return `${Math.floor(seconds / 60)}:${rest}`;
}

function ticks({ view, width }) {
  const rough = (view.span * 80) / Math.max(1, width);
  const step = rough <= 10 ? niceStep(rough) : [15, 30, 60, 120, 300, 600, 1800].find((s) => s >= rough) || 3600;
  const first = Math.ceil(view.start / step - 1e-9);
  const last = Math.floor((view.start + view.span) / step + 1e-9);
  return { step, times: Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step) };
}

/** Loudness as bars around a middle line. peaks: 100 a second, 0..255. timeAt: px -> seconds. */
function wave(pen, peaks, timeAt, width, middle, reach, colour) {
  pen.fillStyle = colour;
  for (let x = 0; x < width; x++) {
    const from = Math.floor(timeAt(x) * 100);
    const to = Math.min(peaks.length, Math.max(from + 1, Math.floor(timeAt(x + 1) * 100)));
    let loud = 0;
    for (let i = from; i < to; i++) loud = Math.max(loud, peaks[i]);
    const half = Math.max(0.4, (loud / 255) * reach);
    if (from < peaks.length) pen.fillRect(x, middle - half, 1, 2 * half);
  }
}

/** Ruler and waveform. */
export function ruler(timeline, { pen, width, height }) {
  const { host } = timeline;
  const { colours } = host;
  const { step, times } = ticks(timeline);
  pen.font = FONT;
  pen.textBaseline = "top";
  for (const time of times) {
    const x = timeline.xOf(time);
    pen.fillStyle = colours.grid;
    pen.fillRect(x, 0, 1, height);
    pen.fillStyle = colours.dim;
    pen.fillText(clock(time, step), x + 4, 3);
  }
  const peaks = host.edited?.motion.peaks;
  if (peaks) {
    wave(pen, peaks, (x) => timeline.timeAt(x), width, height / 2 + 8, height / 2 - 10, colours.wave);
  } else {
    pen.fillStyle = colours.dim;
    const left = timeline.xOf(timeline.view.start) + 4;
    pen.fillText(host.silence, left, height / 2 + 2);
  }
}

/** All lanes with their curves and keys. */
export function lanes(timeline, sheet) {
  const { pen, width, height } = sheet;
  const { host, names } = timeline;
  const { colours, edited } = host;
  pen.font = FONT;
  for (const time of ticks(timeline).times) {
    pen.fillStyle = colours.grid;
    pen.fillRect(timeline.xOf(time), 0, 1, height);
  }
  const states = edited && !timeline.after ? statesSeen(timeline, width) : [];
  const lane = height / Math.max(1, names.length);
  for (const [index, name] of names.entries()) {
    pen.save();
    pen.beginPath();
    pen.rect(0, index * lane, width, lane);
    pen.clip();
    drawLane(timeline, pen, name, index * lane, lane, width, states);
    pen.restore();
  }
  shadeLost(timeline, pen, width, height);
}

/** The edited motion at each moment that gets a pixel of its own: [{ x, state }]. */
function statesSeen(timeline, width) {
  const { host: { edited }, view } = timeline;
  const { motion } = edited;
  if (!motion.frames) return [];
  const first = motion.frameAt(view.start);
  const last = motion.frameAt(view.start + view.span);
  // Too many frames for the pixels are thinned, until the timeline has worked out all.
  const step = Math.max(1, Math.floor((last - first) / width));
  const result = [];
  for (let frame = first; frame <= last; frame += step) {
    const time = frame / motion.fps;
    result.push({ x: timeline.xOf(time), state: edited.at(time) });
  }
  return result;
}

function drawLane(timeline, pen, name, top, lane, width, states) {
  const { host, ranges, active } = timeline;
  const { colours, edited, document } = host;
  const [low, high] = ranges.get(name);
  if (name === active) {
    pen.fillStyle = colours.lane;
    pen.fillRect(0, top, width, lane);
  }
  pen.fillStyle = colours.zero;
  pen.fillRect(0, timeline.yOf(name, 0), width, 1);
  pen.fillStyle = colours.grid;
  pen.fillRect(0, top + lane - 1, width, 1);
  const y = (value) => timeline.yOf(name, value);
  const line = (points, colour, thick, dash = []) => {
    pen.beginPath();
    for (const [px, py] of points) pen.lineTo(px, py);
    pen.strokeStyle = colour;
    pen.lineWidth = thick;
    pen.setLineDash(dash);
    pen.stroke();
    pen.setLineDash([]);
  };

  const before = timeline.before.get(name);
  if (before?.length) line(framesSeen(timeline, before, width).map(([x, value]) => [x, y(value)]), colours.before, 1.2);
  const curve = edited?.curves.get(name);
  const after = timeline.after?.get(name);
  if (after) {
    line(framesSeen(timeline, after, width).map(([x, value]) => [x, y(value)]), colours.accent, curve ? 1.6 : 1.2);
  } else if (states.length && host.knows(name)) {
    line(states.map(({ x, state }) => [x, y(edited.reading(name, state))]), colours.accent, curve ? 1.6 : 1.2);
  }
  const keys = document.tracks.get(name) ?? [];
  if (curve) {
    const points = [];
    for (let x = 0; x <= width; x++) points.push([x, y(curve(timeline.timeAt(x)))]);
    line(points, colours.key, 1.4, document.mode === "add" ? [5, 3] : []);
  }
  for (const [index, key] of keys.entries()) {
    const chosen = document.selected?.name === name && document.selected.index === index;
    mark(pen, timeline.xOf(key.time), y(key.value), chosen ? 7 : 5, colours, chosen, key.interpolation);
    if (!chosen) continue;
    const text = `${key.time.toFixed(2)} s  ${key.value}${unitOf(name)}`;
    label(pen, timeline.xOf(key.time), y(key.value), text, { colours, width, top });
  }
  pen.fillStyle = colours.dim;
  pen.textAlign = "right";
  pen.textBaseline = "top";
  pen.fillText(short(high), width - 4, top + 3);
  pen.textBaseline = "bottom";
  pen.fillText(short(low), width - 4, top + lane - 3);
  pen.textAlign = "left";
}

const short = (value) => String(Number(value.toPrecision(2)));

/** Values a frame as points; where several share a pixel, the least and the greatest of them. */
function framesSeen(timeline, values, width) {
  const { host: { edited }, view } = timeline;
  const { motion } = edited;
  const first = Math.max(0, motion.frameAt(view.start) - 1);
  const last = Math.min(values.length - 1, motion.frameAt(view.start + view.span) + 1);
  const place = (frame) => timeline.xOf(frame / motion.fps);
  const share = Math.max(1, Math.floor((last - first) / width));
  const points = [];
  for (let frame = first; frame <= last; frame += share) {
    let [least, most] = [values[frame], values[frame]];
    for (let i = frame; i < Math.min(frame + share, last + 1); i++) {
      least = Math.min(least, values[i]);
      most = Math.max(most, values[i]);
    }
    points.push([place(frame), least]);
    if (share > 1) points.push([place(frame), most]);
  }
  return points;
}

// Corners of a keyframe's mark, by its own way to the next one; others are diamonds.
const DIAMOND = [[0, -1], [1, 0], [0, 1], [-1, 0]];
const SHAPES = {
  hold: [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
  linear: [[-0.8, -1], [1, 0], [-0.8, 1]],
};

function mark(pen, x, y, size, colours, chosen, interpolation) {
  pen.beginPath();
  for (const [dx, dy] of SHAPES[interpolation] ?? DIAMOND) pen.lineTo(x + dx * size, y + dy * size);
  pen.closePath();
  pen.fillStyle = colours.key;
  pen.fill();
  if (!chosen) return;
  pen.strokeStyle = colours.selected;
  pen.lineWidth = 2;
  pen.stroke();
}

function label(pen, x, y, text, { colours, width, top }) {
  const wide = pen.measureText(text).width + 8;
  const left = Math.min(Math.max(2, x - wide / 2), width - wide - 2);
  const middle = y - 20 < top + LANE_MARGIN ? y + 20 : y - 20; // clear of the key and of the curve beside it
  pen.fillStyle = colours.light ? "#fffffff0" : "#000000c0";
  pen.fillRect(left, middle - 9, wide, 18);
  pen.fillStyle = colours.text;
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  pen.fillText(text, left + 4, middle);
}

/** What lies behind the motion's end, and frames in which tracking had lost the face. */
function shadeLost(timeline, pen, width, height) {
  const motion = timeline.host.edited?.motion;
  if (!motion?.valid) return;
  const end = timeline.xOf(motion.duration);
  if (end < width) {
    pen.fillStyle = timeline.host.colours.ground;
    pen.fillRect(end, 0, width - end, height);
    pen.fillStyle = timeline.host.colours.zero;
    pen.fillRect(end, 0, 1, height);
  }
  pen.fillStyle = timeline.host.colours.lost;
  for (let frame = 0; frame < motion.frames; frame++) {
    if (motion.valid[frame]) continue;
    const x = timeline.xOf(frame / motion.fps);
    pen.fillRect(x, 0, Math.max(1, timeline.xOf((frame + 1) / motion.fps) - x), height);
  }
}

/** The node's own picture: sound, and a mark for each keyframe. peaks: or null. */
export function overview({ pen, width, height }, { tracks, peaks, duration, colours }) {
  const seconds = (x) => (Math.max(0, x - 6) / (width - 12)) * duration;
  if (peaks) wave(pen, peaks, seconds, width, height / 2, height / 2 - 4, colours.wave);
  const rows = [...tracks.values()];
  rows.forEach((keys, row) => {
    const y = ((row + 1) * height) / (rows.length + 1);
    for (const { time } of keys) mark(pen, 6 + Math.min(1, time / duration) * (width - 12), y, 4, colours, false);
  });
  if (rows.length || peaks) return;
  pen.fillStyle = colours.dim;
  pen.font = FONT;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText("No keyframes yet", width / 2, height / 2);
}
