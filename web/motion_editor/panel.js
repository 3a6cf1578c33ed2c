// Gains of the face's regions and of the head, each with a mute button.

import { HEAD, REGIONS, isLinked, widgetOf } from "./node.js";
import { make } from "./theme.js";

const WORDS = { rotation: "head turns", translation: "head shifts", rest: "cheeks" };

export class GainPanel {
  constructor(host) {
    this.host = host;
    this.rows = new Map();
    this.remembered = {}; // gains before they were muted
    this.element = make("div", { role: "group", "aria-label": "Gains" });
    this.element.append(make("h3", { textContent: "Gains" }));
    for (const name of [...REGIONS, ...HEAD]) this.element.append(this.row(name));
  }

  row(name) {
    const { node } = this.host;
    const words = WORDS[name] ?? name;
    const options = widgetOf(node, `${name}_gain`)?.options ?? {};
    const mute = make("button", { textContent: "Mute", "aria-label": `Mute ${words}` });
    const range = { type: "range", min: 0, max: options.max ?? 3, step: 0.05 };
    const slider = make("input", { ...range, "aria-label": `Gain of ${words}` });
    const shown = make("output", {});
    if (isLinked(node, `${name}_gain`)) {
      mute.disabled = slider.disabled = true;
      slider.title = "This gain comes by a wire";
    }
    mute.addEventListener("click", () => this.mute(name));
    slider.addEventListener("input", () => this.host.document.setGain(name, Number(slider.value), false));
    slider.addEventListener("change", () => this.host.document.setGain(name, Number(slider.value)));
    slider.addEventListener("dblclick", () => this.host.document.setGain(name, 1));
    this.rows.set(name, { mute, slider, shown });
    return make("div", { className: "fd2e-gain" }, make("span", { textContent: words }), mute, slider, shown);
  }

  mute(name) {
    const { document } = this.host;
    const gain = document.gains[name];
    if (gain) this.remembered[name] = gain;
    document.setGain(name, gain ? 0 : (this.remembered[name] ?? 1));
  }

  refresh() {
    for (const [name, { mute, slider, shown }] of this.rows) {
      const gain = this.host.document.gains[name];
      slider.value = gain;
      shown.textContent = gain.toFixed(2);
      mute.setAttribute("aria-pressed", String(gain === 0));
      mute.textContent = gain === 0 ? "Muted" : "Mute";
    }
  }
}
