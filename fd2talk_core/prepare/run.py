"""`fd2talk prepare`: a folder of videos and stills becomes a folder of tracked clips and a manifest."""

from __future__ import annotations

import csv
import json
import logging
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from ..audio.loading import load_audio, to_mono_16k
from ..checkpoint import default_weights
from ..errors import UserError
from ..face.landmarks import face_box
from ..face.model import FaceModel
from ..video.reading import PICTURE_SUFFIXES, VIDEO_SUFFIXES, iter_frames, read_picture
from .coefficients import add_coefficients
from .labels import FaceLabeller, FrameLabels
from .quality import quality_flags

log = logging.getLogger(__name__)

FPS = 25
CROP_FACTOR = 2.0
WHOLE_FRAME_FACTOR = 2.5
FORMAT = "2"


def choose_crop(labels: FrameLabels, width: int, height: int) -> tuple[int, int, int]:
    """One square (x0, y0, side) for the whole clip: twice the face, around its median position.

    A video that is already such a crop (square, at most 2.5 faces wide) is kept as it is.
    """
    boxes = np.array([face_box(points) for points in labels.landmarks[labels.valid]])
    face = float(np.median(np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])))
    if width == height and width <= WHOLE_FRAME_FACTOR * face:
        return 0, 0, width
    side = int(min(CROP_FACTOR * face, width, height)) // 2 * 2
    centre = np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0)
    x0 = int(np.clip(centre[0] - side / 2, 0, width - side))
    y0 = int(np.clip(centre[1] - side / 2, 0, height - side))
    return x0, y0, side


def _write_video(path: Path, frames: list[np.ndarray], size: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "14", "preset": "veryfast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def prepare_one(source: Path, target: Path, landmarker: Path, size: int) -> dict:
    """Prepare one file; writes `target`.safetensors with .mp4 or .png beside it and returns its manifest row."""
    still = source.suffix.lower() in PICTURE_SUFFIXES
    frames = [read_picture(source)] if still else list(iter_frames(source, FPS))
    if not frames:
        raise UserError(f"The file {source.name} contains no frames. Check that it plays.")
    with FaceLabeller(landmarker, video=not still) as labeller:
        labels = labeller.label(frames, FPS)
    if not labels.valid.any():
        raise UserError(f"No face was found in {source.name}. Leave it out or use a clearer recording.")
    samples = None
    if not still:
        try:
            samples = to_mono_16k(*load_audio(source))
        except UserError as error:
            log.debug("%s: no sound used (%s)", source.name, error)
    height, width = frames[0].shape[:2]
    x0, y0, side = choose_crop(labels, width, height)
    size = min(size, side) // 2 * 2
    scale = size / side
    frames = [frame[y0 : y0 + side, x0 : x0 + side] for frame in frames]
    if size != side:
        frames = [np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.LANCZOS)) for f in frames]
    labels.landmarks[labels.valid] = (labels.landmarks[labels.valid] - np.array([x0, y0, 0], np.float32)) * scale

    flags = quality_flags(labels, samples, FPS)
    if still:
        iio.imwrite(target.with_suffix(".png"), frames[0])
    else:
        _write_video(target.with_suffix(".mp4"), frames, size)
    tensors = {
        "landmarks": (labels.landmarks / size).astype(np.float32),
        "blendshapes": labels.blendshapes,
        "valid": labels.valid,
    }
    if samples is not None:
        tensors["audio"] = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
    row = {"clip": target.name, "source": source.name, "still": still, "size": size, "frames": len(frames)}
    row |= {"crop": f"{x0} {y0} {side}", **flags}
    partial = target.with_name(target.name + ".partial")
    save_file(tensors, partial, {"format": FORMAT, "row": json.dumps(row)})
    os.replace(partial, target.with_name(target.name + ".safetensors"))
    return row


def _finished_row(path: Path) -> dict | None:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return json.loads(metadata["row"]) if metadata.get("format") == FORMAT else None


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """What a CSV file says about each source file: {name in its column `file`: its other columns}.

    Raises UserError when the file is missing, is not text, or has no column `file`.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="extra", restval="")
            if "file" not in (reader.fieldnames or []):
                raise UserError(
                    f"The metadata file {path} has no column named file. Write one row per source file, its name in "
                    "the column file, and what you know in columns such as identity, lip_sync, origin, kind, licence."
                )
            return {row.pop("file"): row for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The metadata file {path} cannot be read ({error}). Pass a CSV file in UTF-8.") from error


def prepare(
    source: Path,
    target: Path,
    landmarker: Path,
    size: int = 256,
    workers: int | None = None,
    metadata: Path | None = None,
    face_model: Path | None = None,
) -> list[dict]:
    """Prepare every video and still below `source` into `target`; finished clips are skipped, so it resumes.

    Writes per clip `<name>.safetensors` (landmarks as a share of the crop's side (T, 478, 3), blendshapes (T, 52),
    valid (T,), audio int16 16 kHz) with `<name>.mp4` or `.png`, and `manifest.csv`. Files that cannot be used are
    listed in `failed.csv` with the reason. `metadata` is a CSV file whose columns (identity, lip_sync, origin, kind,
    licence, ...) are added to the manifest rows of the files named in its column `file`; a column that was measured
    here wins over one of the same name. Every clip also gets its coefficients (alpha (80,), beta (T, 64), pose (T, 6))
    in `face_model`, by default the shipped one; when that has changed, running again fits them anew. Returns the
    manifest's rows.
    """
    known = read_metadata(metadata) if metadata else {}
    suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    files = sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise UserError(f"The folder {source} contains no videos or pictures. Choose a folder that does.")
    target.mkdir(parents=True, exist_ok=True)
    rows, failed, todo = [], [], []
    for path in files:
        name = "__".join(path.relative_to(source).with_suffix("").parts)
        row = _finished_row(target / f"{name}.safetensors")
        if row:
            rows.append(row)
        else:
            todo.append((path, target / name))
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        jobs = {pool.submit(prepare_one, path, out, landmarker, size): path for path, out in todo}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="prepare", unit="clip"):
            try:
                rows.append(job.result())
            except (UserError, OSError, ValueError, RuntimeError) as error:
                log.warning("skipped %s: %s", jobs[job].name, error)
                failed.append({"source": str(jobs[job]), "reason": str(error)})
    rows = sorted((known.get(row["source"], {}) | row for row in rows), key=lambda row: row["clip"])
    # Before the first face model is built there is none to fit; its building starts from landmarks alone.
    face_model = face_model or default_weights("face_model")
    if face_model.is_file():
        face = FaceModel.load(face_model)
        for row in tqdm(rows, desc="coefficients", unit="clip"):
            add_coefficients(target / f"{row['clip']}.safetensors", face)
    _write_csv(target / "manifest.csv", rows)
    _write_csv(target / "failed.csv", failed)
    return rows


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        if rows:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
