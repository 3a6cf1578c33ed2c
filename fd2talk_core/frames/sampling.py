"""Stage 2 sampling: a motion clip and an appearance become frames, in few diffusion steps from the geometric warp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.nn import functional as F

from ..device import autocast, usual_batch
from ..errors import UserError
from ..face.geometry import dense_flow, head_coordinates, region_masks, warp
from ..face.model import FaceModel
from ..face.paint import OpeningPainter
from ..motion.clip import MotionClip
from .appearance import Appearance
from .autoencoder import LATENT_FACTOR
from .fusion import finish
from .model import FrameModel
from .refine import WarpRefiner, add_light, keep_still

# Few steps spend themselves on low noise (2 steps: 1, 0.25), and start with half the noise: both keep more of what is
# certain and less of what is guessed. Measured on held-back people in docs/method.md.
SIGMA_SHIFT = 1 / 3
TEMPERATURE = 0.5
FLOW_CHANNEL_SCALE = 8.0  # brings displacements, in shares of the crop, to about one


def make_guide(
    face_model: FaceModel, alpha: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor, flow: torch.Tensor, cells: int
) -> torch.Tensor:
    """Guide channels of target frames: masks (4), flow (2), head coordinates (2) -> (N, 8, cells, cells), on the
    flow's device."""
    landmarks = face_model.landmarks(alpha.expand(len(beta), -1), beta, pose, 1.0)
    masks = region_masks(landmarks.to(flow.device), cells)
    small = F.interpolate(flow, size=(cells, cells), mode="area")
    return torch.cat([masks, small * FLOW_CHANNEL_SCALE, head_coordinates(pose, cells).to(flow.device)], 1)


def make_reference(
    face_model: FaceModel, latent: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor
) -> torch.Tensor:
    """Input of the appearance encoder: latent, masks and head coordinates of the reference (1, 22, h, w)."""
    cells = latent.shape[-1]
    landmarks = face_model.landmarks(alpha[None], beta[None], pose[None], 1.0)
    return torch.cat([latent, region_masks(landmarks, cells), head_coordinates(pose[None], cells)], 1)


def motion_windows(values: torch.Tensor, indices: torch.Tensor, radius: int) -> torch.Tensor:
    """Windows around frames, the ends repeated: (T, C), (N,) -> (N, 2 radius + 1, C)."""
    steps = torch.arange(-radius, radius + 1)
    return values[(indices[:, None] + steps).clamp(0, len(values) - 1)]


def check_steps(steps: int) -> None:
    """Raises UserError for a number of diffusion steps that is not offered."""
    if not 1 <= steps <= 50:
        raise UserError(f"{steps} diffusion steps are not possible. Choose between 1 and 50.")


def make_scheduler(steps: int, device: torch.device | str = "cpu") -> FlowMatchEulerDiscreteScheduler:
    """Flow-matching scheduler set to `steps` noise levels from 1 downwards, denser towards 0."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SIGMA_SHIFT)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist(), device=device)
    return scheduler


def warped_portraits(
    portrait: torch.Tensor,
    flow: torch.Tensor,
    guide: torch.Tensor,
    motion: tuple[torch.Tensor, ...],
    refiner: WarpRefiner | None,
    paint: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The portrait as the geometry alone would show it: warped, the warp corrected, openings painted, lit.

    portrait (3, S, S) or (N, 3, S, S); flow (N, 2, g, g); guide (N, 8, h, w); motion: windows of expression and
    offset, expression and pose of the reference, as for `MotionEncoder`.

    Returns pictures (N, 3, S, S), the flow in the end (N, 2, g, g), and how still each place stands (N, 1, g, g), None
    without a refiner.
    """
    pictures = warp(portrait, flow)
    light = still = None
    if refiner is not None:
        flow, light, still = (part.float() for part in refiner(pictures, portrait, flow, guide, *motion))
        # A face that rests is drawn all the same: it may blink or speak while its skin stands still.
        still = still * (1 - F.interpolate(guide[:, 3:4], size=still.shape[-2:], mode="bilinear").mul(2).clamp(0, 1))
        pictures = warp(portrait, flow)
    if paint is not None:
        pictures = paint(pictures)
    return pictures if light is None else add_light(pictures, light), flow, still


