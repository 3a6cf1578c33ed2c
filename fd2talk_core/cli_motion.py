"""The commands around motion clips: `fd2talk audio-to-motion` and `fd2talk motion …`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .errors import UserError

if TYPE_CHECKING:
    from .motion.clip import MotionClip

console = Console()
motion = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look at, edit, join and convert motion clips.\n\n"
    "Clips are .safetensors files, or readable .json ones; each command takes both.\n\n"
    "Example:  fd2talk motion mirror hello.safetensors -o mirrored.safetensors",
)

Clip = Annotated[Path, typer.Argument(metavar="CLIP", help="Motion clip: .safetensors or .json.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The clip to write: .safetensors or .json.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the whole command line."""
    app.command("audio-to-motion")(audio_to_motion)
    app.add_typer(motion, name="motion")


def _tell(sentence: str) -> None:
    console.print(escape(sentence), soft_wrap=True, highlight=False)


def _save(clip: MotionClip, out: Path) -> None:
    path = clip.save(out)
    _tell(f"{len(clip)} frames, {clip.duration:.2f} s at {clip.fps:g} per second, are in {path}.")


def _edit(path: Path, out: Path, edit: Callable[[MotionClip], MotionClip]) -> None:
    from .motion.clip import MotionClip

    _save(edit(MotionClip.load(path)), out)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    bar = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise UserError(f"The {what} '{text}' is not {count} numbers. Separate them by commas, as in 20,30,20.")
    return values


def _assigned(items: list[str], what: str) -> dict[str, float]:
    values = {}
    for item in items:
        name, equals, text = item.partition("=")
        try:
            values[name] = float(text) if equals else 1.0
        except ValueError as error:
            raise UserError(f"The {what} '{item}' is not of the form NAME=NUMBER. Write, say, mouth=0.5.") from error
    return values


def audio_to_motion(
    audio: Annotated[Path, typer.Argument(help="Voice: any sound or video file, at least 0.2 s.")],
    out: Out,
    portrait: Annotated[Path | None, typer.Option("--portrait", "-p", help="Start from this face.")] = None,
    fps: Annotated[float, typer.Option(help="Frames per second, 1 to 240.")] = 25,
    seed: Annotated[int, typer.Option(help="Another seed, another performance.")] = 0,
    steps: Annotated[int, typer.Option(help="Diffusion steps.")] = 6,
    guidance: Annotated[float, typer.Option(help="How closely the face follows the voice; 1 is plain.")] = 1.5,
    expression: Annotated[float, typer.Option(help="Strength of expression; 0 is a still face.")] = 1.0,
    pose: Annotated[float, typer.Option(help="Strength of head motion; 0 is a still head.")] = 1.0,
    energy: Annotated[float, typer.Option(help="Liveliness, -2 calm to 2 excited.")] = 0.0,
    temperature: Annotated[float, typer.Option(help="Variety between seeds; 0 has none.")] = 1.0,
    blinks: Annotated[float | None, typer.Option(help="Blinks per minute; default: as they come.")] = None,
    driving: Annotated[Path | None, typer.Option(help="Take the head's motion from this clip.")] = None,
    driving_mode: Annotated[str, typer.Option(help="replace the generated head motion, or add to it.")] = "replace",
    driving_end: Annotated[str, typer.Option(help="When that clip is shorter: generated, loop or hold.")] = "generated",
    sampler: Annotated[str, typer.Option(help="dpm++ or ddim.")] = "dpm++",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
) -> None:
    """Turn a voice into a motion clip, to edit it and to render it later.

    Example:  fd2talk audio-to-motion hello.wav -o hello.safetensors --energy 1
    """
    from .audio.loading import load_mono_16k
    from .device import pick_device
    from .motion.clip import MotionClip
    from .motion.model import MotionModel
    from .motion.sampling import generate_motion

    head = MotionClip.load(driving) if driving else None
    samples = load_mono_16k(audio)
    references = _references(portrait) if portrait else {}
    model = MotionModel.load().to(pick_device(device)).eval()
    with _bar("motion") as progress:
        clip = generate_motion(
            model,
            samples,
            fps,
            seed=seed,
            steps=steps,
            guidance=guidance,
            expression_strength=expression,
            pose_strength=pose,
            energy=energy,
            temperature=temperature,
            blink_rate=blinks,
            driving_pose=head,
            driving_mode=driving_mode,
            driving_end=driving_end,
            sampler=sampler,
            progress=progress,
            **references,
        )
    _save(clip, out)


