"""Dubbing: the mouth in somebody's own video follows a new recording, and all else stays as it is, to the pixel."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull
from torch import Tensor
from torch.nn import functional as F

from .audio.loading import frame_count
from .errors import UserError
from .face.model import N_EXPRESSION, REGIONS, FaceFit, FaceModel
from .face.tracker import FaceTracker
from .frames.appearance import Appearance, crop_for, square_crop
from .frames.composite import COLOUR_GRID, RowResizer, colour_weights
from .frames.detail import DetailLayer
from .frames.limits import limit_expression
from .frames.model import FrameModel
from .frames.sampling import FrameSampler, WarpedFrames, check_steps, starting_noise
from .motion.clip import MotionClip
from .video.faces import FaceChooser

log = logging.getLogger(__name__)

NO_FACE = ("keep", "error")
LONGER_SOUND = ("back and forth", "hold last frame")
IDENTITY_FRAMES = 300  # more frames than this tell no more about the shape of a face
CHUNK = 500  # frames fitted at once
CALM = (1 / 6, 4 / 6, 1 / 6)  # weights of neighbouring frames against the tracker's jitter; none of them lags
SIDE_SECONDS = 0.4  # the crop's size is averaged over so much time on both sides
# Vertices that the mouth's coefficients move at least so much, of the one moved most, carry the mask. Around them it
# falls to 0 over MARGIN, in inter-ocular distances.
MOVED = 0.25
MARGIN = 0.16
MASK_SIDE = 256


@dataclass
class Performance:
    """One person through a video of T frames; of frames without them only `found` means anything.

    found: bool (T,). landmarks: (T, 478, 3) pixels. crops: (T, 3) x0, y0, side. alpha (80,), beta (T, 64), pose
    (T, 6): pose as in a crop of `unit` pixels at the frame's corner. note: which face it is, in words.
    """

    found: np.ndarray
    landmarks: Tensor
    crops: np.ndarray
    alpha: Tensor
    beta: Tensor
    pose: Tensor
    unit: float
    note: str = ""

    def poses_in(self, crop: np.ndarray, frames: Tensor) -> Tensor:
        """Poses (N, 6) of some frames as seen in one crop (x0, y0, side)."""
        pose = self.pose[frames].clone()
        scale = pose[:, 5].exp() * self.unit  # pixels per inter-ocular distance
        x0, y0, side = (float(v) for v in crop)
        for column, start in ((3, x0), (4, y0)):
            place = pose[:, column] * scale + self.unit / 2
            pose[:, column] = (place - start - side / 2) / scale
        pose[:, 5] = (scale / side).log()
        return pose


def follow_person(
    frames: Iterable[np.ndarray],
    fps: float,
    tracker: FaceTracker | FaceChooser,
    face_model: FaceModel,
    *,
    no_face: str = "keep",
    progress: Callable[[int], None] | None = None,
) -> Performance:
    """Track one face through a video, 6 kB a frame.

    frames: uint8 RGB (H, W, 3), all of one size; may be a stream. fps: their rate. tracker: a FaceChooser when a
    certain face is meant. no_face: "keep" leaves frames without it as they are, "error" refuses the video. progress:
    called with the number of frames done; may raise to cancel.

    Raises UserError when there are no frames, or the face is nowhere.
    """
    if no_face not in NO_FACE:
        raise UserError(f"There is no rule for lost faces called '{no_face}'. Use one of: {', '.join(NO_FACE)}.")
    size = (0, 0)

    def seen() -> Iterator[np.ndarray]:
        nonlocal size
        for frame in frames:
            size = frame.shape[1], frame.shape[0]
            yield frame

    points, found = [], []
    for face in tracker.track_video(seen()):
        if face is None and no_face == "error":
            raise UserError(
                f"There is no such face at {len(found) / fps:.2f} s of the video. Cut this part out, or choose to keep "
                "frames without a face as they are."
            )
        found.append(face is not None)
        points.append(face.landmarks if face is not None else None)
        if progress:
            progress(len(found))
    if not found:
        raise UserError("The video has no frames. Choose another, or a longer part of it.")
    if not any(found):
        raise UserError("No face was found in the video. Use one in which a face is clearly visible from the front.")
    nothing = np.zeros_like(next(point for point in points if point is not None))
    landmarks = np.stack([nothing if point is None else point for point in points])
    found = np.array(found)
    landmarks = torch.from_numpy(calmed(landmarks, found))
    fit, unit = _fit(landmarks, found, max(size), face_model, progress)
    crops = steady_crops(landmarks.numpy(), found, size, round(SIDE_SECONDS * fps))
    note = tracker.note if isinstance(tracker, FaceChooser) else ""
    return Performance(found, landmarks, crops, fit.alpha, fit.beta, fit.pose, unit, note)


def _fit(
    landmarks: Tensor,
    found: np.ndarray,
    unit: float,
    face_model: FaceModel,
    progress: Callable[[int], None] | None,
) -> tuple[FaceFit, float]:
    used = np.flatnonzero(found)
    spread = used[np.unique(np.linspace(0, len(used) - 1, IDENTITY_FRAMES).round().astype(int))]
    alpha = face_model.fit(landmarks[spread], unit).alpha
    beta, pose = torch.zeros(len(found), N_EXPRESSION), torch.zeros(len(found), 6)
    for start in range(0, len(used), CHUNK):
        if progress:
            progress(len(found))
        part = used[start : start + CHUNK]
        fit = face_model.fit(landmarks[part], unit, alpha=alpha)
        beta[part], pose[part] = fit.beta, fit.pose
    return FaceFit(alpha, beta, pose), float(unit)


def calmed(landmarks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Landmarks (T, 478, 3) averaged with those of the frames beside, where the face is found there too."""
    total = CALM[1] * landmarks
    weight = np.full(len(found), CALM[1])
    for share, here, there in ((CALM[0], slice(1, None), slice(None, -1)), (CALM[2], slice(None, -1), slice(1, None))):
        total[here] += share * landmarks[there] * found[there, None, None]
        weight[here] += share * found[there]
    return (total / weight[:, None, None]).astype(np.float32)


