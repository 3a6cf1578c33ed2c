"""The command line: `fd2talk talk`, `prepare`, `build-face-model`, `train`, `evaluate`, `bench`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table
    from typer.core import TyperGroup
except ModuleNotFoundError as error:
    raise SystemExit(f"The command line needs {error.name}. Run: pip install 'fd2talk[cli]'.") from error

from .errors import UserError

USER_ERROR, INTERRUPTED = 2, 130
EXTRAS = {"mediapipe": "prepare", "accelerate": "train", "tensorboard": "train", "torchmetrics": "train"}
console = Console()
stderr = Console(stderr=True)


class Commands(TyperGroup):
    """Tells user errors as two plain sentences instead of a traceback."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except UserError as error:
            stderr.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
            raise typer.Exit(USER_ERROR) from error
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            hint = f"This command needs {error.name}. Run: pip install 'fd2talk[{EXTRAS[error.name]}]'."
            stderr.print(f"[red]Error:[/red] {escape(hint)}", soft_wrap=True, highlight=False)
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            stderr.print("Stopped. The same command goes on where it was.")
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One portrait and one voice recording become a talking-head video.\n\n"
    "Example:  fd2talk talk --portrait me.png --audio hello.wav -o talking.mp4",
)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        console.print(f"fd2talk {__version__}", highlight=False)
        raise typer.Exit()


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    handler = RichHandler(console=stderr, show_time=False, show_path=False)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[handler])


@app.command()
def talk(
    portrait: Annotated[Path, typer.Option("--portrait", "-p", help="Picture with a face: PNG, JPEG, WebP, TIFF.")],
    audio: Annotated[Path, typer.Option("--audio", "-a", help="Voice: any sound or video file, at least 0.2 s.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The MP4 to write.")] = Path("talking.mp4"),
    seed: Annotated[int, typer.Option(help="Another seed, another performance; the same seed repeats one.")] = 0,
    steps: Annotated[int, typer.Option(help="Diffusion steps per frame: 1-4 fast, 20 and more as a reference.")] = 2,
    motion_steps: Annotated[int, typer.Option(help="Diffusion steps for the motion.")] = 10,
    size: Annotated[int, typer.Option(help="Side of the generated face, 256 or 512 pixels.")] = 256,
    fps: Annotated[float, typer.Option(help="Frames per second; 29.97 and the like are exact.")] = 25,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto for the best of cuda and cpu.")] = "auto",
    motion: Annotated[Path | None, typer.Option(help="Use this motion clip instead of generating one.")] = None,
    save_motion: Annotated[Path | None, typer.Option(help="Also keep the motion, to edit or reuse it.")] = None,
    paste: Annotated[bool, typer.Option(help="Put the face back into the whole picture, or keep the crop.")] = True,
    contact_sheet: Annotated[Path | None, typer.Option(help="Also save some frames on one JPEG.")] = None,
) -> None:
    """Make a video of the portrait saying the audio.

    A render that was interrupted continues when the same command is given
    again; what is done so far plays in OUT.partial/so_far.mp4. An existing OUT
    is replaced once the new one is complete.

    Examples:

      fd2talk talk --portrait me.png --audio hello.wav -o talking.mp4

      fd2talk talk -p me.png -a hello.wav --save-motion hello.safetensors

      fd2talk talk -p painting.jpg -a hello.wav --motion hello.safetensors --fps 30
    """
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
    with bar:
        task = bar.add_task("starting", total=None)
        from .pipeline import talk as run

        report = run(
            portrait,
            audio,
            out,
            seed=seed,
            steps=steps,
            motion_steps=motion_steps,
            size=size,
            fps=fps,
            device=device,
            motion=motion,
            save_motion=save_motion,
            paste=paste,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            on_stage=lambda name: bar.update(task, description=name),
        )
        bar.update(task, description="done", completed=report.frames, total=report.frames)
    for note in report.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    console.print(_stage_table(report))
    memory = f", {report.peak_memory_mb:.0f} MB peak memory" if report.peak_memory_mb else ""
    console.print(
        f"{report.frames} frames, {report.duration:.2f} s of video in {report.total_seconds:.1f} s: "
        f"{report.frames_per_second:.1f} frames per second{memory}.",
        highlight=False,
    )
    console.print(f"The video is [bold]{escape(str(report.out))}[/bold]", soft_wrap=True)
    if contact_sheet:
        from .video.writer import contact_sheet as save_sheet

        save_sheet(report.out, contact_sheet)
        console.print(f"The frames are on [bold]{escape(str(contact_sheet))}[/bold]", soft_wrap=True)


def _stage_table(report) -> Table:
    table = Table("stage", "seconds", box=None)
    table.columns[1].justify = "right"
    for name, seconds in report.seconds.items():
        table.add_row(name, f"{seconds:.1f}")
    return table


@app.command()
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


@app.command("build-face-model")
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


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="tracker, autoencoder, lip-expert, motion or frames.")],
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

    The order is tracker, autoencoder, lip-expert, motion, frames. Progress is
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


if __name__ == "__main__":
    app()