def _references(portrait: Path) -> dict:
    from .face.model import FaceModel
    from .face.tracker import FaceTracker
    from .frames.appearance import encode_portrait
    from .video.reading import read_picture

    face = encode_portrait(read_picture(portrait), FaceTracker.load(), FaceModel.load())
    return {"reference_expression": face.beta, "reference_pose": face.pose}


@motion.command()
def info(clip: Clip) -> None:
    """Say what a clip contains: length, head motion, blinks, controls.

    Example:  fd2talk motion info hello.safetensors
    """
    from .face.model import FaceModel
    from .motion.blinks import find_blinks
    from .motion.clip import MotionClip
    from .motion.interchange import control_readings
    from .motion.keyframes import POSE_NAMES, pose_in_units

    loaded, face_model = MotionClip.load(clip), FaceModel.load()
    lost = int((~loaded.valid).sum())
    _tell(f"{len(loaded)} frames, {loaded.duration:.2f} s at {loaded.fps:g} per second; {lost} frames without a face.")
    known = loaded.face_model == face_model.hash
    _tell(f"Face model {loaded.face_model[:12] or 'unknown'}{'' if known else ', not the one of the loaded weights'}.")
    table = Table("", "lowest", "mean", "highest", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    units = {"pitch": "degrees", "yaw": "degrees", "roll": "degrees"}
    pose = pose_in_units(loaded)
    for name, column in POSE_NAMES.items():
        _row(table, f"{name} {units.get(name, '')}".strip(), pose[:, column])
    if known:
        names = sorted(face_model.controls)
        for name, values in zip(names, control_readings(loaded, face_model, names).T.numpy(), strict=True):
            _row(table, name, values)
        blinks = len(find_blinks(loaded, face_model))
        _tell(f"{blinks} blinks, {blinks / loaded.duration * 60:.0f} per minute.")
    console.print(table)


def _row(table: Table, name: str, values) -> None:
    table.add_row(name, *(f"{value:.2f}" for value in (values.min(), values.mean(), values.max())))


@motion.command()
def export(
    clip: Clip,
    out: Annotated[Path, typer.Argument(help="The .json file to write.")],
    controls: Annotated[bool, typer.Option(help="Also say how far each named control is on.")] = True,
) -> None:
    """Write a clip as readable JSON, one line per frame, without losing a bit.

    Example:  fd2talk motion export hello.safetensors hello.json
    """
    from .face.model import FaceModel
    from .motion.clip import MotionClip
    from .motion.interchange import to_json

    if out.suffix.lower() != ".json":
        raise UserError(f"The output {out.name} is not a JSON file. Give it a name that ends in .json.")
    loaded = MotionClip.load(clip)
    to_json(loaded, out, FaceModel.load() if controls else None)
    _tell(f"{len(loaded)} frames are in {out}.")


@motion.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="The .json file to read.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors clip to write.")],
) -> None:
    """Read a clip from JSON, as `export` writes it, and save it as .safetensors.

    Example:  fd2talk motion import hello.json hello.safetensors
    """
    from .motion.interchange import from_json

    _save(from_json(source), out)


@motion.command()
def concat(
    clips: Annotated[list[Path], typer.Argument(help="Motion clips, in order.")],
    out: Out,
    crossfade: Annotated[float, typer.Option(help="Seconds in which one fades into the next; 0 cuts.")] = 0.2,
) -> None:
    """Play clips one after the other, at the first one's frame rate.

    Example:  fd2talk motion concat hello.safetensors idle.safetensors -o both.safetensors
    """
    from .motion.clip import MotionClip
    from .motion.tools import concatenate

    _save(concatenate([MotionClip.load(path) for path in clips], crossfade), out)


@motion.command()
def blend(
    first: Clip,
    second: Clip,
    out: Out,
    weight: Annotated[float, typer.Option(help="0 is the first clip, 1 the second.")] = 0.5,
    region: Annotated[
        list[str] | None,
        typer.Option(help="Mix this region alone: gaze, eyelids, brows, mouth, rest or pose; NAME or NAME=SHARE."),
    ] = None,
) -> None:
    """Mix two clips, all over or in some regions of the face.

    Example:  fd2talk motion blend talk.json smile.json -o both.json --weight 1 --region brows --region mouth=0.3
    """
    from .motion.clip import MotionClip
    from .motion.tools import blend as run

    regions = _assigned(region, "region") if region else None
    _save(run(MotionClip.load(first), MotionClip.load(second), weight, regions), out)


