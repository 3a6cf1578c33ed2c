// The wire-frame face: triangles lit from the viewer, lips, eyes and brows as lines on top.

import { project } from "./motion.js";
import { penOf } from "./theme.js";

const IRIS_HIDDEN = 0.08; // lids this close hide the iris

const gap = (p, a, b) => Math.hypot(p[3 * a] - p[3 * b], p[3 * a + 1] - p[3 * b + 1], p[3 * a + 2] - p[3 * b + 2]);

const eyeOpening = (points) =>
  (gap(points, 159, 145) / gap(points, 33, 133) + gap(points, 386, 374) / gap(points, 263, 362)) / 2;

export class FaceView {
  constructor(canvas, face) {
    this.canvas = canvas;
    this.face = face;
    const { mean } = face;
    const low = [Infinity, Infinity];
    const high = [-Infinity, -Infinity];
    for (let i = 0; i < mean.length; i += 3) {
      for (const axis of [0, 1]) {
        low[axis] = Math.min(low[axis], mean[i + axis]);
        high[axis] = Math.max(high[axis], mean[i + axis]);
      }
    }
    // Head room for turns and an open jaw.
    const fit = Math.log(0.8 / (high[1] - low[1]));
    this.rest = [0, 0, 0, -(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, fit];
    this.triangles = this.outwards();
  }

  /** Triangles with their corners in one order seen from outside, and whether an iris, which has no outline. */
  outwards() {
    const { mean, triangles, contours } = this.face;
    const irises = new Set([...contours.iris_left, ...contours.iris_right]);
    const middle = [0, 1, 2].map((axis) => {
      let sum = 0;
      for (let i = axis; i < mean.length; i += 3) sum += mean[i];
      return (sum * 3) / mean.length + (axis === 2 ? 1 : 0); // behind the face
    });
    const result = [];
    for (let t = 0; t < triangles.length; t += 3) {
      const corners = [triangles[t], triangles[t + 1], triangles[t + 2]];
      const [a, b, c] = corners.map((v) => mean.subarray(3 * v, 3 * v + 3));
      const [u, v] = [b, c].map((p) => [p[0] - a[0], p[1] - a[1], p[2] - a[2]]);
      const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      const out = normal.reduce((sum, n, i) => sum + n * ((a[i] + b[i] + c[i]) / 3 - middle[i]), 0);
      if (out < 0) corners.reverse();
      result.push({ corners, iris: corners.some((corner) => irises.has(corner)) });
    }
    return result;
  }

  draw({ expression, pose }, colours) {
    const sheet = penOf(this.canvas);
    if (!sheet) return;
    const { pen, width, height } = sheet;
    const side = Math.min(width, height);
    const vertices = this.face.vertices(expression);
    const points = project(vertices, pose, this.rest);
    const open = eyeOpening(vertices) > IRIS_HIDDEN;
    pen.translate((width - side) / 2, (height - side) / 2);
    const at = (v) => [points[3 * v] * side, points[3 * v + 1] * side];
    const path = (indices) => {
      pen.beginPath();
      for (const index of indices) pen.lineTo(...at(index));
      pen.closePath();
    };

    const seen = [];
    for (const { corners, iris } of this.triangles) {
      const [a, b, c] = corners;
      const [ux, uy, uz] = [0, 1, 2].map((i) => points[3 * b + i] - points[3 * a + i]);
      const [vx, vy, vz] = [0, 1, 2].map((i) => points[3 * c + i] - points[3 * a + i]);
      const z = ux * vy - uy * vx;
      if (z >= 0) continue; // seen from inside
      const facing = -z / Math.max(Math.hypot(uy * vz - uz * vy, uz * vx - ux * vz, z), 1e-12);
      seen.push({ corners, iris, facing, depth: points[3 * a + 2] + points[3 * b + 2] + points[3 * c + 2] });
    }
    seen.sort((one, other) => other.depth - one.depth);
    pen.lineWidth = 0.7;
    pen.lineJoin = "round";
    const shade = (colour, light) => `rgb(${colour.map((channel) => Math.round(channel * light)).join()})`;
    for (const { corners, iris, facing } of seen) {
      const light = colours.ambient + (1 - colours.ambient) * facing;
      path(corners);
      pen.fillStyle = shade(colours.skin, light);
      pen.fill();
      pen.strokeStyle = shade(iris ? colours.skin : colours.edge, light);
      pen.stroke();
    }
    this.features(pen, path, at, open, colours, side);
  }

  features(pen, path, at, open, colours, side) {
    const { contours } = this.face;
    pen.lineWidth = Math.max(1.2, side / 200);
    const outline = (name, colour) => {
      path(contours[name]);
      pen.strokeStyle = colour;
      pen.stroke();
    };
    for (const which of ["right", "left"]) {
      if (open) this.eye(pen, path, at, contours[`eye_${which}`], contours[`iris_${which}`], colours);
      outline(`eye_${which}`, colours.eyes);
      outline(`brow_${which}`, colours.brows);
    }
    path(contours.lips_inner);
    pen.fillStyle = colours.mouth;
    pen.fill();
    outline("lips_outer", colours.lips);
    outline("lips_inner", colours.lips);
  }

  /** An eye whose iris the lids cover. */
  eye(pen, path, at, lids, [centre, ...ring], colours) {
    pen.save();
    path(lids);
    pen.fillStyle = colours.eyeWhite;
    pen.fill();
    pen.clip();
    const [x, y] = at(centre);
    const radius = ring.reduce((sum, v) => sum + Math.hypot(at(v)[0] - x, at(v)[1] - y), 0) / ring.length;
    for (const [colour, share] of [[colours.eyes, 1], [colours.eyeWhite, 0.45]]) {
      pen.beginPath();
      pen.arc(x, y, radius * share, 0, 2 * Math.PI);
      pen.fillStyle = colour;
      pen.fill();
    }
    pen.restore();
  }
}
