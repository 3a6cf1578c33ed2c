"""What the pack promises to workflows and shows to users, read from the node classes in ComfyUI's own interpreter.

    python tools/describe_nodes.py            # say what is out of date or not translated; exit code 1 if anything is
    python tools/describe_nodes.py --write    # bring the files up to date, on purpose

tests/object_info.json: ids, inputs in their order with types, defaults and choices, outputs. Workflows depend on it.
locales/en/nodeDefs.json: every text of every node, as ComfyUI's page looks it up.
locales/zh/nodeDefs.json: the same in Chinese, from tools/locales/zh.json, which maps English texts to Chinese ones.

A change that would break saved workflows (something removed, renamed, of another type or default, or an input that is
not added at the end) is only written with --breaking. COMFYUI_DIR and COMFYUI_PYTHON as for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACK = Path(__file__).parents[1]
COMFYUI_DIR = Path(os.environ.get("COMFYUI_DIR") or Path.home() / "comfy/ComfyUI")
COMFYUI_PYTHON = Path(os.environ.get("COMFYUI_PYTHON") or Path.home() / "comfy/venv/bin/python")

SNAPSHOT = PACK / "tests/object_info.json"
ENGLISH = PACK / "locales/en/nodeDefs.json"
TRANSLATED = {"zh": (PACK / "tools/locales/zh.json", PACK / "locales/zh/nodeDefs.json")}

# What an option of an input means to a workflow; texts are kept in locales/ and may change freely.
PROMISED = ("default", "min", "max", "step", "options", "multiline", "advanced", "forceInput", "control_after_generate")

# Run by ComfyUI's interpreter. The base folder is empty, so that lists of files come out the same everywhere.
READ_NODES = """
import asyncio, json, sys
base, pack = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--disable-api-nodes", "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server, execution
before = set(nodes.NODE_CLASS_MAPPINGS)
assert asyncio.run(nodes.load_custom_node(pack)), "the pack does not load"
ours = {key: nodes.NODE_CLASS_MAPPINGS[key] for key in nodes.NODE_CLASS_MAPPINGS if key not in before}
print("NODES " + json.dumps({key: cls.GET_NODE_INFO_V1() for key, cls in ours.items()}))
"""


def read_nodes(pack: Path = PACK) -> dict[str, dict]:
    """/object_info of the pack's nodes, in the order of nodes/__init__.py. Raises RuntimeError if it does not load."""
    with tempfile.TemporaryDirectory() as base:
        for name in ("custom_nodes", "input", "output", "models"):
            (Path(base) / name).mkdir()
        done = subprocess.run(
            [COMFYUI_PYTHON, "-c", READ_NODES, base, str(pack)],
            cwd=COMFYUI_DIR,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("NODES ")]
    if not lines:
        raise RuntimeError(f"ComfyUI in {COMFYUI_DIR} could not read the nodes:\n{done.stderr[-3000:]}")
    return json.loads(lines[0].removeprefix("NODES "))


def inputs_of(info: dict) -> dict[str, list]:
    """Name -> [type, options] of one node's inputs, in the order in which the page shows them."""
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def snapshot_of(info: dict[str, dict]) -> dict[str, dict]:
    """What workflows depend on, from /object_info: per node its inputs in order, and its outputs."""
    nodes = {}
    for key, node in info.items():
        required = node["input"].get("required", {})
        inputs = []
        for name, (kind, *rest) in inputs_of(node).items():
            options = rest[0] if rest else {}
            promised = {option: options[option] for option in PROMISED if options.get(option) is not None}
            inputs.append({"name": name, "type": kind, "required": name in required, **promised})
        outputs = [{"name": name, "type": kind} for name, kind in zip(node["output_name"], node["output"], strict=True)]
        hidden = sorted(node["input"].get("hidden", {}))
        nodes[key] = {"inputs": inputs, "outputs": outputs, "hidden": hidden, "output_node": node["output_node"]}
    return nodes


