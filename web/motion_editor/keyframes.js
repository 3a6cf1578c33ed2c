// Keyframes as text, and the curves between them. The same arithmetic as fd2talk_core/motion/keyframes.py, which a
// test compares: what the editor draws is what the node gives.

export const MODES = ["add", "replace"];
export const INTERPOLATIONS = ["smooth", "linear", "hold"];

// Pose channels -> column of the pose. Angles in degrees, x and y in distances between the eyes, zoom 0.1 a tenth.
export const POSE_COLUMNS = { pitch: 0, yaw: 1, roll: 2, x: 3, y: 4, zoom: 5 };

const POSE_LIMITS = {
  ...{ pitch: [-90, 90], yaw: [-90, 90], roll: [-180, 180] },
  ...{ x: [-10, 10], y: [-10, 10], zoom: [-0.9, 9] },
};

/** Least and greatest value that a track of this name can have. */
export function limitsOf(name) {
  return POSE_LIMITS[name] ?? [-10, 10];
}

/** Unit that is written behind a value of this track. */
export function unitOf(name) {
  return ["pitch", "yaw", "roll"].includes(name) ? "°" : "";
}

/** Decimals that a dragged value keeps: finer ones could not be told apart. */
export function decimalsOf(name) {
  return unitOf(name) ? 1 : 2;
}

export class KeyframesError extends Error {}

const PARTS = ["time", "value", "interpolation"];

function keyOf(name, key) {
  let parts = key;
  if (key && typeof key === "object" && !Array.isArray(key) && Object.keys(key).every((part) => PARTS.includes(part))) {
    parts = PARTS.filter((part, index) => index < 2 || part in key).map((part) => key[part]);
  }
  const numbers = Array.isArray(parts) && parts.slice(0, 2).every((number) => typeof number === "number");
  if (!numbers || parts.length < 2 || parts.length > 3) {
    throw new KeyframesError(`A keyframe of '${name}' is not a pair of time and value.`);
  }
  const [time, value, interpolation] = parts;
  if (!Number.isFinite(time) || time < 0) throw new KeyframesError(`A keyframe of '${name}' is at ${time} seconds.`);
  const [least, most] = limitsOf(name);
  if (!(value >= least && value <= most)) {
    throw new KeyframesError(`A keyframe of '${name}' has the value ${value}, outside of ${least} to ${most}.`);
  }
  if (parts.length < 3) return { time, value };
  if (!INTERPOLATIONS.includes(interpolation)) {
    const known = INTERPOLATIONS.join(", ");
    throw new KeyframesError(`A keyframe of '${name}' has the interpolation '${interpolation}', not one of ${known}.`);
  }
  return { time, value, interpolation };
}

/**
 * The node's text -> a Map of name -> keys sorted by time, each { time: seconds, value } and, where a key has its own
 * way to the next one, interpolation.
 * Throws KeyframesError, in words, where Python refuses the text as well. An empty text is no tracks.
 */
export function parseKeyframes(text) {
  if (!text.trim()) return new Map();
  let content;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw new KeyframesError(`The keyframes are not JSON (${error.message}).`);
  }
  if (!content || typeof content !== "object" || Array.isArray(content)) {
    throw new KeyframesError("The keyframes are not a list per name.");
  }
  const tracks = new Map();
  for (const [name, list] of Object.entries(content)) {
    // JSON.parse keeps only the last of two tracks of one name.
    const written = text.split(JSON.stringify(name)).slice(1).filter((rest) => /^\s*:/.test(rest));
    if (written.length > 1) throw new KeyframesError(`The track '${name}' occurs twice.`);
    if (!Array.isArray(list)) throw new KeyframesError(`The track '${name}' is not a list.`);
    if (!list.length) throw new KeyframesError(`The track '${name}' has no keyframes.`);
    const keys = list.map((key) => keyOf(name, key)).sort((a, b) => a.time - b.time);
    const double = keys.find((key, index) => index && keys[index - 1].time === key.time);
    if (double) throw new KeyframesError(`The track '${name}' has two keyframes at ${double.time} seconds.`);
    tracks.set(name, keys);
  }
  return tracks;
}

/** Seconds without the noise of binary fractions, yet exact enough to fall on the frame at any frame rate. */
export function cleanTime(seconds) {
  return Math.round(seconds * 1e6) / 1e6;
}

/** Tracks -> the node's text, one track a line; "" when there is none. Tracks without keys are left out. */
export function formatKeyframes(tracks) {
  const lines = [];
  for (const [name, keys] of tracks) {
    if (!keys.length) continue;
    const pairs = keys.map(({ time, value, interpolation }) =>
      interpolation ? `[${time}, ${value}, "${interpolation}"]` : `[${time}, ${value}]`,
    );
    lines.push(`  ${JSON.stringify(name)}: [${pairs.join(", ")}]`);
  }
  return lines.length ? `{\n${lines.join(",\n")}\n}` : "";
}

const between = (value, one, other) => Math.min(Math.max(value, Math.min(one, other)), Math.max(one, other));

/**
 * Slopes at the keys: monotone cubic (Fritsch and Butland 1984, as SciPy's PCHIP), flat at both ends and beside held
 * values; beside a straight line that line's own, as far as the curve then does not overshoot.
 */
function slopesOf(keys, kinds) {
  const slopes = keys.map(() => 0);
  for (let k = 1; k < keys.length - 1; k++) {
    if (kinds[k - 1] === "hold" || kinds[k] === "hold") continue;
    const before = keys[k].time - keys[k - 1].time;
    const after = keys[k + 1].time - keys[k].time;
    const rise = (keys[k].value - keys[k - 1].value) / before;
    const next = (keys[k + 1].value - keys[k].value) / after;
    if (kinds[k - 1] !== kinds[k]) {
      const [line, bend] = kinds[k] === "smooth" ? [rise, next] : [next, rise];
      slopes[k] = between(line, 0, 3 * bend);
      continue;
    }
    if (rise * next <= 0) continue;
    const w1 = 2 * after + before;
    const w2 = after + 2 * before;
    slopes[k] = (w1 + w2) / (w1 / rise + w2 / next);
  }
  return slopes;
}

/**
 * A function of seconds that gives the value between keys sorted by time; at least one key.
 * interpolation: of keys that have none of their own. Values hold before the first and after the last key.
 */
export function curveOf(keys, interpolation) {
  const last = keys.length - 1;
  const kinds = keys.map((key) => key.interpolation ?? interpolation);
  const slopes = slopesOf(keys, kinds);
  return (time) => {
    let low = 0;
    let high = last + 1; // index of the first key after `time`
    while (low < high) {
      const middle = (low + high) >> 1;
      if (keys[middle].time <= time) low = middle + 1;
      else high = middle;
    }
    // A key counts from the frame nearest to it on, whatever the last bits of both times say.
    const reached = Math.max(0, low <= last && keys[low].time <= time + 1e-6 ? low : low - 1);
    if (kinds[reached] === "hold") return keys[reached].value;
    if (low === 0 || low > last) return keys[reached].value;
    const from = keys[low - 1];
    const to = keys[low];
    const length = to.time - from.time;
    const share = (time - from.time) / length;
    if (kinds[reached] === "linear") return from.value + share * (to.value - from.value);
    const rest = 1 - share;
    return (
      rest * rest * (1 + 2 * share) * from.value +
      share * share * (3 - 2 * share) * to.value +
      length * share * rest * (rest * slopes[low - 1] - share * slopes[low])
    );
  };
}
