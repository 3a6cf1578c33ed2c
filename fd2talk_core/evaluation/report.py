"""`fd2talk evaluate`: every quality of the shipped networks on a folder of clips, as tables and JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..face.model import FaceModel
from ..face.tracker import FaceTracker
from ..prepare.run import prepare
from ..training.data import Clip, is_held_back, list_clips
from ..video.reading import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from .parts import TinyCoder, evaluate_autoencoder, evaluate_motion, evaluate_tracker

log = logging.getLogger(__name__)

PARTS = ("tracker", "detector", "autoencoder", "motion", "frames")
COLUMNS = {
    "tracker": ("nme", "nme_worst"),
    "detector": ("recall", "extra_faces"),
    "motion": ("correlation", "best_correlation", "best_lag", "mae", "still_mae", "range_ratio", "yaw_std_degrees"),
    "frames": (
        "mouth_l1_ratio",
        "mouth_l1",
        "geometry_mouth_l1",
        "still_mouth_l1",
        "face_psnr",
        "geometry_face_psnr",
        "psnr",
        "geometry_psnr",
        "mouth_sharpness",
        "geometry_mouth_sharpness",
        "frames_per_second",
    ),
}


def _cache_folder(folder: Path) -> Path:
    """Where a folder's prepared clips are kept: changes with its files' names, sizes and times."""
    suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    content = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(json.dumps([str(folder.resolve()), content]).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fd2talk" / "prepared" / digest


def find_clips(
    folder: Path, landmarker: Path | None = None, only_held_back: bool = True
) -> tuple[list[Clip], list[Clip]]:
    """Clips of a folder, and those of them that show people whom training never saw.

    A folder of plain videos and stills is prepared into the user's cache first; nobody trained on it, so all of it
    is used. Of a prepared folder only the clips held back from training are, unless it holds none or
    `only_held_back` is False.
    """
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist. Give a folder of clips, prepared or not.")
    if not (folder / "manifest.csv").is_file():
        if landmarker is None:
            raise UserError(
                f"The folder {folder} is not prepared. Pass --landmarker with a MediaPipe face_landmarker .task file, "
                "or run `fd2talk prepare` first."
            )
        target = _cache_folder(folder)
        if not (target / "manifest.csv").is_file():
            log.info("preparing %s into %s", folder, target)
            prepare(folder, target, landmarker)
        clips = list_clips(target)
        return clips, clips
    clips = list_clips(folder)
    held_back = [clip for clip in clips if clip.held_back]
    if only_held_back and held_back:
        clips = held_back
    elif only_held_back:
        log.warning("%s holds no clips that were held back from training; all are used", folder)
    # The sentences of a talker with many clips are held back one by one: the face was seen, the sentence was not.
    return clips, [clip for clip in clips if clip.held_back and is_held_back(clip.identity)]


def spread(items: list, limit: int | None) -> list:
    """At most `limit` items, evenly spread over the list."""
    if limit is None or len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).astype(int)]


def spread_by_identity(clips: list[Clip], limit: int | None) -> list[Clip]:
    """At most `limit` clips, and of each identity at most a third of them, so that one talker cannot fill the table."""
    if limit is None:
        return clips
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.identity, []).append(clip)
    share = max(1, limit // 3) if len(groups) > 1 else limit
    return spread([clip for group in groups.values() for clip in spread(group, share)], limit)


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


def _result(rows: list[dict], group: str | None = "kind") -> dict:
    if not rows:
        return {"error": "no clip here fits this measure"}
    return {"summary": summarise(rows, group), "rows": rows}


class _Evaluation:
    """One method per part; networks are loaded when first needed and shared."""

    def __init__(
        self,
        clips: list[Clip],
        new_people: list[Clip],
        limit: int | None,
        taef1: Path | None,
        steps: int,
        frames_per_clip: int,
    ):
        self.clips, self.new_people = clips, new_people or clips
        self.limit, self.taef1, self.steps, self.frames_per_clip = limit, taef1, steps, frames_per_clip
        self._tracker_rows: list[dict] | None = None

    def tracker_rows(self) -> list[dict]:
        if self._tracker_rows is None:
            chosen = spread(self.new_people, self.limit)
            self._tracker_rows = evaluate_tracker(chosen, FaceTracker.load())
        return self._tracker_rows

    def tracker(self) -> dict:
        keys = ("clip", "kind", "frames", "nme", "nme_worst")
        return _result([{key: row[key] for key in keys} for row in self.tracker_rows()])

    def detector(self) -> dict:
        keys = ("clip", "kind", "frames", "recall", "extra_faces")
        return _result([{key: row[key] for key in keys} for row in self.tracker_rows()])

    def autoencoder(self) -> dict:
        from ..frames.autoencoder import Autoencoder

        coders = {"ours": Autoencoder.load()}
        if self.taef1:
            coders["taef1"] = TinyCoder.load(self.taef1)
        return _result(evaluate_autoencoder(spread(self.new_people, self.limit), coders))

    def motion(self) -> dict:
        from ..motion.model import MotionModel

        voiced = [clip for clip in self.clips if not clip.still and clip.synced]
        rows = evaluate_motion(spread_by_identity(voiced, self.limit), MotionModel.load().eval(), FaceModel.load())
        new = {clip.name for clip in self.new_people}
        for row in rows:
            row["talker"] = "new talkers" if row["clip"] in new else "talker of the training, new sentences"
        return _result(rows, "talker")

    def frames(self) -> dict:
        from ..frames.model import FrameModel
        from .reenactment import evaluate_frames

        moving = [clip for clip in self.new_people if not clip.still] or [c for c in self.clips if not c.still]
        rows = evaluate_frames(
            spread(moving, self.limit), FrameModel.load().eval(), FaceModel.load(), self.frames_per_clip, self.steps
        )
        return _result(rows, None)


def evaluate(
    folder: str | Path,
    parts: Sequence[str] = PARTS,
    *,
    landmarker: str | Path | None = None,
    limit: int | None = None,
    only_held_back: bool = True,
    out_json: str | Path | None = None,
    taef1: str | Path | None = None,
    steps: int = 2,
    frames_per_clip: int = 50,
) -> dict:
    """Measure the shipped networks on a folder of clips.

    Args:
        folder: prepared by `fd2talk prepare`, or plain videos and stills (then prepared into the user's cache).
        parts: some of tracker, detector, autoencoder, motion, frames.
        landmarker: MediaPipe .task file, needed for a folder that is not prepared.
        limit: at most so many clips per part, evenly spread.
        only_held_back: of a prepared folder, use only what training did not see.
        out_json: where to write the result.
        taef1: folder with taef1_encoder.safetensors and taef1_decoder.safetensors, to compare the autoencoder with.
        steps, frames_per_clip: of stage 2.

    Returns {"folder", "clips", "parts": {part: {"summary": {group: means}, "rows": [...]} or {"error": text}}}.
    A part whose weights are missing tells so under "error"; the others are still measured.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise UserError(f"There is no part called '{sorted(unknown)[0]}'. Choose from: {', '.join(PARTS)}.")
    clips, new_people = find_clips(Path(folder), Path(landmarker) if landmarker else None, only_held_back)
    evaluation = _Evaluation(clips, new_people, limit, Path(taef1) if taef1 else None, steps, frames_per_clip)
    result = {"folder": str(folder), "clips": len(clips), "parts": {}}
    for part in (name for name in PARTS if name in parts):
        try:
            result["parts"][part] = getattr(evaluation, part)()
        except UserError as error:
            log.warning("%s: %s", part, error)
            result["parts"][part] = {"error": str(error)}
    if out_json:
        write_json(Path(out_json), result)
    return result


def write_json(path: Path, content: dict) -> None:
    """Write a result. Raises UserError when the place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"The file {path} cannot be written ({error.strerror}). Choose another place.") from error


def tables(result: dict) -> list[Table]:
    """One rich table per part of `evaluate`'s result: a row for all clips and for each group."""
    made = []
    for part, content in result["parts"].items():
        table = Table(title=part, title_justify="left")
        if "error" in content:
            table.add_column("not measured")
            table.add_row(content["error"])
        else:
            first = content["summary"]["all"]
            columns = [key for key in COLUMNS.get(part, ()) if key in first]
            columns = columns or [key for key in first if key not in ("clips", "frames")]
            table.add_column("group")
            table.add_column("clips", justify="right")
            for key in columns:
                table.add_column(key.replace("_", " "), justify="right")
            for group, means in content["summary"].items():
                values = [f"{means[key]:.4g}" if key in means else "" for key in columns]
                table.add_row(group, str(means["clips"]), *values)
        made.append(table)
    return made


def show(result: dict, console: Console | None = None) -> None:
    """Draw `evaluate`'s result as tables on a console, the terminal by default."""
    console = console or Console()
    for table in tables(result):
        console.print(table)
