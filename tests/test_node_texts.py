"""Texts and promises of the nodes, from the files that tools/describe_nodes.py keeps: no ComfyUI needed.

tests/test_comfyui_nodes.py holds those files against the nodes themselves.
"""

from __future__ import annotations

import copy
import json
import re

import describe_nodes
import pytest
from describe_nodes import PACK, breaking_changes, lacking, load, snapshot_text, strings_in, texts_of, translated

SNAPSHOT = load(describe_nodes.SNAPSHOT)
ENGLISH = load(describe_nodes.ENGLISH)
LANGUAGES = [(language, load(source), load(target)) for language, (source, target) in describe_nodes.TRANSLATED.items()]
NODES = sorted(SNAPSHOT)


def names(node: str, what: str) -> list[str]:
    return [item["name"] for item in SNAPSHOT[node][what]]


def help_page(node: str) -> str:
    return (PACK / f"web/docs/{node}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("node", NODES)
def test_every_text_of_a_node_has_an_entry(node):
    entry = ENGLISH[node]
    assert entry["display_name"] and entry["description"].endswith(".")
    assert [key.replace(".", "_") for key in names(node, "inputs")] == list(entry["inputs"])
    assert len(entry["outputs"]) == len(SNAPSHOT[node]["outputs"])
    for part in (*entry["inputs"].values(), *entry["outputs"].values()):
        assert part["name"] and part["tooltip"].endswith((".", "}")), part


@pytest.mark.parametrize(("language", "catalogue", "written"), LANGUAGES)
def test_translations_are_complete_and_none_is_stale(language, catalogue, written):
    missing, unused = lacking(ENGLISH, catalogue)
    assert not missing, f"tools/locales/{language}.json lacks {missing}"
    assert not unused, f"tools/locales/{language}.json translates what no node says any more: {unused}"
    assert written == translated(ENGLISH, catalogue), "run: python tools/describe_nodes.py --write"


@pytest.mark.parametrize(("language", "catalogue", "written"), LANGUAGES)
def test_translations_keep_numbers_and_are_translated(language, catalogue, written):
    digits = re.compile(r"\d+(?:\.\d+)?")
    for english, other in catalogue.items():
        lost = set(digits.findall(english)) - set(digits.findall(other))
        # "Stage 1" and the like are written out; everything that is a value must stay.
        assert lost <= set(digits.findall(" ".join(re.findall(r"[Ss]tage \d", english)))), (english, other, lost)
        assert not other.isascii() or english == "vae", f"{english!r} is not translated"


@pytest.mark.parametrize(("language", "catalogue", "written"), LANGUAGES)
def test_translated_tooltips_name_the_choices_as_the_page_shows_them(language, catalogue, written):
    """ComfyUI's page does not translate choices, so a tooltip must quote them in English."""
    for node in NODES:
        for item in SNAPSHOT[node]["inputs"]:
            tooltip = ENGLISH[node]["inputs"][item["name"]]["tooltip"]
            other = written[node]["inputs"][item["name"]]["tooltip"].lower()
            for choice in item.get("options", ()):
                if re.search(rf"\b{re.escape(choice.lower())}\b[:,]", tooltip.lower()):
                    assert choice.lower() in other, f"{node}.{item['name']} in {language} does not name {choice!r}"


def test_names_are_unique_within_a_node_in_every_language():
    for texts in (ENGLISH, *(written for *_, written in LANGUAGES)):
        for node, entry in texts.items():
            shown = [part["name"] for part in entry["inputs"].values()]
            assert len(set(shown)) == len(shown), f"{node}: two inputs have the same name in {shown}"
        display_names = [entry["display_name"] for entry in texts.values()]
        assert len(set(display_names)) == len(display_names)


@pytest.mark.parametrize("node", NODES)
def test_help_page_tells_purpose_inputs_outputs_and_an_example(node):
    page = help_page(node)
    assert page.startswith(f"# {ENGLISH[node]['display_name']}\n\n")
    inputs, separator, outputs = page.partition("| Output |")
    assert separator and "| Input |" in inputs, "both tables"
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| ")]
    listed = {name.strip(" `") for row in rows for name in re.split(r",|…", row)}
    for name in (*names(node, "inputs"), *names(node, "outputs")):
        # The controls of Edit Motion are one row, from the first to the last.
        assert name in listed or (node == "FD2TalkEditMotion" and SHORTENED in page and name in CONTROLS), name
    assert "\n**Example" in page, "no example"


SHORTENED = "| jaw_open … lower_lip_down |"
EDIT = names("FD2TalkEditMotion", "inputs")
CONTROLS = EDIT[EDIT.index("jaw_open") : EDIT.index("lower_lip_down") + 1]


def test_help_pages_belong_to_nodes_and_their_pictures_exist():
    pages = sorted((PACK / "web/docs").glob("*.md"))
    assert [page.stem for page in pages] == NODES
    for page in pages:
        for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            file = page.parent / picture
            assert file.is_file() and file.stat().st_size < 200_000, f"{page.name}: {picture}"


def test_readme_names_every_node_and_every_workflow_with_its_picture():
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    for entry in ENGLISH.values():
        assert f"**{entry['display_name']}**" in readme, entry["display_name"]
    for workflow in (PACK / "workflows").glob("*.json"):
        assert workflow.stem in readme and workflow.with_suffix(".jpg").name.replace(" ", "%20") in readme, workflow
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme) + re.findall(r'src="([^"]+)"', readme):
        assert (PACK / picture.replace("%20", " ")).is_file(), picture


