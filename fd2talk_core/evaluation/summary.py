"""What is done with the rows of a part: means by group, tables, JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import UserError

# Parts with many numbers are drawn with a row per number.
TALL = {"motion", "retrack", "frames", "commanded"}
# Parts whose every clip is drawn, with these numbers.
CLIP_COLUMNS = {
    "frames": (
        "mouth_l1_ratio",
        "eye_l1_ratio",
        "psnr_gain",
        "ms_ssim_gain",
        "gmsd_gain",
        "mouth_sharpness",
        "eye_sharpness",
        "flicker_ratio",
    ),
    "commanded": ("mouth_correlation", "eye_correlation", "pose_error", "face_lost"),
    "drift": ("psnr", "same_place_psnr", "other_place_psnr", "batch_of_1_psnr"),
    "out-of-domain": ("face_found", "mouth_correlation", "colour_shift", "chroma_shift", "structure_ms_ssim"),
}
COLUMNS = {
    "tracker": ("nme", "nme_worst"),
    "detector": ("recall", "extra_faces"),
    "motion": (
        "correlation",
        "best_correlation",
        "best_lag",
        "lag_within_1",
        "vs_first",
        "vs_mean",
        "range_ratio",
        "lip_jitter_ratio",
        "blinks_per_minute",
        "real_blinks_per_minute",
        "pitch_std",
        "real_pitch_std",
        "yaw_std",
        "real_yaw_std",
        "roll_std",
        "real_roll_std",
        "pose_spread_ratio",
        "seed_difference",
        "seed_difference_ratio",
        "pose_speed",
        "real_pose_speed",
        "pose_jitter_ratio",
        "x_real_time",
    ),
    "lip-expert": (
        "clip_offset_1",
        "offsets_tried",
        "windows",
        "second_offset_1",
        "second_offsets_tried",
        "clip_of_32",
        "crowd",
    ),
    "retrack": (
        "correlation",
        "best_correlation",
        "best_lag",
        "lag_within_1",
        "asked_correlation",
        "vs_first",
        "vs_mean",
        "range_ratio",
        "opening_jitter_ratio",
        "lip_jitter_ratio",
        "pose_jitter_ratio",
        "blinks_per_minute",
        "asked_blinks_per_minute",
        "real_blinks_per_minute",
        "face_lost",
    ),
    "speech": (
        "activity_correlation",
        "worst_activity_correlation",
        "opening_correlation",
        "follows",
        "worst_follows",
        "opening_in_speech",
        "opening_in_pauses",
        "closing_frames",
        "blinks_per_minute",
        "longest_stare",
        "pose_spread",
        "strength",
        "collapsed",
    ),
    "frames": (
        "mouth_l1_ratio",
        "mouth_l1",
        "geometry_mouth_l1",
        "still_mouth_l1",
        "eye_l1_ratio",
        "eye_l1",
        "geometry_eye_l1",
        "still_eye_l1",
        "face_psnr",
        "geometry_face_psnr",
        "psnr",
        "geometry_psnr",
        "ms_ssim",
        "geometry_ms_ssim",
        "gmsd",
        "geometry_gmsd",
        "mouth_sharpness",
        "geometry_mouth_sharpness",
        "eye_sharpness",
        "geometry_eye_sharpness",
        "flicker",
        "real_flicker",
        "flicker_ratio",
        "lpips",
        "csim",
        "real_csim",
        "frames_per_second",
    ),
    "commanded": (
        "mouth_correlation",
        "real_mouth_correlation",
        "eye_correlation",
        "real_eye_correlation",
        "pose_error",
        "real_pose_error",
        "face_lost",
        "real_face_lost",
    ),
    "out-of-domain": (
        "face_found",
        "mouth_correlation",
        "colour_shift",
        "geometry_colour_shift",
        "chroma_shift",
        "geometry_chroma_shift",
        "colour_spread_shift",
        "structure_ms_ssim",
        "structure_gmsd",
    ),
    "ablation": ("mouth_l1_ratio", "eye_l1_ratio", "psnr_gain", "ms_ssim", "gmsd", "mouth_sharpness", "eye_sharpness"),
}


def summarise(rows: list[dict], group: str | None = "kind") -> dict[str, dict]:
    """Means of every number over all rows and over each group; `best_lag` gives its median too."""
    groups: dict[str, list[dict]] = {"all": rows}
    if group:
        for row in rows:
            if row.get(group):
                groups.setdefault(row[group], []).append(row)
    result = {}
    for name, members in groups.items():
        means = {"clips": len(members)}
        for key in dict.fromkeys(key for row in members for key in row):
            values = [row[key] for row in members if isinstance(row.get(key), int | float)]
            if values:
                means[key] = float(np.mean(values))
        lags = [row["best_lag"] for row in members if "best_lag" in row]
        if lags:
            means["best_lag"] = float(np.median(lags))
            means["lag_within_1"] = float(np.mean(np.abs(lags) <= 1))
        result[name] = means
    return result


def _without_nan(value):
    """The same JSON value with null for numbers that are not defined."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: dict) -> None:
    """Write a result. Raises UserError when the place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_without_nan(content), indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"The file {path} cannot be written ({error.strerror}). Choose another place.") from error


def _text(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"


def tables(result: dict) -> list[Table]:
    """One rich table per part of `evaluate`'s result: a row per group, or where there are many numbers, a column."""
    made = []
    for part, content in result["parts"].items():
        table = Table(title=part, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        if "error" in content:
            table.add_column("not measured")
            table.add_row(content["error"])
            made.append(table)
            continue
        summary = content["summary"]
        present = list(dict.fromkeys(key for means in summary.values() for key in means))
        columns = [key for key in COLUMNS.get(part, ()) if key in present]
        columns = columns or [key for key in present if key not in ("clips", "frames")]
        cells = [[str(means["clips"]), *(_text(means.get(key)) for key in columns)] for means in summary.values()]
        heads, titles = ["clips", *(key.replace("_", " ") for key in columns)], list(summary)
        if part in TALL:
            cells, heads, titles = [list(row) for row in zip(*cells, strict=True)], titles, heads
        table.add_column("number" if part in TALL else "group", no_wrap=True)
        for head in heads:
            table.add_column(head, justify="right")
        for title, row in zip(titles, cells, strict=True):
            table.add_row(title, *row)
        made.append(table)
        made += _details(part, content)
    return made


def _goals_table(part: str, content: dict) -> Table:
    table = Table(title=f"{part}: goals", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("number", no_wrap=True)
    for head in ("goal", "mean of clips", "ratio of sums", "reached", "clips that pass"):
        table.add_column(head, justify="right")
    for key, found in content["goals"].items():
        reached, passed = "yes" if found["reached"] else "no", f"{found['clips_passed']} of {found['clips']}"
        numbers = (_text(found["mean"]), _text(found["ratio_of_sums"]))
        table.add_row(key.replace("_", " "), found["goal"], *numbers, reached, passed)
    return table


def _clips_table(part: str, content: dict) -> Table:
    columns = [key for key in CLIP_COLUMNS[part] if any(row.get(key) is not None for row in content["rows"])]
    table = Table(title=f"{part}: clips", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("clip", overflow="fold")
    for key in columns:
        table.add_column(key.replace("_", " "), justify="right")
    for row in content["rows"]:
        table.add_row(row["clip"], *(_text(row.get(key)) for key in columns))
    return table


def _learned_table(part: str, content: dict) -> Table:
    table = Table(title=f"{part}: by other networks", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("measure")
    table.add_column("result")
    for key, value in content["learned"].items():
        table.add_row(key, value if isinstance(value, str) else _text(value))
    return table


def _details(part: str, content: dict) -> list[Table]:
    """Tables under a part's summary: its goals, every clip, and what other people's networks say."""
    found = [_goals_table(part, content)] if content.get("goals") else []
    if part in CLIP_COLUMNS and content.get("rows"):
        found.append(_clips_table(part, content))
    return found + ([_learned_table(part, content)] if content.get("learned") else [])


def show(result: dict, console: Console | None = None) -> None:
    """Draw `evaluate`'s result as tables on a console, the terminal by default."""
    console = console or Console()
    for table in tables(result):
        console.print(table)
