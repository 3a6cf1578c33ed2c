// Style of the motion editor, from ComfyUI's own colours, so that it follows light and dark palettes.

const CSS = `
.fd2e, .fd2e-strip { box-sizing: border-box; font-family: inherit; color: var(--input-text, #ddd); }
.fd2e *, .fd2e-strip * { box-sizing: border-box; }
.fd2e { width: min(1500px, 96vw); height: min(940px, 94vh); max-width: none; max-height: none; margin: auto; padding: 0;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 10px; background: var(--comfy-menu-bg, #222);
  font-size: 13px; overflow: hidden; box-shadow: 0 12px 48px #0008; }
.fd2e[open] { display: flex; flex-direction: column; }
.fd2e::backdrop { background: #0009; }
.fd2e header, .fd2e-tools { display: flex; align-items: center; gap: 8px; padding: 8px 12px; flex-wrap: wrap; }
.fd2e-tools + .fd2e-tools { padding-top: 0; }
.fd2e-key { min-width: 140px; font-weight: 600; }
.fd2e header { border-bottom: 1px solid var(--border-color, #4e4e4e); }
.fd2e h2 { font-size: 15px; font-weight: 600; margin: 0 12px 0 0; }
.fd2e-words { flex: 1 1 280px; min-width: 0; color: var(--descrip-text, #999); line-height: 1.35; }
.fd2e-words.bad { color: var(--error-text, #ff6b6b); }
.fd2e button, .fd2e select, .fd2e input[type=number], .fd2e-strip button {
  font: inherit; color: var(--input-text, #ddd);
  background: color-mix(in srgb, var(--comfy-input-bg, #333) 60%, var(--comfy-menu-bg, #222));
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px; padding: 4px 10px; min-height: 28px; margin: 0; }
.fd2e button, .fd2e-strip button { cursor: pointer; }
.fd2e button:hover:not(:disabled), .fd2e-strip button:hover { border-color: var(--fd2e-accent); }
.fd2e button:disabled { opacity: 0.4; cursor: default; }
.fd2e button.main { background: var(--fd2e-accent); border-color: var(--fd2e-accent); color: var(--fd2e-on-accent);
  font-weight: 600; }
.fd2e input[type=number] { width: 84px; }
.fd2e :focus-visible, .fd2e-strip :focus-visible { outline: 2px solid var(--fd2e-accent); outline-offset: 1px; }
.fd2e-strip { --fd2e-accent: var(--p-primary-color, #4a9eff); }
.fd2e label { display: inline-flex; align-items: center; gap: 5px; color: var(--descrip-text, #999); }
.fd2e-clock { font-variant-numeric: tabular-nums; min-width: 108px; }
.fd2e-gap { flex: 1; }
.fd2e-body { flex: 1; min-height: 0; display: grid; grid-template-columns: 290px 1fr;
  border-top: 1px solid var(--border-color, #4e4e4e); }
.fd2e-side { display: flex; flex-direction: column; min-height: 0; overflow-y: auto; padding: 10px 12px; gap: 8px;
  border-right: 1px solid var(--border-color, #4e4e4e); }
.fd2e-face { width: 100%; aspect-ratio: 1; flex: none; border-radius: 8px; background: var(--fd2e-ground); }
.fd2e-side h3 { font-size: 13px; margin: 6px 0 0; font-weight: 600; }
.fd2e-gain { display: grid; grid-template-columns: 78px 58px 1fr 36px; align-items: center; gap: 6px; }
.fd2e-gain button { padding: 1px 4px; min-height: 24px; }
.fd2e-gain button[aria-pressed=true] { background: var(--fd2e-key); border-color: var(--fd2e-key); color: #111; }
.fd2e-gain input[type=range] { width: 100%; min-width: 0; accent-color: var(--fd2e-accent); }
.fd2e-gain output { text-align: right; font-variant-numeric: tabular-nums; }
.fd2e-keys { color: var(--descrip-text, #999); font-size: 12px; line-height: 1.5; margin: 0; }
.fd2e-keys kbd { font: inherit; color: var(--input-text, #ddd); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 4px; padding: 0 4px; }
.fd2e-time { position: relative; min-width: 0; min-height: 0; display: flex; flex-direction: column; }
.fd2e-top, .fd2e-lanes { display: grid; grid-template-columns: 176px 1fr; scrollbar-gutter: stable; }
.fd2e-top { overflow: hidden; border-bottom: 1px solid var(--border-color, #4e4e4e); flex: none; }
.fd2e-scroll { flex: 1; min-height: 0; overflow-y: scroll; }
.fd2e-top { padding-right: var(--fd2e-scrollbar, 0px); }
.fd2e-time canvas { display: block; width: 100%; touch-action: pan-y; }
.fd2e-legend { padding: 5px 10px; font-size: 12px; line-height: 1.45; color: var(--descrip-text, #999); }
.fd2e-legend i { display: inline-block; width: 18px; height: 0; border-top: 2px solid; vertical-align: middle;
  margin-right: 6px; }
.fd2e-lane { padding: 6px 6px 4px 10px; border-bottom: 1px solid var(--border-color, #4e4e4e);
  border-left: 3px solid transparent; display: flex; flex-direction: column; gap: 3px; overflow: hidden; }
.fd2e-lane.active { border-left-color: var(--fd2e-accent); background: var(--fd2e-ground); }
.fd2e-lane b { font-weight: 600; cursor: pointer; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.fd2e-lane small { color: var(--descrip-text, #999); font-size: 12px; font-variant-numeric: tabular-nums; }
.fd2e-lane div { display: flex; gap: 4px; }
.fd2e-lane button { padding: 0 7px; min-height: 22px; font-size: 12px; }
.fd2e-lane.unknown b { color: var(--error-text, #ff6b6b); }
.fd2e-playhead { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--fd2e-playhead);
  pointer-events: none; }
.fd2e-surface:focus-visible { outline-offset: -2px; }
.fd2e-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.fd2e-strip { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 72px; font-size: 12px; }
.fd2e-strip canvas { display: block; width: 100%; height: 38px; border-radius: 6px; cursor: pointer;
  background: var(--comfy-input-bg, #333); }
@media (max-height: 800px) {
  .fd2e-face { width: 70%; align-self: center; }
}
@media (max-width: 900px) {
  .fd2e-body { grid-template-columns: 1fr; grid-template-rows: auto 1fr; }
  .fd2e-side { max-height: 34vh; border-right: 0; }
  .fd2e-face { max-width: 220px; align-self: center; }
}
`;