def test_workflows_use_nodes_and_inputs_that_exist():
    for path in (PACK / "workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"].startswith("FD2Talk"):
                used = [slot["name"] for slot in node["inputs"]]
                assert set(used) <= set(names(node["type"], "inputs")), (path.name, node["type"])


def changed(edit) -> list[str]:
    new = copy.deepcopy(SNAPSHOT)
    edit(new)
    return breaking_changes(SNAPSHOT, new)


def inputs(snapshot: dict, node: str = "FD2TalkSampleFrames") -> list[dict]:
    return snapshot[node]["inputs"]


NEW = {"name": "sharpness", "type": "FLOAT", "required": False, "default": 0.0}


@pytest.mark.parametrize(
    "edit",
    [
        lambda new: new.pop("FD2TalkPasteBack"),
        lambda new: inputs(new)[4].update(name="sampling_steps"),
        lambda new: inputs(new).pop(),
        lambda new: inputs(new).insert(2, NEW),
        lambda new: inputs(new).reverse(),
        lambda new: inputs(new)[4].update(type="FLOAT"),
        lambda new: inputs(new)[4].update(default=8),
        lambda new: inputs(new)[4].update(max=10),
        lambda new: inputs(new)[4].update(min=2),
        lambda new: inputs(new)[-1]["options"].remove("stay"),
        lambda new: inputs(new).append({**NEW, "required": True}),
        lambda new: new["FD2TalkSampleFrames"]["outputs"].insert(0, {"name": "latents", "type": "LATENT"}),
        lambda new: new["FD2TalkSampleFrames"]["outputs"][0].update(type="LATENT"),
    ],
)
def test_changes_that_break_saved_workflows_are_found(edit):
    assert len(changed(edit)) == 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda new: inputs(new).append(NEW),
        lambda new: inputs(new)[4].update(max=100),
        lambda new: inputs(new)[-1]["options"].append("half"),
        lambda new: inputs(new)[5].update(advanced=False),
        lambda new: new.update(FD2TalkNew={"inputs": [], "outputs": [], "hidden": [], "output_node": True}),
        lambda new: new["FD2TalkSampleFrames"]["outputs"].append({"name": "audio", "type": "AUDIO"}),
    ],
)
def test_changes_that_old_workflows_survive_are_allowed(edit):
    assert changed(edit) == []


def test_what_is_written_reads_back_and_texts_are_gathered():
    assert json.loads(snapshot_text(SNAPSHOT)) == SNAPSHOT
    info = {
        "X": {
            "display_name": "Show X",
            "description": "Shows it.",
            "input": {"required": {"size.side": ["INT", {"tooltip": "Side."}]}, "optional": {"mask": ["MASK"]}},
            "output_name": ["image"],
            "output_tooltips": ["The picture."],
            "output": ["IMAGE"],
        }
    }
    texts = texts_of(info)
    assert texts["X"]["inputs"] == {"size_side": {"name": "size.side", "tooltip": "Side."}, "mask": {"name": "mask"}}
    assert strings_in(texts) == ["Show X", "Shows it.", "size.side", "Side.", "mask", "image", "The picture."]
    half = {"Show X": "显示 X", "Side.": "边长。", "gone": "没有"}
    assert translated(texts, half)["X"]["inputs"] == {"size_side": {"tooltip": "边长。"}}
    assert lacking(texts, half) == (["Shows it.", "size.side", "mask", "image", "The picture."], ["gone"])
