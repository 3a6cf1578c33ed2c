"""The commands that make and measure networks: `fd2talk prepare`, `build-face-model`, `train`, `evaluate`, `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .errors import UserError

DEMO = Path(__file__).parents[1] / "assets"
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
        str, typer.Argument(help="tracker, autoencoder, audio-encoder, lip-expert, baseline, motion, warp or frames.")
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

    The order is tracker, autoencoder, lip-expert, audio-encoder, motion, warp, frames;
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


def average(
    weights: Annotated[list[Path], typer.Argument(help="Two or more weights files of one network.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The weights file to write.")],
) -> None:
    """Average networks that were trained on from the same weights.

    What each run has learned by heart is thinned out, so the mean often does
    better on strangers than any of them. Measure it before you use it.

    Example:  fd2talk average runs/a/frames.safetensors runs/b/frames.safetensors -o frames.safetensors
    """
    from .training.average import average as run

    run(weights, out)
    console.print(f"The mean of {len(weights)} files is in {escape(str(out))}.", highlight=False)


def evaluate(
    folder: Annotated[
        Path, typer.Argument(help="Clips, prepared or plain videos and stills; sound files for the part speech.")
    ],
    parts: Annotated[
        str,
        typer.Option(
            help="Some of tracker,detector,autoencoder,motion,lip-expert,frames,commanded,drift,out-of-domain,ablation,"
            "retrack,speech, separated by commas."
        ),
    ] = "tracker,detector,autoencoder,motion,lip-expert,frames",
    json: Annotated[Path | None, typer.Option(help="Also write the numbers, clip by clip, to this file.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many clips per part, evenly spread; for out-of-domain, per kind.")
    ] = None,
    all_clips: Annotated[bool, typer.Option("--all", help="Also use clips that training saw.")] = False,
    steps: Annotated[int, typer.Option(help="Diffusion steps per frame.")] = 2,
    frames: Annotated[int, typer.Option(help="Frames per clip for the parts 'frames' and 'commanded'.")] = 50,
    taef1: Annotated[
        Path | None, typer.Option(help="Folder with TAEF1's two files, to compare the autoencoder with.")
    ] = None,
    landmarker: Annotated[
        Path | None,
        typer.Option(
            envvar="FD2TALK_LANDMARKER",
            help="MediaPipe's .task file, for plain videos and for commanded and retrack.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Motions per clip for the part motion.")] = 3,
    baseline: Annotated[
        Path | None, typer.Option(help="Regressor by `fd2talk train baseline`, to compare the part motion with.")
    ] = None,
    babble: Annotated[
        float | None, typer.Option(help="For speech: also with other voices at this speech-to-noise ratio, in dB.")
    ] = None,
    motion: Annotated[Path | None, typer.Option(help="Other weights of the motion stage than ours.")] = None,
    lip_expert: Annotated[Path | None, typer.Option(help="Another lip expert than the shipped one.")] = None,
    sheets: Annotated[
        Path | None, typer.Option(help="Folder for contact sheets of the parts frames and out-of-domain.")
    ] = None,
    identity_model: Annotated[
        Path | None,
        typer.Option(help="TorchScript face embedding of 112x112 RGB in -1..1, for CSIM in the part frames."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="For ablation: NAME=FILE, frames weights that were trained otherwise. May be repeated."),
    ] = None,
) -> None:
    """Measure the shipped networks on a folder of clips.

    Of a prepared folder, only the people held back from training are used. The
    judge is MediaPipe, not one of the networks that are measured.

    Examples:

      fd2talk evaluate clips --limit 20 --json result.json

      fd2talk evaluate clips --parts frames,commanded,drift --sheets sheets

      fd2talk evaluate stills --parts out-of-domain --sheets sheets

      fd2talk evaluate clips --parts motion,lip-expert --baseline baseline.safetensors

      fd2talk evaluate voices --parts speech --babble 0
    """
    from .evaluation import report

    names = [name.strip() for name in parts.split(",") if name.strip()]
    result = report.evaluate(
        folder,
        names,
        landmarker=landmarker,
        limit=limit,
        only_held_back=not all_clips,
        out_json=json,
        taef1=taef1,
        steps=steps,
        frames_per_clip=frames,
        seeds=seeds,
        baseline=baseline,
        babble_db=babble,
        motion=motion,
        lip_expert=lip_expert,
        sheets=sheets,
        identity_model=identity_model,
        variants=_assignments(variant or [], "--variant"),
    )
    report.show(result, console)
    if json:
        console.print(f"The numbers are in {escape(str(json))}.", highlight=False)


def bench(
    portrait: Annotated[Path, typer.Option("--portrait", "-p", help="Picture with a face.")] = DEMO / "portrait.png",
    audio: Annotated[Path, typer.Option("--audio", "-a", help="Voice.")] = DEMO / "voice.wav",
    size: Annotated[int, typer.Option(help="Side of the generated face, 256 or 512 pixels.")] = 256,
    steps: Annotated[int, typer.Option(help="Diffusion steps per frame.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Also write the numbers to this file.")] = None,
    taef1: Annotated[Path | None, typer.Option(help="Folder with TAEF1's two files, timed for comparison.")] = None,
    minutes: Annotated[
        str, typer.Option(help="Also measure the motion stage with so many minutes of sound, say 1,10,30.")
    ] = "",
    minutes_video: Annotated[
        str, typer.Option(help="Also measure the whole job's memory on so many minutes of sound, at 2 frames a second.")
    ] = "",
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Instead measure rendering for all --sizes, --step-counts, --precisions.")
    ] = False,
    sizes: Annotated[str, typer.Option(help="Sizes of the matrix.")] = "256,512",
    step_counts: Annotated[str, typer.Option(help="Numbers of steps of the matrix.")] = "1,2,4",
    precisions: Annotated[
        str, typer.Option(help="Precisions of the matrix: fp32, fp16, bf16. Default: fp32 and the device's fast one.")
    ] = "",
    alternative: Annotated[
        bool, typer.Option("--alternative", help="Also time random networks of Stable Diffusion 1.5's size.")
    ] = False,
) -> None:
    """Measure speed and memory of the main job on this machine.

    Examples:

      fd2talk bench --minutes 1,10,30 --minutes-video 1,10 --json speed.json

      fd2talk bench --matrix --alternative --device cuda --json matrix.json
    """
    from .evaluation import bench as speed

    if matrix:
        chosen = (_numbers(sizes, int, "--sizes"), _numbers(step_counts, int, "--step-counts"))
        names = [name.strip() for name in precisions.split(",") if name.strip()]
        with console.status("measuring") as status:
            result = speed.matrix(
                portrait, *chosen, names, device, alternative, json,
                progress=lambda done, total: status.update(f"{done} of {total} measured"),
            )  # fmt: skip
    else:
        lengths = _numbers(minutes, float, "--minutes"), _numbers(minutes_video, float, "--minutes-video")
        with console.status("rendering"):
            result = speed.bench(
                portrait, audio, size, steps, device, json, taef1, lengths[0], alternative, lengths[1]
            )  # fmt: skip
    speed.show(result, console)
    if json:
        console.print(f"The numbers are in {escape(str(json))}.", highlight=False)


def _numbers(text: str, kind: type, option: str) -> list:
    try:
        return [kind(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise UserError(f"The list '{text}' holds something that is no number. Write, say, {option} 1,2,4.") from error


def _assignments(options: list[str], flag: str = "--set") -> dict[str, int | float | str]:
    values: dict[str, int | float | str] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"The option {flag} {option} is not of the form NAME=VALUE. Write, say, {flag} width=64.")
        values[name] = _number_or_text(text)
    return values


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