let added = false;

/** Add the style to the page, once. */
export function addStyle() {
  if (added) return;
  added = true;
  const style = document.createElement("style");
  style.textContent = CSS;
  document.head.append(style);
}

/** Red, green and blue 0..255 of any CSS colour. */
function channels(colour) {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

/** What canvases draw with: the palette's colours, and those of curves for a light or a dark ground. */
export function coloursOf(element) {
  const style = getComputedStyle(element);
  const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const ground = of("--comfy-menu-bg", "#222222");
  const [red, green, blue] = channels(ground);
  const light = 0.3 * red + 0.59 * green + 0.11 * blue > 140;
  const accent = light ? "#1667c0" : "#60beff";
  const colours = light
    ? { lane: "#ffffff0d", grid: "#0000001a", zero: "#00000045", before: "#7c8696", wave: "#8a97ad", key: "#c25e00" }
    : { lane: "#00000026", grid: "#ffffff14", zero: "#ffffff40", before: "#8a93a3", wave: "#6e7d96", key: "#ffaa5c" };
  return {
    ...colours,
    light,
    ambient: light ? 0.7 : 0.35, // light on triangles that are seen from the side
    accent,
    onAccent: light ? "#ffffff" : "#0c1a26",
    text: of("--input-text", "#dddddd"),
    dim: of("--descrip-text", "#999999"),
    playhead: light ? "#b3261e" : "#ffdc6e",
    selected: light ? "#000000" : "#ffffff",
    lost: "#d0403040",
    ground: light ? "#00000010" : "#00000038",
    skin: light ? [205, 212, 224] : [58, 70, 92],
    edge: light ? [150, 162, 184] : [96, 118, 152],
    lips: light ? "#c0305a" : "#ff8098",
    eyes: light ? "#0b7aa8" : "#82e1ff",
    brows: light ? "#8a6414" : "#e2be78",
    mouth: light ? "#4a2a32" : "#0e0c10",
    eyeWhite: light ? "#f6f8fb" : "#1a202a",
  };
}

/** Hand the computed colours to the style sheet. */
export function paint(element, colours) {
  element.style.setProperty("--fd2e-accent", colours.accent);
  element.style.setProperty("--fd2e-on-accent", colours.onAccent);
  element.style.setProperty("--fd2e-key", colours.key);
  element.style.setProperty("--fd2e-playhead", colours.playhead);
  element.style.setProperty("--fd2e-ground", colours.ground);
}

/** A canvas's context in CSS pixels, its backing store fitted to the screen's; null while it has no size. */
export function penOf(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return null;
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

/** An element with properties, children and, for names with a dash, attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}
