"""`fd2talk evaluate`: every quality of the shipped networks on a folder of clips, as tables and JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..face.model import FaceModel
from ..face.tracker import FaceTracker
from ..prepare.run import prepare
from ..training.data import Clip, is_held_back, list_clips
from ..training.shared_sound import heard_when_held_back, shared_sound
from ..video.reading import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from .goals import judge
from .motion import SEEDS, dominant_identities, evaluate_motion, load_baseline, summarise_motion, voiced
from .parts import TinyCoder, evaluate_autoencoder, evaluate_tracker
from .summary import show, summarise, tables, write_json

log = logging.getLogger(__name__)

__all__ = ["evaluate", "find_clips", "show", "tables", "write_json"]

PARTS = (
    "tracker", "detector", "autoencoder", "motion", "lip-expert", "frames", "commanded", "drift", "out-of-domain",
    "ablation", "retrack", "speech",
)  # fmt: skip
USUAL_PARTS = ("tracker", "detector", "autoencoder", "motion", "lip-expert", "frames")


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


def _result(rows: list[dict], group: str | None = "kind", part: str = "") -> dict:
    """Rows with their summary; of a part that has goals, also these."""
    if not rows:
        return {"error": "no clip here fits this measure"}
    goals = judge(part, rows)
    return {"summary": summarise(rows, group), "rows": rows} | ({"goals": goals} if goals else {})


@dataclass
class _Options:
    """What `evaluate` passes on to its parts; the names are its arguments'."""

    limit: int | None = None
    taef1: Path | None = None
    steps: int = 2
    frames_per_clip: int = 50
    seeds: int = SEEDS
    baseline: Path | None = None
    babble_db: float | None = None
    landmarker: Path | None = None
    motion: Path | None = None
    lip_expert: Path | None = None
    sheets: Path | None = None
    identity_model: Path | None = None
    variants: dict[str, Path] = field(default_factory=dict)


class _Evaluation:
    """One method per part; clips and networks are loaded when first needed and shared."""

    def __init__(self, folder: Path, only_held_back: bool, options: _Options):
        self.folder, self.only_held_back, self.options = folder, only_held_back, options
        self.limit = options.limit
        self._tracker_rows: list[dict] | None = None

    @cached_property
    def _found(self) -> tuple[list[Clip], list[Clip]]:
        return find_clips(self.folder, self.options.landmarker, self.only_held_back)

    @property
    def clips(self) -> list[Clip]:
        return self._found[0]

    @property
    def new_people(self) -> list[Clip]:
        return self._found[1] or self._found[0]

    @cached_property
    def everything(self) -> list[Clip]:
        """All clips of a prepared folder, held back or not."""
        return list_clips(self.folder) if (self.folder / "manifest.csv").is_file() else self.clips

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
        if self.options.taef1:
            coders["taef1"] = TinyCoder.load(self.options.taef1)
        return _result(evaluate_autoencoder(spread(self.new_people, self.limit), coders))

    def _talking(self) -> list[Clip]:
        return spread_by_identity([clip for clip in self.clips if voiced(clip)], self.limit)

    @cached_property
    def talkers(self) -> dict:
        """What the parts on talking clips need to group them: dominant identities, and whose sound training heard."""
        few = dominant_identities(self.everything)
        held = [clip for clip in self.clips if clip.held_back and voiced(clip) and clip.identity not in few]
        left_out = heard_when_held_back(self.everything)
        training = [c for c in self.everything if not c.held_back and voiced(c) and c.name not in left_out]
        return {"dominant": few, "heard": shared_sound(held, training) if held and training else {}}

    def motion(self) -> dict:
        from ..motion.model import MotionModel

        rows = evaluate_motion(
            self._talking(),
            MotionModel.load(self.options.motion).eval(),
            FaceModel.load(),
            seeds=self.options.seeds,
            baseline=load_baseline(self.options.baseline),
            **self.talkers,
        )
        return {"summary": summarise_motion(rows), "rows": rows} if rows else _result(rows)

    def lip_expert(self) -> dict:
        from ..motion.lip_expert import LipExpert
        from .lip_expert import evaluate_lip_expert

        expert = LipExpert.load(self.options.lip_expert)
        return evaluate_lip_expert(self._talking(), expert, FaceModel.load(), **self.talkers)

    @cached_property
    def _frame_models(self) -> tuple:
        """Stage 2 and the face model it speaks."""
        from ..frames.model import FrameModel

        return FrameModel.load().eval(), FaceModel.load()

    def _moving(self, limit: int | None) -> list[Clip]:
        moving = [clip for clip in self.new_people if not clip.still] or [c for c in self.clips if not c.still]
        return spread(moving, limit)

    def frames(self) -> dict:
        from .learned import LearnedMeasures
        from .reenactment import evaluate_frames

        learned = LearnedMeasures(self.options.identity_model)
        count, steps = self.options.frames_per_clip, self.options.steps
        rows = evaluate_frames(
            self._moving(self.limit), *self._frame_models, count, steps, learned=learned, sheets=self.options.sheets
        )
        return _result(rows, None, "frames") | {"learned": learned.summary()}

    def commanded(self) -> dict:
        from .commanded import evaluate_commanded

        rows = evaluate_commanded(
            self._moving(self.limit), self.options.landmarker, *self._frame_models,
            frames=self.options.frames_per_clip, steps=self.options.steps,
        )  # fmt: skip
        return _result(rows, None, "commanded")

    def drift(self) -> dict:
        from .drift import CLIPS, evaluate_drift

        clips = self._moving(self.limit or CLIPS)
        return _result(evaluate_drift(clips, *self._frame_models, self.options.steps), None, "drift")

    def out_of_domain(self) -> dict:
        from .out_of_domain import choose_pictures, evaluate_out_of_domain

        # Stage 2 saw some of the stills, as pairs without motion; rows say which are held back.
        rows = evaluate_out_of_domain(
            choose_pictures(self.everything, self.limit), *self._frame_models, FaceTracker.load(),
            self.options.steps, sheets=self.options.sheets,
        )  # fmt: skip
        return _result(rows)

    def ablation(self) -> dict:
        from .ablation import evaluate_ablation

        options = self.options
        rows = evaluate_ablation(
            self._moving(self.limit), *self._frame_models, options.frames_per_clip, options.variants
        )  # fmt: skip
        return {"summary": {row["variant"]: row for row in rows}, "rows": rows}

    def retrack(self) -> dict:
        from .retrack import CLIPS, evaluate_retracked, summarise_retracked

        chosen = self._talking()
        rows = evaluate_retracked(
            chosen if self.limit else spread_by_identity(chosen, CLIPS),
            self.options.landmarker,
            FaceModel.load(),
            steps=self.options.steps,
            motion_weights=self.options.motion,
            **self.talkers,
        )
        return {"summary": summarise_retracked(rows), "rows": rows} if rows else _result(rows)

    def speech(self) -> dict:
        from ..motion.model import MotionModel
        from .speech import evaluate_speech, summarise_speech

        rows = evaluate_speech(
            self.folder,
            MotionModel.load(self.options.motion).eval(),
            FaceModel.load(),
            limit=self.limit,
            babble_db=self.options.babble_db,
        )
        return {"summary": summarise_speech(rows), "rows": rows}