@motion.command()
def crop(
    clip: Clip,
    out: Out,
    start: Annotated[float, typer.Option(help="Seconds from the beginning.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Seconds from the beginning; default: the clip's end.")] = None,
) -> None:
    """Keep a part of a clip.

    Example:  fd2talk motion crop hello.safetensors -o part.safetensors --start 1 --end 2.5
    """
    from .motion.tools import crop as run

    _edit(clip, out, lambda loaded: run(loaded, start, end))


@motion.command()
def retime(
    clip: Clip,
    out: Out,
    fps: Annotated[float | None, typer.Option(help="New frame rate, 1 to 240.")] = None,
    speed: Annotated[float, typer.Option(help="How many times as fast, 0.1 to 10.")] = 1.0,
    duration: Annotated[float | None, typer.Option(help="New length in seconds, instead of a speed.")] = None,
) -> None:
    """Change a clip's frame rate, speed or length.

    Example:  fd2talk motion retime hello.safetensors -o slow.safetensors --fps 60 --speed 0.5
    """
    from .motion.tools import retime as run

    _edit(clip, out, lambda loaded: run(loaded, fps, speed, duration))


@motion.command()
def smooth(
    clip: Clip,
    out: Out,
    strength: Annotated[float, typer.Option(help="0 to 1.")] = 0.3,
    method: Annotated[str, typer.Option(help="savgol, or one_euro, which spares fast motion.")] = "savgol",
) -> None:
    """Calm a clip over time.

    Example:  fd2talk motion smooth tracked.safetensors -o calm.safetensors --method one_euro
    """
    from .motion.edit import smooth as run

    _edit(clip, out, lambda loaded: run(loaded, strength, method))


@motion.command()
def mirror(clip: Clip, out: Out) -> None:
    """Swap left and right.

    Example:  fd2talk motion mirror hello.safetensors -o mirrored.safetensors
    """
    from .face.model import FaceModel
    from .motion.tools import mirror as run

    _edit(clip, out, lambda loaded: run(loaded, FaceModel.load()))


@motion.command()
def loop(
    clip: Clip,
    out: Out,
    seconds: Annotated[float | None, typer.Option(help="Length of the result.")] = None,
    times: Annotated[int | None, typer.Option(help="Rounds instead; one or more whole ones loop again.")] = None,
    crossfade: Annotated[float, typer.Option(help="Seconds in which the end fades into the start.")] = 0.4,
) -> None:
    """Repeat a clip without a visible seam.

    Example:  fd2talk motion loop idle.safetensors -o minute.safetensors --seconds 60
    """
    from .motion.tools import loop as run

    _edit(clip, out, lambda loaded: run(loaded, seconds, times, crossfade))


@motion.command()
def keyframes(
    clip: Clip,
    keys: Annotated[str, typer.Argument(help="JSON, or a file with it: a list of \\[seconds, value] per name.")],
    out: Out,
    mode: Annotated[str, typer.Option(help="add to the motion, or replace what the keys name.")] = "add",
    interpolation: Annotated[str, typer.Option(help="smooth, linear or hold.")] = "smooth",
) -> None:
    """Animate controls and the head by keyframes.

    Names are the expression controls, pitch, yaw, roll (degrees), x, y (eye
    distances) and zoom. The command info lists the controls. A third entry, as
    in \\[1, 0.8, "hold"], is a keyframe's own interpolation.

    Example:  fd2talk motion keyframes hello.json '{"smile_left": \\[[0, 0], \\[1, 0.8]]}' -o smiling.json
    """
    from .face.model import FaceModel
    from .motion.keyframes import apply_keyframes, load_keyframes, parse_keyframes

    parsed = parse_keyframes(keys) if keys.lstrip()[:1] in ("{", "[") else load_keyframes(keys)
    _edit(clip, out, lambda loaded: apply_keyframes(loaded, FaceModel.load(), parsed, mode, interpolation))


