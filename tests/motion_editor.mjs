// Runs the motion editor's arithmetic outside a browser: a JSON request on standard input, its answer on output.
import { readFileSync } from "node:fs";
import { EditorDocument } from "../web/motion_editor/document.js";
import { curveOf, formatKeyframes, limitsOf, parseKeyframes } from "../web/motion_editor/keyframes.js";
import { EditedMotion, Face, Motion, project } from "../web/motion_editor/motion.js";

const buffer = (path) => {
  const bytes = readFileSync(path);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
};

const answers = {
  curves: ({ tracks, times, interpolations }) =>
    tracks.map((keys) => interpolations.map((kind) => times.map(curveOf(keys, kind)))),
  texts: ({ texts }) =>
    texts.map((text) => {
      try {
        return formatKeyframes(parseKeyframes(text));
      } catch (error) {
        return { error: error.message };
      }
    }),
  limits: ({ names }) => names.map(limitsOf),
  motion: ({ face, motion, settings, frames, tracks }) => {
    const model = new Face(buffer(face));
    const clip = new Motion(buffer(motion));
    const edited = new EditedMotion(model, clip, { ...settings, tracks: parseKeyframes(settings.keyframes) });
    const states = frames.map((frame) => edited.at(frame / clip.fps));
    return {
      frames: clip.frames,
      fps: clip.fps,
      names: model.names,
      peaks: clip.peaks?.length ?? 0,
      expression: states.map((state) => [...state.expression]),
      pose: states.map((state) => [...state.pose]),
      landmarks: states.map((state) => [...project(model.vertices(state.expression), state.pose)]),
      readings: tracks.map((name) => states.map((state) => edited.reading(name, state))),
      before: tracks.map((name) => [...edited.readingsBefore(tracks).get(name)]),
    };
  },
  actions: ({ values, frameTime, actions }) => {
    const seen = [];
    const document = new EditorDocument(values, (changed, finished) => finished && seen.push(changed.values()));
    document.frameTime = frameTime;
    for (const [name, ...args] of actions) document[name](...args);
    return { values: document.values(), selected: document.selected, changes: seen.length };
  },
};

const request = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(answers[request.what](request)));