def breaking_changes(old: dict[str, dict], new: dict[str, dict]) -> list[str]:
    """What in `new` would break or change a workflow that was saved with `old`, one sentence each."""
    found = []
    for key, before in old.items():
        if key not in new:
            found.append(f"{key} is gone.")
            continue
        for what in ("inputs", "outputs"):
            was, now = before[what], new[key][what]
            names, kept = [item["name"] for item in was], [item["name"] for item in now[: len(was)]]
            if names != kept:
                found.append(f"{key}: {what} began with {names}, and now with {kept}; new ones go to the end.")
                continue
            for one, other in zip(was, now, strict=False):
                for field in ("type", "default"):
                    if one.get(field) != other.get(field):
                        found.append(f"{key}.{one['name']}: {field} was {one.get(field)}, is {other.get(field)}.")
                if gone := [choice for choice in one.get("options", ()) if choice not in other.get("options", ())]:
                    found.append(f"{key}.{one['name']}: no longer offers {gone}.")
                if other.get("min", 0) > one.get("min", 0) or other.get("max", 0) < one.get("max", 0):
                    found.append(f"{key}.{one['name']}: the range became smaller.")
        for item in new[key]["inputs"][len(before["inputs"]) :]:
            if item["required"]:
                found.append(f"{key}.{item['name']} is new and must be optional, or old workflows lack it.")
    return found


def texts_of(info: dict[str, dict]) -> dict[str, dict]:
    """nodeDefs.json in English: display name, description, name and tooltip of every input and output."""
    texts = {}
    for key, node in info.items():
        inputs = {}
        for name, (_, *rest) in inputs_of(node).items():
            options = rest[0] if rest else {}
            # The page replaces dots in keys by underscores, because dots separate its keys.
            inputs[name.replace(".", "_")] = text(options.get("display_name") or name, options.get("tooltip"))
        named = zip(node["output_name"], node["output_tooltips"] or [None] * len(node["output"]), strict=True)
        outputs = {str(index): text(name, tooltip) for index, (name, tooltip) in enumerate(named)}
        texts[key] = {"display_name": node["display_name"], "description": node["description"]}
        texts[key] |= {"inputs": inputs, "outputs": outputs}
    return texts


def text(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def strings_in(texts: dict) -> list[str]:
    """Every different text, in the order of the nodes."""
    found = {}
    for value in texts.values():
        found.update(dict.fromkeys(strings_in(value) if isinstance(value, dict) else [value]))
    return list(found)


def translated(texts: dict, catalogue: dict[str, str]) -> dict:
    """`texts` in another language; what the catalogue lacks is left out, and the page shows the English."""
    result = {}
    for key, value in texts.items():
        value = translated(value, catalogue) if isinstance(value, dict) else catalogue.get(value)
        if value:
            result[key] = value
    return result


def lacking(texts: dict, catalogue: dict[str, str]) -> tuple[list[str], list[str]]:
    """English texts without a translation, and translations of texts that no node has any more."""
    needed = strings_in(texts)
    return [text for text in needed if not catalogue.get(text)], [text for text in catalogue if text not in needed]


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def snapshot_text(snapshot: dict[str, dict]) -> str:
    """JSON with one line per input and output, so that a change is one line of a diff."""
    nodes = []
    for key, node in snapshot.items():
        parts = []
        for name, value in node.items():
            lines = ",\n".join(f"      {json.dumps(item)}" for item in value) if isinstance(value, list) else ""
            parts.append(f"    {json.dumps(name)}: " + (f"[\n{lines}\n    ]" if lines else json.dumps(value)))
        nodes.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(parts) + "\n  }")
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def texts_text(texts: dict) -> str:
    return json.dumps(texts, ensure_ascii=False, indent=1) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the files that are out of date")
    parser.add_argument("--breaking", action="store_true", help="with --write: also what breaks saved workflows")
    arguments = parser.parse_args()

    info = read_nodes()
    snapshot, texts = snapshot_of(info), texts_of(info)
    files = {SNAPSHOT: snapshot_text(snapshot), ENGLISH: texts_text(texts)}
    untranslated = []
    for language, (source, target) in TRANSLATED.items():
        catalogue = load(source)
        files[target] = texts_text(translated(texts, catalogue))
        missing, unused = lacking(texts, catalogue)
        untranslated += [f"{source.relative_to(PACK)} lacks: {json.dumps(text)}" for text in missing]
        untranslated += [f"{language} text of something no node says any more: {json.dumps(text)}" for text in unused]
    stale = {path: text for path, text in files.items() if load(path) != json.loads(text)}
    breaking = breaking_changes(load(SNAPSHOT), snapshot)

    for line in untranslated:
        print(line)
    for sentence in breaking:
        print(f"breaks saved workflows: {sentence}")
    if breaking and arguments.write and not arguments.breaking:
        print("Nothing was written. Keep old workflows working, or add --breaking.")
        return 1
    for path, text in stale.items():
        if arguments.write:
            save(path, text)
        print(f"{'written' if arguments.write else 'out of date'}: {path.relative_to(PACK)}")
    return bool(untranslated or (stale and not arguments.write))


if __name__ == "__main__":
    sys.exit(main())