def steady_crops(landmarks: np.ndarray, found: np.ndarray, size: tuple[int, int], reach: int) -> np.ndarray:
    """Square crops (T, 3) around the face, their size averaged over `reach` frames to both sides; (width, height)."""
    own = np.array(
        [crop_for(points, *size) if there else (0, 0, 0) for points, there in zip(landmarks, found, strict=True)]
    )
    crops = own.copy()
    for index in np.flatnonzero(found):
        near = slice(max(0, index - reach), index + reach + 1)
        side = int(round(own[near, 2][found[near]].mean()))
        crops[index, :2] += (own[index, 2] - side) // 2
        crops[index, 2] = side
    return crops


def frame_order(frames: int, wanted: int, longer: str = LONGER_SOUND[0]) -> list[int]:
    """Which frames of a video of `frames` are shown when `wanted` are needed; never fewer than the video has.

    longer: what a longer sound sees: the video "back and forth", or "hold last frame".
    """
    if longer not in LONGER_SOUND:
        raise UserError(f"There is no '{longer}' for longer sound. Use one of: {', '.join(LONGER_SOUND)}.")
    there = list(range(frames))
    if wanted <= frames:
        return there
    if longer == "hold last frame" or frames == 1:
        return there + [frames - 1] * (wanted - frames)
    loop = there + there[-2:0:-1]
    return [loop[index % len(loop)] for index in range(wanted)]


def padded_voice(voice: np.ndarray, rate: int, frames: int, fps: float) -> tuple[np.ndarray, int]:
    """Mono samples (N,) at `rate` Hz with silence up to the video's end, and how many frames they last then."""
    wanted = max(frames, frame_count(len(voice) / rate, fps))
    missing = round(wanted / fps * rate) - len(voice)
    return np.pad(voice, (0, max(0, missing))), wanted


def dubbed_expression(
    performance: Performance, motion: MotionClip, order: Sequence[int], face_model: FaceModel
) -> Tensor:
    """Expression (len(order), 64): the mouth's coefficients from the motion, held at its end, all others tracked."""
    motion.check(face_model.hash)
    expression = performance.beta[list(order)].clone()
    index = torch.arange(len(order)).clamp(max=len(motion) - 1)
    mouth = face_model.slices["mouth"]
    expression[:, mouth] = limit_expression(motion.expression[index], face_model)[0][:, mouth]
    return expression


def usual_expression(performance: Performance) -> Tensor:
    """The person's median expression (64,), for `generate_motion` to start from and to return to."""
    return performance.beta[torch.from_numpy(performance.found)].median(0).values


@dataclass
class MouthPatch:
    """New pixels around a mouth. pixels: float32 (h, w, 3) in 0..1, mask: (h, w), upper left corner at (x, y)."""

    x: int
    y: int
    pixels: Tensor
    mask: Tensor

    def paste_into(self, frame: Tensor) -> None:
        """Blend into one picture (H, W, 3), floating point in 0..1; where the mask is 0 not a bit changes."""
        height, width = self.mask.shape
        part = frame[self.y : self.y + height, self.x : self.x + width]
        mask = self.mask[..., None].to(frame.device)
        there = part.float()
        part.copy_(torch.where(mask > 0, there + mask * (self.pixels.to(frame.device) - there), there))