def encode_pictures(coder, pictures: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(N, 3, S, S) in 0..1 -> float32 latents (N, 16, S/8, S/8), in the precision that is fast on their device."""
    with autocast(pictures.device, dtype):
        return coder.encode(pictures.contiguous(memory_format=torch.channels_last)).float()


@dataclass
class WarpedFrames:
    """Encoded warps (N, 16, h, w), guide channels (N, 8, h, w), flow (N, 2, g, g); the warps themselves (N, 3, S, S),
    None in the pure form; and how still each place stands (N, 1, g, g), where that is known."""

    latents: torch.Tensor
    guide: torch.Tensor
    flow: torch.Tensor
    pictures: torch.Tensor | None
    still: torch.Tensor | None


class FrameSampler:
    """One appearance under one model: what depends on the reference only is computed once, then frames in batches."""

    def __init__(
        self,
        model: FrameModel,
        face_model: FaceModel,
        appearance: Appearance,
        dtype: torch.dtype | None = None,
        coder=None,
        torso: float = 1.0,
    ):
        for name, found in (("portrait", appearance.face_model), ("frame model", model.face_model_hash)):
            if found != face_model.hash:
                raise UserError(
                    f"The {name} was made for another face model ({found} instead of {face_model.hash}). "
                    "Make it again with the models that are loaded now."
                )
        self.model, self.face_model, self.appearance, self.dtype = model, face_model, appearance, dtype
        self.coder, self.torso = coder or model.autoencoder, torso
        self.device = next(model.parameters()).device
        self.crop = appearance.crop.to(self.device)
        self.paint = OpeningPainter(face_model, self.crop, appearance.alpha, appearance.beta, appearance.pose)
        with torch.no_grad():
            latent = encode_pictures(self.coder, self.crop[None], dtype).cpu()
            reference = make_reference(face_model, latent, appearance.alpha, appearance.beta, appearance.pose)
            with autocast(self.device, dtype):
                tokens = model.appearance_encoder(reference.to(self.device))
                self.look = model.unet.remember(tokens)
                self.no_look = model.unet.remember(list(model.appearance_encoder.null))

    def motion(self, motion: MotionClip, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `MotionEncoder` takes, of the frames `indices` of a clip."""
        look, count = self.appearance, len(indices)
        windows = (motion_windows(part, indices, self.model.config.motion_radius)
                   for part in (motion.expression, motion.pose))  # fmt: skip
        return (*windows, look.beta.expand(count, -1), look.pose.expand(count, -1))

    def geometry(self, motion: tuple[torch.Tensor, ...], bare: bool = False) -> WarpedFrames:
        """What is known of target frames before the network sees them; `motion` as from `motion()`.

        bare: the analytic warp alone, uncorrected and unpainted. Call it outside autocast: half precision cannot hold
        the small distances between flow points.
        """
        look, middle = self.appearance, motion[0].shape[1] // 2
        beta, pose = motion[0][:, middle], look.pose + motion[1][:, middle]
        # One by one on a CPU: in batches the distances between cells and points leave its cache.
        at_once = 1 if self.device.type == "cpu" else len(beta)
        flow = torch.cat([
            dense_flow(
                self.face_model, look.alpha, (look.beta, look.pose), target, torso=self.torso, device=self.device
            )
            for target in zip(beta.split(at_once), pose.split(at_once), strict=True)
        ])  # fmt: skip
        guide = make_guide(self.face_model, look.alpha, beta, pose, flow, look.size // LATENT_FACTOR)
        if not self.model.config.geometry:
            nothing = guide.new_zeros(len(beta), 16, *guide.shape[2:])
            return WarpedFrames(nothing, torch.zeros_like(guide), flow, None, None)
        refiner, paint = self.model.refiner, lambda pictures: self.paint(pictures, beta, pose)
        pictures, flow, still = warped_portraits(
            self.crop, flow, guide, tuple(part.to(self.device) for part in motion),
            None if bare else refiner, None if bare else paint,
        )  # fmt: skip
        return WarpedFrames(encode_pictures(self.coder, pictures, self.dtype), guide, flow, pictures, still)

    @torch.no_grad()
    def latents(
        self,
        motion: MotionClip,
        indices: torch.Tensor,
        noise: torch.Tensor,
        steps: int,
        motion_guidance: float,
        appearance_guidance: float,
    ) -> tuple[torch.Tensor, WarpedFrames]:
        """Sample latents (N, 16, h, w) of the frames `indices` of a clip; with the warp that they began from."""
        model = self.model
        parts = self.motion(motion, indices)
        given = self.geometry(parts)
        count = len(indices)
        with autocast(self.device, self.dtype):
            tokens = model.motion_encoder(*(part.to(self.device) for part in parts))
            null_tokens = model.motion_encoder.null.expand_as(tokens)

            def predict(x: torch.Tensor, level: torch.Tensor, motion_on: bool, appearance_on: bool) -> torch.Tensor:
                return model.unet(
                    x.contiguous(memory_format=torch.channels_last), level, given.latents, given.guide,
                    tokens if motion_on else null_tokens,
                    self.look if appearance_on else self.no_look, count,
                ).float()  # fmt: skip

            scheduler = make_scheduler(steps, self.device)
            x = noise.to(self.device).expand(count, -1, -1, -1)
            for index, time in enumerate(scheduler.timesteps):
                sigma = scheduler.sigmas[index]
                level = sigma.expand(count)
                clean = predict(x, level, True, True)
                if motion_guidance != 1 or appearance_guidance != 1:
                    # Incremental guidance over both conditions (E20 of the reference), in x0 form.
                    neither, look_only = predict(x, level, False, False), predict(x, level, False, True)
                    clean = (
                        neither + appearance_guidance * (look_only - neither) + motion_guidance * (clean - look_only)
                    )
                x = scheduler.step((x - clean) / sigma, time, x).prev_sample
        return given.latents + model.residual_scale * x, given

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, given: WarpedFrames | None = None) -> torch.Tensor:
        """Latents -> float32 pictures (N, size, size, 3) in 0..1 on the CPU.

        given: the warps that they were sampled from, to finish them with: joined with the warps' own pixels, sharpened,
        and with the portrait itself where it stands still. None = the decoder's pictures as they are.
        """
        with autocast(self.device, self.dtype):
            pictures = self.coder.decode(latents.contiguous(memory_format=torch.channels_last))
        pictures = pictures.float()
        if given is not None:
            pictures = finish(pictures, given.pictures, given.guide)
            if given.still is not None:
                pictures = keep_still(pictures, self.crop, given.still)
        return pictures.clamp(0, 1).permute(0, 2, 3, 1).cpu()


def starting_noise(size: int, seed: int, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Noise (1, 16, h, w) that all frames of `size` px start from."""
    cells = size // LATENT_FACTOR
    return temperature * torch.randn(1, 16, cells, cells, generator=torch.Generator().manual_seed(seed))


def sample_frames(
    model: FrameModel,
    face_model: FaceModel,
    appearance: Appearance,
    motion: MotionClip,
    *,
    steps: int = 2,
    motion_guidance: float = 1.0,
    appearance_guidance: float = 1.0,
    seed: int = 0,
    temperature: float = TEMPERATURE,
    finished: bool = True,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    start: int = 0,
    dtype: torch.dtype | None = None,
    coder=None,
    torso: float = 1.0,
    on_flow: Callable[[torch.Tensor], None] | None = None,
) -> Iterator[torch.Tensor]:
    """Generate the frames of a motion clip, batch by batch.

    Every frame starts from the same noise, and depends on the reference and its own motion window only, never on
    generated frames. So nothing drifts, and a render that resumes at `start` gives the frames it would have given.

    Args:
        steps: diffusion steps per frame (1..50); 2 is the shipped model's default.
        motion_guidance, appearance_guidance: guidance scales of the two conditions; 1 = off and fastest.
        temperature: strength of the starting noise, 0..1; less is smoother and safer.
        finished: join the decoded frames with the warp's own pixels, sharpen them, and keep what stands still.
        batch_size: frames made at once; None = what suits the device.
        progress: called with (frames done, frames in all) after each batch; may raise to cancel.
        dtype: autocast precision; None picks what is fast on the model's device.
        coder: another autoencoder of the same latent space in place of the model's: `encode` and `decode` like
            `Autoencoder`.
        torso: share of its usual motion that the torso takes; 0 = it stays still.
        on_flow: called before each batch with the flow (b, 2, g, g) that it was warped by, for `DetailLayer`.

    Yields float32 (b, size, size, 3) in 0..1 on the CPU.
    """
    check_steps(steps)
    motion.check(face_model.hash)
    sampler = FrameSampler(model, face_model, appearance, dtype, coder, torso)
    noise = starting_noise(appearance.size, seed, temperature)
    batch_size = batch_size or usual_batch(sampler.device)
    for first in range(start, len(motion), batch_size):
        indices = torch.arange(first, min(first + batch_size, len(motion)))
        latents, given = sampler.latents(motion, indices, noise, steps, motion_guidance, appearance_guidance)
        if on_flow:
            on_flow(given.flow.float().cpu())
        yield sampler.decode(latents, given if finished else None)
        if progress:
            progress(int(indices[-1]) + 1, len(motion))


@torch.no_grad()
def geometry_only_frames(
    model: FrameModel,
    face_model: FaceModel,
    appearance: Appearance,
    motion: MotionClip,
    *,
    batch_size: int = 8,
    dtype: torch.dtype | None = None,
) -> Iterator[torch.Tensor]:
    """The bare warp through the autoencoder, nothing painted and no UNet: what stage 2 has to beat."""
    sampler = FrameSampler(model, face_model, appearance, dtype)
    for first in range(0, len(motion), batch_size):
        indices = torch.arange(first, min(first + batch_size, len(motion)))
        yield sampler.decode(sampler.geometry(sampler.motion(motion, indices), bare=True).latents)