def _path(value: str | Path | None) -> Path | None:
    return Path(value) if value else None


def evaluate(
    folder: str | Path,
    parts: Sequence[str] = USUAL_PARTS,
    *,
    landmarker: str | Path | None = None,
    limit: int | None = None,
    only_held_back: bool = True,
    out_json: str | Path | None = None,
    taef1: str | Path | None = None,
    steps: int = 2,
    frames_per_clip: int = 50,
    seeds: int = SEEDS,
    baseline: str | Path | None = None,
    babble_db: float | None = None,
    motion: str | Path | None = None,
    lip_expert: str | Path | None = None,
    sheets: str | Path | None = None,
    identity_model: str | Path | None = None,
    variants: dict[str, str | Path] | None = None,
) -> dict:
    """Measure the shipped networks on a folder of clips, or stage 1 on a folder of sound files.

    Args:
        folder: prepared by `fd2talk prepare`, or plain videos and stills (then prepared into the user's cache). For
            the part speech: sound files.
        parts: some of PARTS.
        landmarker: MediaPipe .task file, needed for a folder that is not prepared, and for commanded and retrack.
        limit: at most so many clips per part, evenly spread; of out-of-domain, so many of each kind.
        only_held_back: of a prepared folder, use only what training did not see.
        out_json: where to write the result.
        taef1: folder with taef1_encoder.safetensors and taef1_decoder.safetensors, to compare the autoencoder with.
        steps, frames_per_clip: of stage 2.
        seeds: motions per clip for the part motion; two or more tell how much they differ.
        baseline: regressor by `fd2talk train baseline`, to compare the part motion with.
        babble_db: for the part speech: also with other voices at this ratio of speech to noise, in dB.
        motion, lip_expert: weights to use instead of the shipped ones; the first for motion, speech and retrack.
        sheets: folder for a contact sheet per clip of the parts frames and out-of-domain.
        identity_model: TorchScript face embedding for CSIM in the part frames, see `LearnedMeasures`.
        variants: for the part ablation: frames weights that were trained otherwise, by their name in the table.

    Returns {"folder", "clips", "parts": {part: {"summary": {group: means}, "rows": [...]} or {"error": text}}}; parts
    with goals have "goals" as `judge` gives them, and frames has "learned", FID and why measures are missing.
    A part whose weights are missing tells so under "error"; the others are still measured.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise UserError(f"There is no part called '{sorted(unknown)[0]}'. Choose from: {', '.join(PARTS)}.")
    if not 1 <= seeds <= 100:
        raise UserError(f"The number of seeds is {seeds}. Use 1 to 100; 3 is usual.")
    options = _Options(
        limit=limit,
        taef1=_path(taef1),
        steps=steps,
        frames_per_clip=frames_per_clip,
        seeds=seeds,
        baseline=_path(baseline),
        babble_db=babble_db,
        landmarker=_path(landmarker),
        motion=_path(motion),
        lip_expert=_path(lip_expert),
        sheets=_path(sheets),
        identity_model=_path(identity_model),
        variants={name: Path(path) for name, path in (variants or {}).items()},
    )
    evaluation = _Evaluation(Path(folder), only_held_back, options)
    result = {"folder": str(folder), "clips": 0, "parts": {}}
    if set(parts) != {"speech"}:
        # A folder that cannot be used at all is told once, not once per part.
        result["clips"] = len(evaluation.clips)
    for part in (name for name in PARTS if name in parts):
        try:
            result["parts"][part] = getattr(evaluation, part.replace("-", "_"))()
        except UserError as error:
            log.warning("%s: %s", part, error)
            result["parts"][part] = {"error": str(error)}
    if out_json:
        write_json(Path(out_json), result)
    return result
