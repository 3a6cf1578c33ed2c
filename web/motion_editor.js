// Edit Motion: a strip with keyframes and sound in the node, and the motion editor behind it.
import { app } from "../../scripts/app.js";
import { openEditor, showRun } from "./motion_editor/dialog.js";
import { NODE, widgetOf } from "./motion_editor/node.js";
import { Strip } from "./motion_editor/strip.js";

const HEIGHT = 72 + 20; // of the strip, and the margin that the canvas leaves around it

function chain(node, name, after) {
  const before = node[name];
  node[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

function addStrip(node) {
  const strip = new Strip(node, () => openEditor(node));
  const widget = node.addDOMWidget("motion_editor", "fd2talk_motion_editor", strip.element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // the page's side panel would take the strip out of the node
  });
  widget.serialize = false;
  // A fixed height, for the classic canvas and for Nodes 2.0, which stretches what can have any.
  widget.computeLayoutSize = undefined;
  widget.computeSize = (width) => [width, HEIGHT];
  // First in the node, which is long. Saved values stand in the widgets' order; the strip must leave no gap in them.
  node.widgets.splice(node.widgets.indexOf(widget), 1);
  node.widgets.unshift(widget);
  chain(node, "onSerialize", (data) => {
    if (!data.widgets_values) return;
    const kept = node.widgets.map((other, index) => [other, data.widgets_values[index]]);
    data.widgets_values = kept.filter(([other]) => other.serialize !== false).map(([, value]) => value);
  });
  node.fd2talkStrip = strip;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);

  chain(node, "onExecuted", (output) => {
    if (!output?.fd2talk_editor) return;
    node.fd2talkRun = output.fd2talk_editor;
    strip.load();
    showRun(node);
  });
  chain(node, "onConfigure", () => setTimeout(() => strip.load().then(() => strip.draw())));
  chain(node, "onRemoved", () => strip.close());
  const text = widgetOf(node, "keyframes");
  if (text) chain(text, "callback", () => strip.draw());
}

app.registerExtension({
  name: "fd2talk.motionEditor",
  nodeCreated(node) {
    if (node.comfyClass === NODE) addStrip(node);
  },
  getNodeMenuItems(node) {
    return node.comfyClass === NODE ? [{ content: "Open motion editor", callback: () => openEditor(node) }] : [];
  },
});
