"""Audio to motion: windows of diffusion, each continuing the one before, so that any length comes out seamless."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from ..audio.encoder import HALO
from ..audio.features import FPS, log_mel, measure_loudness
from ..audio.loading import SAMPLE_RATE, frame_count
from ..errors import UserError
from ..face.model import FaceModel
from .clip import MAX_FPS, MIN_FPS, N_EXPRESSION, N_POSE, MotionClip
from .edit import ensure_blinks
from .model import N_EXPRESSION_STYLE, MotionConfig, MotionModel

SAMPLERS = ("dpm++", "ddim")
# Frames over which a window's start is bent towards the end of the one before; heads are slow, lips must stay in sync.
FADE, POSE_FADE = 8, 25
Progress = Callable[[int, int], None]


def make_scheduler(config: MotionConfig, sampler: str = "ddim"):
    """The diffusers scheduler of stage 1. sampler: "ddim" (eta 0) or "dpm++" (second order)."""
    common = {
        "num_train_timesteps": config.train_steps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": "linear",
        "prediction_type": "sample",
        "timestep_spacing": "trailing",
    }
    if sampler == "ddim":
        return DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **common)
    if sampler == "dpm++":
        return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", final_sigmas_type="zero", **common)
    raise UserError(f"There is no motion sampler called '{sampler}'. Choose one of: {', '.join(SAMPLERS)}.")


def _continued(clean: Tensor, previous: Tensor) -> Tensor:
    """Bend the start of a window so that position and velocity follow on from the frames before.

    clean: (B, L, C). previous: (B, context, C). The offset at the border fades out; inside the diffusion loop, where
    later steps adapt to it.
    """
    velocity = (previous[:, -1:] - previous[:, -2:-1] + clean[:, 1:2] - clean[:, :1]) / 2
    offset = previous[:, -1:] + velocity - clean[:, :1]
    frames = torch.arange(clean.shape[1], device=clean.device)[None, :, None]
    fade = torch.where(torch.arange(clean.shape[2], device=clean.device) < N_EXPRESSION, FADE, POSE_FADE)
    return clean + offset * (1 + torch.cos(torch.pi * (frames / fade).clamp(max=1))) / 2


@torch.no_grad()
def sample_window(
    model: MotionModel, audio: Tensor, previous: Tensor | None, references: tuple[Tensor, Tensor], noise: Tensor, *,
    steps: int = 10, guidance: float = 1.2, sampler: str = "dpm++", on_step: Callable[[], None] | None = None,
) -> Tensor:  # fmt: skip
    """Generate one window for B clips at once.

    Args:
        audio: (B, context + L, audio_width) tokens.
        previous: (B, context, 70) z-scored [expression, pose] of the frames before, or None at the start.
        references: expression and pose reference vectors (B, 69), (B, 12), z-scored.
        noise: (B, L, 70) standard normal.

    Returns z-scored [expression, pose] (B, L, 70).
    """
    batch, context = len(noise), model.config.context
    scheduler = make_scheduler(model.config, sampler)
    scheduler.set_timesteps(steps, device=noise.device)
    has_previous = torch.full((batch,), previous is not None, device=noise.device)
    continuing = previous is not None
    if not continuing:
        previous = noise.new_zeros(batch, context, noise.shape[-1])
    before, before_pose = previous.split([N_EXPRESSION, N_POSE], dim=-1)
    yes = torch.ones(batch, dtype=torch.bool, device=noise.device)
    guided = guidance != 1.0
    copies = 2 if guided else 1
    both = torch.cat([yes, ~yes]) if guided else yes
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        expression, pose = x.split([N_EXPRESSION, N_POSE], dim=-1)
        times = t.expand(batch)
        clean = model.expression_dit(
            expression.repeat(copies, 1, 1), times.repeat(copies), audio.repeat(copies, 1, 1),
            before.repeat(copies, 1, 1), references[0].repeat(copies, 1), has_previous.repeat(copies), both,
        )  # fmt: skip
        if guided:
            with_audio, without = clean.chunk(2)
            clean = without + guidance * (with_audio - without)
        # Head motion follows speech only loosely; guidance would cost time and exaggerate it.
        clean_pose = model.pose_dit(pose, times, audio, before_pose, references[1], has_previous, yes)
        clean = torch.cat([clean, clean_pose], dim=-1)
        if continuing and clean.shape[1] > 1:
            clean = _continued(clean, previous)
        x = scheduler.step(clean, t, x).prev_sample
        if on_step:
            on_step()
    return x


class _Audio:
    """Audio tokens of any stretch of frames, computed when asked for: memory does not grow with the recording."""

    def __init__(self, model: MotionModel, samples: np.ndarray, features: Tensor | None, device: torch.device):
        self.model, self.samples, self.features, self.device = model, samples, features, device
        self.loudness = measure_loudness(samples) if features is None else None

    def tokens(self, start: int, frames: int) -> Tensor:
        if self.features is None:
            mel = torch.from_numpy(log_mel(self.samples, start - HALO, frames + 2 * HALO, self.loudness))
            return self.model.encode_audio(mel.to(self.device)[None])[:, HALO:-HALO]
        index = torch.arange(start, start + frames).clamp(0, len(self.features) - 1)
        return self.model.encode_audio(self.features[index].to(self.device)[None])


def _usual(z_scores: Tensor) -> Tensor:
    """Portraits may grimace or lean further than any talker did; the networks see the most that they know."""
    return z_scores.clamp(-2.5, 2.5)


def _check(model: MotionModel, samples: np.ndarray, features: Tensor | None, fps: float, steps: int) -> np.ndarray:
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise UserError(
            f"The audio has shape {samples.shape}, but mono samples at 16 kHz are needed. Use to_mono_16k first."
        )
    if not np.isfinite(samples).all():
        raise UserError("The audio contains values that are not numbers (NaN or infinity). Export it again.")
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"The frame rate is {fps:g} per second. Use a rate from {MIN_FPS:g} to {MAX_FPS:g}.")
    if steps < 1:
        raise UserError(f"The number of motion steps is {steps}. Use at least 1; 10 is usual.")
    wanted = model.config.audio_features
    if wanted and (features is None or features.ndim != 2 or features.shape[1] != wanted):
        raise UserError(
            f"This motion model needs speech-model features of width {wanted} at {FPS} per second. "
            "Pass them as `features`, or load a model that reads log-mel."
        )
    if not wanted and features is not None:
        raise UserError("This motion model reads log-mel, not speech-model features. Leave `features` out.")
    return samples


@torch.no_grad()
def generate_motion(
    model: MotionModel, samples: np.ndarray, fps: float = 25.0, *, seed: int = 0, steps: int = 10,
    guidance: float = 1.2, expression_strength: float = 1.0, pose_strength: float = 1.0,
    reference_expression: Tensor | None = None, reference_pose: Tensor | None = None, style: Tensor | None = None,
    sampler: str = "dpm++", features: Tensor | None = None, progress: Progress | None = None,
) -> MotionClip:  # fmt: skip
    """Motion for a recording; the same inputs and seed give the same motion, on any device up to rounding.

    Args:
        samples: float (N,) in about -1..1, 16 kHz mono (`to_mono_16k`).
        fps: frame rate of the result, 1..240; motion is generated at 25 and interpolated.
        seed: of the noise, any integer.
        steps: diffusion steps per window, at least 1.
        guidance: classifier-free guidance scale of audio on expression; 1 = none, 0 = ignore the audio.
        expression_strength: scale of expression around its rest; 0 = still face.
        pose_strength: scale of head motion; 0 = still head.
        reference_expression: (64,) coefficients of the portrait's own expression; default the training mean.
        reference_pose: (6,) absolute pose of the portrait; default the training mean.
        style: (11,) z-scored liveliness (see MotionModel); default the model's own.
        sampler: "dpm++" or "ddim".
        features: (T, F) at 25 Hz, for models on speech-model features instead of log-mel.
        progress: called with (done, total) after every step; what it raises is passed on.

    Returns a MotionClip of frame_count(N / 16000, fps) frames. Raises UserError for unusable input.
    """
    samples = _check(model, samples, features, fps, steps)
    config, device = model.config, model.expression_mean.device
    total = max(1, int(np.ceil(len(samples) / SAMPLE_RATE * FPS)))
    starts = range(0, total, config.window)
    audio = _Audio(model, samples, features, device)
    generator = torch.Generator("cpu").manual_seed(seed % 2**63)

    rest = model.expression_mean if reference_expression is None else torch.as_tensor(reference_expression).to(device)
    own_pose = model.reference_pose_mean if reference_pose is None else torch.as_tensor(reference_pose).to(device)
    style = (model.default_style if style is None else torch.as_tensor(style).to(device)).float()
    references = (
        torch.cat([_usual(model.normalise(rest.float(), "expression")), style[:N_EXPRESSION_STYLE]])[None],
        torch.cat([_usual(model.normalise(own_pose.float(), "reference_pose")), style[N_EXPRESSION_STYLE:]])[None],
    )

    done = 0

    def on_step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, steps * len(starts))

    windows: list[Tensor] = []
    previous = None
    for start in starts:
        frames = min(config.window, total - start)
        # Drawn on the CPU, whole windows in order: the device and the end of the recording change nothing before it.
        noise = torch.randn(1, config.window, N_EXPRESSION + N_POSE, generator=generator)[:, :frames].to(device)
        tokens = audio.tokens(start - config.context, config.context + frames)
        window = sample_window(
            model, tokens, previous, references, noise, steps=steps, guidance=guidance, sampler=sampler,
            on_step=on_step,
        )  # fmt: skip
        previous = window[:, -config.context :]
        windows.append(window[0].cpu())
    motion = torch.cat(windows)
    expression = model.denormalise(motion[:, :N_EXPRESSION].to(device), "expression")
    pose = model.denormalise(motion[:, N_EXPRESSION:].to(device), "pose")
    expression = rest + expression_strength * (expression - rest)
    clip = MotionClip(expression, pose * pose_strength, float(FPS), model.face_model_hash).resampled(fps)
    face_model = FaceModel.load()
    if face_model.hash == clip.face_model and expression_strength > 0:
        # The network blinks as its training clips do, which leaves short clips without a blink now and then.
        clip = ensure_blinks(clip, face_model, rest, seed=seed % 2**63)
    frames = frame_count(len(samples) / SAMPLE_RATE, fps)
    return clip.with_changes(expression=clip.expression[:frames], pose=clip.pose[:frames], valid=clip.valid[:frames])