@motion.command()
def pose(
    clip: Clip,
    out: Out,
    preset: Annotated[str | None, typer.Option(help="still, subtle, lively, nod, shake, look_left and more.")] = None,
    strength: Annotated[float, typer.Option(help="Of the preset, 0 to 2.")] = 1.0,
    limit: Annotated[str | None, typer.Option(help="Most degrees of pitch, yaw, roll, as in 20,30,20.")] = None,
    limit_shift: Annotated[float, typer.Option(help="With --limit: most shift, in eye distances.")] = 0.3,
    limit_scale: Annotated[float, typer.Option(help="With --limit: most log scale.")] = 0.15,
) -> None:
    """Give the head another manner, and limits.

    Example:  fd2talk motion pose hello.safetensors -o left.safetensors --preset look_left --limit 15,20,10
    """
    from .motion.tools import limit_pose, pose_preset

    if preset is None and limit is None:
        raise UserError("There is nothing to do. Give --preset, --limit or both.")
    degrees = _numbers(limit, 3, "limit") if limit else None

    def run(loaded: MotionClip) -> MotionClip:
        if preset is not None:
            loaded = pose_preset(loaded, preset, strength)
        return limit_pose(loaded, degrees, limit_shift, limit_scale) if degrees else loaded

    _edit(clip, out, run)


@motion.command()
def track(
    video: Annotated[Path, typer.Argument(help="Video that shows a face.")],
    out: Out,
    fps: Annotated[float | None, typer.Option(help="Frames per second; default: the video's.")] = None,
    start: Annotated[float, typer.Option(help="Seconds into the video.")] = 0.0,
    seconds: Annotated[float | None, typer.Option(help="Length to use; default: all.")] = None,
    no_face: Annotated[str, typer.Option(help="Frames without a face: error, hold or skip.")] = "error",
    smoothing: Annotated[float, typer.Option(help="0 to 1, One-Euro.")] = 0.3,
    face_index: Annotated[int, typer.Option(help="Which face, 0 = largest.")] = 0,
    reference: Annotated[str, typer.Option(help="Pose that becomes the portrait's own: median or first.")] = "median",
) -> None:
    """Take the motion of a face in a video, to give it to another face.

    Example:  fd2talk motion track me.mp4 -o me.safetensors
    """
    from .motion.tracking import track_video

    with _bar("frames") as progress:
        clip = track_video(
            video,
            fps=fps,
            start=start,
            seconds=seconds,
            no_face=no_face,
            smoothing=smoothing,
            face_index=face_index,
            reference=reference,
            progress=progress,
        )
    _save(clip, out)


@motion.command()
def preview(
    clip: Clip,
    out: Annotated[Path, typer.Argument(help="A plot as .png, or a moving wire-frame as .mp4 or .gif.")],
    audio: Annotated[Path | None, typer.Option("--audio", "-a", help="Sound for the plot and the .mp4.")] = None,
) -> None:
    """Show a clip: curves of its controls, and a wire-frame face that moves.

    Example:  fd2talk motion preview hello.safetensors hello.mp4 --audio hello.wav
    """
    from .audio.loading import load_audio
    from .face.model import FaceModel
    from .motion import preview as show
    from .motion.clip import MotionClip

    kind = out.suffix.lower()
    if kind not in (".png", ".mp4", ".gif"):
        raise UserError(f"The output {out.name} is no picture or video known here. Use .png, .mp4 or .gif.")
    loaded, face_model = MotionClip.load(clip), FaceModel.load()
    samples, rate = load_audio(audio) if audio else (None, 16000)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == ".png":
            mono = None if samples is None else samples.mean(0)
            _as_picture(show.plot_motion(loaded, face_model, samples=mono, rate=rate)).save(out)
        elif kind == ".gif":
            _save_gif(loaded, face_model, out)
        else:
            with _bar("frames") as progress:
                show.write_preview(loaded, face_model, out, samples, rate, progress=progress)
    except OSError as error:
        raise UserError(f"The preview cannot be written to {out} ({error}). Choose a writable folder.") from error
    _tell(f"The preview is {out}.")


def _as_picture(array):
    from PIL import Image

    return Image.fromarray(array)


def _save_gif(clip: MotionClip, face_model, out: Path, size: int = 320, most: float = 25.0) -> None:
    """An endless animation; its frames last whole hundredths of a second, as the format wants."""
    from .motion.preview import wireframe_frames

    hundredths = max(round(100 / min(clip.fps, most)), 1)
    frames = (_as_picture(frame) for frame in wireframe_frames(clip.resampled(100 / hundredths), face_model, size))
    next(frames).save(out, save_all=True, append_images=frames, duration=10 * hundredths, loop=0)