class MouthMask:
    """The region that a mouth moves, soft at its border, in crops of faces."""

    def __init__(self, face_model: FaceModel):
        mouth = face_model.slices["mouth"]
        moved = (face_model.exp_basis[mouth] * face_model.exp_std[mouth, None, None]).square().sum((0, 2)).sqrt()
        own = face_model.region_of == REGIONS.index("mouth")
        self.face_model = face_model
        self.vertices = torch.nonzero(own & (moved > MOVED * moved.max()))[:, 0]

    def __call__(self, alpha: Tensor, betas: Tensor, pose: Tensor) -> Tensor:
        """Mask (MASK_SIDE, MASK_SIDE) in 0..1 around all expressions `betas` (N, 64) in one pose (6,)."""
        count = len(betas)
        points = self.face_model.landmarks(alpha.expand(count, -1), betas, pose.expand(count, -1), float(MASK_SIDE))
        points = points[:, self.vertices, :2].flatten(0, 1).double().numpy()
        hull = points[ConvexHull(points).vertices]
        outward = hull - hull.mean(0)
        margin = MARGIN * float(pose[5].exp()) * MASK_SIDE
        hull = hull + outward / np.linalg.norm(outward, axis=1, keepdims=True).clip(1e-6) * margin / 2
        image = Image.new("L", (MASK_SIDE, MASK_SIDE))
        ImageDraw.Draw(image).polygon([tuple(point) for point in hull], fill=1)
        mask = torch.from_numpy(np.array(image)).float()[None]
        # Boxes twice: a slope without corners that is exactly 0 further out.
        width = max(3, int(margin / 2)) | 1
        for _ in range(2):
            mask = F.avg_pool2d(mask, width, 1, width // 2, count_include_pad=False)
        return mask[0]


def local_colours(made: Tensor, there: Tensor, mask: Tensor) -> Tensor:
    """Shift a crop (3, s, s) smoothly so that it meets the colours that are there where the mask fades out."""
    size = made.shape[-1]
    ring = ((mask > 0.02) & (mask < 0.98)).float()[None]
    _, spread = colour_weights(size)
    total = F.adaptive_avg_pool2d(ring * (there - made), COLOUR_GRID).flatten(1)  # (3, g²)
    weight = F.adaptive_avg_pool2d(ring, COLOUR_GRID).flatten(1)  # (1, g²)
    field = ((total @ spread) / (weight @ spread).clamp(min=1e-6)).unflatten(1, (COLOUR_GRID, COLOUR_GRID))
    return made + F.interpolate(field[None], size=(size, size), mode="bilinear", align_corners=False)[0]


class ManyPortraits(FrameSampler):
    """A FrameSampler of a few frames, each of which is drawn from a portrait of its own.

    samplers: one per frame. Where a FrameSampler takes a clip, this one takes a list of as many clips.
    """

    def __init__(self, samplers: list[FrameSampler]):
        first = samplers[0]
        self.samplers, self.model, self.device, self.dtype = samplers, first.model, first.device, first.dtype
        self.coder, self.no_look = first.coder, first.no_look
        self.crop = torch.stack([sampler.crop for sampler in samplers])
        self.look = _joined([sampler.look for sampler in samplers])

    def motion(self, clips: list[MotionClip], indices: Tensor) -> tuple[Tensor, ...]:
        return _joined([
            sampler.motion(clip, index)
            for sampler, clip, index in zip(self.samplers, clips, indices.split(1), strict=True)
        ])  # fmt: skip

    def geometry(self, motion: tuple[Tensor, ...], bare: bool = False) -> WarpedFrames:
        parts = [
            sampler.geometry(tuple(part[index : index + 1] for part in motion), bare)
            for index, sampler in enumerate(self.samplers)
        ]
        return WarpedFrames(*_joined([
            (part.latents, part.guide, part.flow, part.pictures, part.still) for part in parts
        ]))  # fmt: skip


def _joined(values: list):
    """Tensors of one batch each, in lists and tuples of any depth, as one batch."""
    first = values[0]
    if isinstance(first, (list, tuple)):
        return tuple(_joined(list(parts)) for parts in zip(*values, strict=True))
    return None if first is None else torch.cat(values)


def dub_frames(
    frames: Sequence[np.ndarray],
    performance: Performance,
    expression: Tensor,
    order: Sequence[int],
    model: FrameModel,
    face_model: FaceModel,
    *,
    size: int = 256,
    steps: int = 2,
    seed: int = 0,
    batch_size: int = 8,
    dtype: torch.dtype | None = None,
    out_of_memory: type[BaseException] | tuple = (),
    free_memory: Callable[[], None] | None = None,
) -> Iterator[MouthPatch | None]:
    """Draw the mouths of a dubbed video, a few frames at a time in constant memory.

    Each frame is its own portrait: light, pose, beard and blur are right by themselves, and the network only has to
    move the mouth of that very frame.

    Args:
        frames: uint8 RGB (H, W, 3), looked at one by one.
        performance: who is in them, from `follow_person`.
        expression: (len(order), 64), from `dubbed_expression`.
        order: the frame that each frame of the result shows, from `frame_order`.
        size: side of the drawn face crop, 256 or 512 px. steps: diffusion steps (1..50). seed: noise, the same for
            all frames. batch_size: frames drawn at once. dtype: precision of the network, None = what is fast there.
        out_of_memory: exceptions after which smaller batches are tried, once free_memory was called.

    Yields what to paste into the frame, None where the face is not seen.
    """
    check_steps(steps)
    around = MouthMask(face_model)
    radius, noise = model.config.motion_radius, starting_noise(size, seed)
    order_index, done = torch.tensor(order), 0

    def clip_of(index: int, look: Appearance) -> MotionClip:
        """The motion around one frame as seen in its own crop; that frame is number `radius`."""
        number = order[index]
        window = torch.arange(index - radius, index + radius + 1).clamp(0, len(order) - 1)
        there = order_index[window]
        there = torch.where(torch.from_numpy(performance.found)[there], there, number)
        poses = performance.poses_in(performance.crops[number], there)
        return MotionClip(expression[window], poses - look.pose, 25.0, face_model.hash)

    while done < len(order):
        chunk = range(done, min(done + batch_size, len(order)))
        seen = [index for index in chunk if performance.found[order[index]]]
        looks = [_portrait(frames[order[index]], performance, order[index], face_model, size) for index in seen]
        clips = [clip_of(index, look) for index, look in zip(seen, looks, strict=True)]
        try:
            made = _drawn(model, face_model, looks, clips, radius, noise, steps, dtype) if seen else []
        except out_of_memory:
            if batch_size == 1:
                raise
            made = None
        # Not in the except clause: while it lasts, the exception holds all that the batch had allocated.
        if made is None:
            batch_size //= 2
            log.warning("not enough memory; going on with %d frames at once", batch_size)
            if free_memory:
                free_memory()
            continue
        drawn = dict(zip(seen, zip(looks, clips, made, strict=True), strict=True))
        for index in chunk:
            if index not in drawn:
                yield None
                continue
            look, clip, picture = drawn[index]
            mask = around(look.alpha, torch.stack([look.beta, expression[index]]), look.pose)
            picture = local_colours(picture.permute(2, 0, 1), look.crop, _resized(mask, size))
            yield _patch(look, picture, mask, DetailLayer(face_model, look)(clip, radius, 1))
        done = chunk.stop


def _drawn(
    model: FrameModel,
    face_model: FaceModel,
    looks: list[Appearance],
    clips: list[MotionClip],
    middle: int,
    noise: Tensor,
    steps: int,
    dtype: torch.dtype | None,
) -> Tensor:
    """Frame number `middle` of each clip, drawn from the portrait beside it: float32 (N, size, size, 3) in 0..1."""
    sampler = ManyPortraits([FrameSampler(model, face_model, look, dtype) for look in looks])
    latents, given = sampler.latents(clips, torch.full((len(clips),), middle), noise, steps, 1.0, 1.0)
    return sampler.decode(latents, given)


def _portrait(frame: np.ndarray, performance: Performance, number: int, face_model: FaceModel, size: int) -> Appearance:
    crop_box = tuple(int(v) for v in performance.crops[number])
    x0, y0, side = crop_box
    local = (performance.landmarks[number] - torch.tensor([x0, y0, 0.0])) * (size / side)
    pose = performance.poses_in(performance.crops[number], torch.tensor([number]))[0]
    return Appearance(
        frame, crop_box, size, square_crop(frame, crop_box, size), local, performance.alpha,
        performance.beta[number], pose, 1.0, face_model.hash,
    )  # fmt: skip


def _resized(mask: Tensor, size: int) -> Tensor:
    return F.interpolate(mask[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0]


def _patch(look: Appearance, made: Tensor, mask: Tensor, detail) -> MouthPatch | None:
    """The part of a drawn crop under the mask, at the frame's resolution."""
    x0, y0, side = look.crop_box
    height, width = look.picture.shape[:2]
    mask = _resized(mask, side)
    rows, columns = (torch.nonzero(mask.amax(axis) > 0)[:, 0] for axis in (1, 0))
    if not len(rows):
        return None
    top, bottom = max(int(rows[0]), -y0), min(int(rows[-1]) + 1, height - y0)
    left, right = max(int(columns[0]), -x0), min(int(columns[-1]) + 1, width - x0)
    if top >= bottom or left >= right:
        return None
    resizer = RowResizer(made.shape[-1], side, "bicubic")
    pixels = resizer.rows(resizer.widen(made[None])[0], top, bottom)
    if detail is not None:
        pixels = pixels + detail.rows(0, top, bottom)
    pixels = pixels[..., left:right].clamp(0, 1).permute(1, 2, 0)
    return MouthPatch(x0 + left, y0 + top, pixels, mask[top:bottom, left:right])
