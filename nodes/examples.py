"""The pictures, sounds and videos that the templates name, put where ComfyUI's own loaders find them."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"
PREFIX = "fd2talk_"  # nobody's own portrait.png is meant
EXAMPLES = (
    "portrait.png",
    "portrait_stylised.png",
    "portrait_cutout.png",
    "two_people.jpg",
    "driving.mp4",
    "voice.wav",
)


def put_examples(folder: str | os.PathLike) -> list[str]:
    """Copy the example files into `folder` under `fd2talk_...` names and return the names of the new ones.

    A file that is there stays as it is. A folder that cannot be written is logged, not raised: only the templates'
    first run needs the files, and everything else of the pack works without.
    """
    written = []
    for name in EXAMPLES:
        target = Path(folder) / f"{PREFIX}{name}"
        # Under another name first: half a file, left by a full disk, would stay for good.
        part = target.with_name(f"{target.name}.part")
        try:
            if not target.exists():
                shutil.copyfile(ASSETS / name, part)
                part.replace(target)
                written.append(target.name)
        except OSError as error:
            logging.warning("FD2Talk: the examples of the templates are not in the input folder: %s", error)
            with suppress(OSError):
                part.unlink()
            break
    return written
