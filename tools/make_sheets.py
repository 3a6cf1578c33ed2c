"""Contact sheets for the documentation: `python tools/make_sheets.py docs/sheets [PREPARED_TALKING]`.

The demo portraits under a fixed motion; and, where the folder holds GRID clips (CC BY 4.0), one held-back sentence
beside the real frames.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fd2talk_core.evaluation.out_of_domain import probe_motion
from fd2talk_core.evaluation.reenactment import collect, evaluate_frames
from fd2talk_core.evaluation.sheets import save_sheet
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceTracker
from fd2talk_core.frames.appearance import encode_portrait
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.frames.sampling import geometry_only_frames, sample_frames
from fd2talk_core.training.data import list_clips
from fd2talk_core.video.reading import read_picture

ASSETS = Path(__file__).parents[1] / "assets"


@torch.inference_mode()
def main(out: Path, talking: Path | None) -> None:
    face_model, model, tracker = FaceModel.load(), FrameModel.load(), FaceTracker.load()
    for portrait in (ASSETS / "portrait.png", ASSETS / "portrait_stylised.png"):
        look = encode_portrait(read_picture(portrait), tracker, face_model)
        motion = probe_motion(face_model, look.beta)
        alpha = look.alpha.expand(len(motion), -1)
        at = face_model.landmarks(alpha, motion.expression, look.pose + motion.pose, look.size).numpy()
        ours = collect(sample_frames(model, face_model, look, motion))
        geometry = collect(geometry_only_frames(model, face_model, look, motion))
        shown = {"reference": look.crop[None].expand_as(ours), "geometry only": geometry, "ours": ours}
        save_sheet(out / f"{portrait.stem}.jpg", shown, at, ("geometry only", "ours"))
    if talking:
        grid = next(clip for clip in list_clips(talking) if clip.held_back and clip.name.startswith("grid_"))
        evaluate_frames([grid], model, face_model, sheets=out)
        (out / f"frames_{grid.name}.jpg").replace(out / "grid.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
