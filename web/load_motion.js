// Load Motion: a button and drag-and-drop that bring a motion file into ComfyUI's input folder.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const SUFFIXES = [".safetensors", ".json"];

function fail(detail) {
  app.extensionManager.toast.add({ severity: "error", summary: "Load Motion", detail, life: 8000 });
}

async function upload(file, node, widget) {
  if (!SUFFIXES.some((suffix) => file.name.toLowerCase().endsWith(suffix))) {
    fail(`${file.name} is not a motion file. Choose a .safetensors or .json file.`);
    return;
  }
  const body = new FormData();
  body.append("image", file); // the server's name for any uploaded file
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) {
    fail(`${file.name} could not be uploaded (${answer.status} ${answer.statusText}). Try again.`);
    return;
  }
  const { name, subfolder } = await answer.json();
  const path = subfolder ? `${subfolder}/${name}` : name;
  if (!widget.options.values.includes(path)) widget.options.values.push(path);
  widget.value = path;
  widget.callback?.(path);
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "fd2talk.loadMotion",
  nodeCreated(node) {
    if (node.comfyClass !== "FD2TalkLoadMotion") return;
    const widget = node.widgets?.find((candidate) => candidate.name === "file");
    if (!widget) return;
    const picker = document.createElement("input");
    picker.type = "file";
    picker.accept = SUFFIXES.join(",");
    picker.addEventListener("change", async () => {
      if (picker.files.length) await upload(picker.files[0], node, widget);
      picker.value = ""; // so that the same file can be chosen again
    });
    const button = node.addWidget("button", "choose file to upload", null, () => picker.click());
    button.serialize = false;
    node.onDragOver = (event) => event?.dataTransfer?.types?.includes("Files") ?? false;
    node.onDragDrop = async (event) => {
      const [file] = event?.dataTransfer?.files ?? [];
      if (!file) return false;
      await upload(file, node, widget);
      return true;
    };
  },
});
