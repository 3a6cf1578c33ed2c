"""The commands that turn videos into networks: `fd2talk prepare`, `build-face-model`, `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .errors import UserError

console = Console()


def prepare(
    source: Annotated[Path, typer.Argument(help="Folder with videos and stills, searched to the bottom.")],
    target: Annotated[Path, typer.Argument(help="Folder for the prepared clips.")],
    landmarker: Annotated[
        Path,
        typer.Option(envvar="FD2TALK_LANDMARKER", help="MediaPipe's face_landmarker .task file with blendshapes."),
    ],
    size: Annotated[int, typer.Option(help="Largest side of the square crops, in pixels.")] = 256,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="CSV with a column 'file' whose other columns join the manifest.")
    ] = None,
) -> None:
    """Turn videos into tracked, cropped clips for training and evaluation.

    Finished clips are kept, so the same command continues an interrupted run.
    Files that cannot be used are listed in TARGET/failed.csv.

    Needs:  pip install 'fd2talk\\[prepare]'

    Example:  fd2talk prepare videos clips --landmarker face_landmarker.task
    """
    from .prepare.run import prepare as run

    if not source.is_dir():
        raise UserError(f"The folder {source} does not exist. Give a folder with videos or pictures.")
    rows = run(source, target, landmarker, size, workers, metadata)
    failed = sum(1 for _ in open(target / "failed.csv", encoding="utf-8"))
    console.print(f"{len(rows)} clips are ready in {escape(str(target))}.", highlight=False)
    if failed:
        console.print(f"{failed - 1} files could not be used; {target / 'failed.csv'} says why.", highlight=False)


def build_face_model(
    data: Annotated[list[Path], typer.Argument(help="Prepared folders, of videos and of stills.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The face model to write.")] = Path("face_model.safetensors"),
) -> None:
    """Learn the linear face model (3DMM) from prepared clips.

    Networks and motion clips speak the face model they were made with: after a
    new one, train them again.

    Example:  fd2talk build-face-model clips stills -o face_model.safetensors
    """
    from .face.build import build_face_model as run

    model = run(data, out)
    console.print(f"The face model {model.hash[:12]} is in {escape(str(out))}.", highlight=False)


def align(
    data: Annotated[list[Path], typer.Argument(help="Prepared folders of videos.")],
    lip_expert: Annotated[
        Path | None, typer.Option(help="Expert to judge by: one that was trained on the reference talker alone.")
    ] = None,
) -> None:
    """Measure by how many frames sound and picture of each clip lie apart.

    Written to offsets.csv in each folder; training of stage 1 uses it. Talkers
    with very many clips are the reference the others are aligned with.

    Example:  fd2talk align clips --lip-expert runs/lip-expert/lip_expert.safetensors
    """
    from .motion.lip_expert import LipExpert
    from .training.sync import align as run

    offsets = run([Path(folder) for folder in data], LipExpert.load(lip_expert))
    moved = [abs(offset) for offset in offsets.values() if offset]
    console.print(f"{len(moved)} of {len(offsets)} clips are shifted, by up to {max(moved, default=0):g} frames.")


def train(
    part: Annotated[
        str, typer.Argument(help="tracker, autoencoder, audio-encoder, lip-expert, baseline, motion or frames.")
    ],
    data: Annotated[list[Path], typer.Option("--data", "-d", help="A prepared folder; may be given several times.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/PART.")] = None,
    export_to: Annotated[Path | None, typer.Option(help="Where the best weights go; default: the run folder.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time.")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and batches.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = None,
    resume: Annotated[bool | None, typer.Option("--resume/--restart", help="Go on from the last checkpoint.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the part as NAME=VALUE; may be repeated.")
    ] = None,
) -> None:
    """Train one network.

    The order is tracker, autoencoder, lip-expert, audio-encoder, motion, frames;
    baseline makes the plain regressor that `fd2talk evaluate` compares with. Progress is
    in OUT/train.log and in tensorboard. The file weights/README.md has the
    command of every shipped file.

    Needs:  pip install 'fd2talk\\[train]'

    Example:  fd2talk train motion --data clips --out runs/motion --minutes 60
    """
    from .training.run import train as run

    settings = {"minutes": minutes, "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    settings |= {"compile": compile, "resume": resume, **_assignments(options or [])}
    score = run(part, data, out or Path("runs") / part, export_to=export_to, **settings)
    console.print(f"The best validation score is {score:.4f}.", highlight=False)


def _assignments(options: list[str]) -> dict[str, int | float | str]:
    values: dict[str, int | float | str] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"The option --set {option} is not of the form NAME=VALUE. Write, say, --set width=64.")
        values[name] = _number_or_text(text)
    return values


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
