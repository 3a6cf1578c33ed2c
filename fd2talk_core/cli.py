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

from . import cli_motion, cli_training
from .errors import UserError

USER_ERROR, INTERRUPTED = 2, 130
TRAINING = ("accelerate", "cv2", "tensorboard", "torchmetrics", "transformers")
EXTRAS = {"mediapipe": "prepare"} | dict.fromkeys(TRAINING, "train")
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
    motion_steps: Annotated[int, typer.Option(help="Diffusion steps for the motion.")] = 6,
    size: Annotated[int, typer.Option(help="Side of the generated face, 256 or 512 pixels.")] = 256,
    fps: Annotated[float, typer.Option(help="Frames per second; 29.97 and the like are exact.")] = 25,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto for the best of cuda and cpu.")] = "auto",
    guidance: Annotated[float, typer.Option(help="How closely the face follows the voice, 0-10; 1 is plain.")] = 1.5,
    temperature: Annotated[float, typer.Option(help="Variety between seeds, 0-1.5; 0 has none.")] = 1.0,
    energy: Annotated[float, typer.Option(help="Liveliness, -2 calm to 2 excited.")] = 0.0,
    expression: Annotated[float, typer.Option(help="Strength of expression, 0-10; 0 is a still face.")] = 1.0,
    pose: Annotated[float, typer.Option(help="Strength of head motion, 0-10; 0 is a still head.")] = 1.0,
    blinks: Annotated[float | None, typer.Option(help="Blinks per minute, 0-60; default: as they come.")] = None,
    driving: Annotated[Path | None, typer.Option(help="Take the head's motion from this motion clip.")] = None,
    driving_mode: Annotated[str, typer.Option(help="replace the generated head motion, or add to it.")] = "replace",
    driving_end: Annotated[str, typer.Option(help="When that clip is shorter: generated, loop or hold.")] = "generated",
    motion: Annotated[Path | None, typer.Option(help="Use this motion clip instead of generating one.")] = None,
    save_motion: Annotated[Path | None, typer.Option(help="Also keep the motion, to edit or reuse it.")] = None,
    paste: Annotated[bool, typer.Option(help="Put the face back into the whole picture, or keep the crop.")] = True,
    torso: Annotated[str, typer.Option(help="Below the chin: follow the head a little, or stay still.")] = "follow",
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

      fd2talk talk -p me.png -a hello.wav --energy 1 --pose 0.5 --blinks 12
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
            guidance=guidance,
            temperature=temperature,
            energy=energy,
            expression_strength=expression,
            pose_strength=pose,
            blink_rate=blinks,
            driving_pose=driving,
            driving_mode=driving_mode,
            driving_end=driving_end,
            motion=motion,
            save_motion=save_motion,
            paste=paste,
            torso=torso,
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


app.command()(cli_training.prepare)
app.command("build-face-model")(cli_training.build_face_model)
app.command()(cli_training.align)
app.command()(cli_training.train)
app.command()(cli_training.average)
app.command()(cli_training.evaluate)
app.command()(cli_training.bench)
cli_motion.register(app)


if __name__ == "__main__":
    app()
