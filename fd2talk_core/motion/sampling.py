"""Audio to motion: windows of diffusion, each continuing the one before, so that any length comes out seamless."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from ..audio.encoder import HALO
from ..audio.features import FPS, feature_frames, log_mel, measure_loudness, silent_frames
from ..audio.loading import SAMPLE_RATE, Recording, frame_count
from ..errors import UserError
from ..face.model import REGIONS, FaceModel
from .blinks import check_rate, natural_blinks, set_blink_rate
from .clip import MAX_FPS, MIN_FPS, N_EXPRESSION, N_POSE, MotionClip
from .model import N_EXPRESSION_STYLE, N_POSE_STYLE, MotionConfig, MotionModel
from .schedule import (
    Schedule,
    check_driving,
    check_strength,
    drive_pose,
    scale_expression,
    scale_pose_softly,
    strength_curve,
)
from .silence import close_mouth, silence_weight

SAMPLERS = ("dpm++", "ddim")
# Frames over which a window's start is bent towards the end of the one before; heads are slow, lips must stay in sync.
FADE, POSE_FADE = 8, 25
# Lips are told by the voice and want little chance; what the voice does not tell lives from it.
MOUTH_TEMPERATURE = 0.25
# Few steps shrink what chance decides; with a fifth more of it heads move, and differ between seeds, as real ones do.
POSE_TEMPERATURE = 1.2
MAX_TEMPERATURE, MAX_ENERGY, MAX_GUIDANCE, MAX_STEPS = 1.5, 2.0, 10.0, 1000
MAX_STYLE = 3.0
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


def noise_scale(slices: dict[str, slice], temperature: float = 1.0) -> Tensor:
    """Standard deviation of the initial noise of each channel, (70,): less for mouth and cheeks, more for pose.

    slices: the face model's regions. temperature: 0..1.5.
    """
    scale = torch.full((N_EXPRESSION + N_POSE,), float(temperature))
    for region in ("mouth", "rest"):
        scale[slices[region]] *= MOUTH_TEMPERATURE
    scale[N_EXPRESSION:] *= POSE_TEMPERATURE
    return scale


@torch.no_grad()
def sample_window(
    model: MotionModel, audio: Tensor, previous: Tensor | None, references: tuple[Tensor, Tensor], noise: Tensor, *,
    steps: int = 6, guidance: float = 1.5, sampler: str = "dpm++", on_step: Callable[[], None] | None = None,
) -> Tensor:  # fmt: skip
    """Generate one window for B clips at once.

    Args:
        audio: (B, context + L, audio_width) tokens.
        previous: (B, context, 70) z-scored [expression, pose] of the frames before, or None at the start.
        references: expression and pose reference vectors (B, 69), (B, 12), z-scored.
        noise: (B, L, 70) standard normal, times `noise_scale`.

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
        self.loudness = measure_loudness(samples)

    def tokens(self, start: int, frames: int) -> Tensor:
        if self.features is None:
            first = start - HALO + self.model.config.audio_lead
            mel = torch.from_numpy(log_mel(self.samples, first, frames + 2 * HALO, self.loudness))
            return self.model.encode_audio(mel.to(self.device)[None])[:, HALO:-HALO]
        index = torch.arange(start, start + frames).clamp(0, len(self.features) - 1)
        return self.model.encode_audio(self.features[index].to(self.device)[None])


def _usual(z_scores: Tensor) -> Tensor:
    """Portraits may grimace or lean further than any talker did; the networks see the most that they know."""
    return z_scores.clamp(-2.5, 2.5)


def _between(value: float, low: float, high: float, what: str) -> None:
    if not low <= value <= high:  # also catches NaN
        raise UserError(f"The {what} is {value:g}. Use a value from {low:g} to {high:g}.")


def _checked_samples(samples: np.ndarray | Recording) -> np.ndarray | Recording:
    if isinstance(samples, Recording):
        return samples
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise UserError(
            f"The audio has shape {samples.shape}, but mono samples at 16 kHz are needed. Use to_mono_16k first."
        )
    # The sum is finite only if every sample is, and needs no second array of a long recording's length.
    mean = samples.mean(dtype=np.float64)
    if not np.isfinite(mean):
        raise UserError("The audio contains values that are not numbers (NaN or infinity). Export it again.")
    # An offset that a sound card added would count as sound in every pause.
    return samples - np.float32(mean) if abs(mean) > 1e-4 else samples


def _checked_features(model: MotionModel, features: Tensor | None, frames: int) -> Tensor | None:
    wanted = model.config.audio_features
    if not wanted:
        if features is not None:
            raise UserError("This motion model reads log-mel, not speech-model features. Leave `features` out.")
        return None
    features = None if features is None else torch.as_tensor(features).float()
    if features is None or features.ndim != 2 or features.shape[1] != wanted:
        raise UserError(
            f"This motion model needs speech-model features of width {wanted} at {FPS} per second. "
            "Pass them as `features`, or load a model that reads log-mel."
        )
    if abs(len(features) - frames) > 2:
        raise UserError(
            f"The speech-model features cover {len(features)} frames, but the audio has {frames} at {FPS} per second. "
            "Encode the same audio."
        )
    if not torch.isfinite(features).all():
        raise UserError("The speech-model features contain values that are not numbers. Encode the audio again.")
    return features


def _vector(values, default: Tensor, what: str) -> Tensor:
    if values is None:
        return default
    values = torch.as_tensor(values).detach().to(default.device, torch.float32)
    if values.shape != default.shape or not torch.isfinite(values).all():
        raise UserError(f"The {what} must be {len(default)} finite numbers, not of shape {tuple(values.shape)}.")
    return values


def _windows(
    model: MotionModel, audio: _Audio, total: int, references: tuple[Tensor, Tensor], scale: Tensor,
    generator: torch.Generator, **settings,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """First frame and z-scored motion (L, 70) of one window after the other."""
    config, device = model.config, references[0].device
    previous = None
    for start in range(0, total, config.window):
        frames = min(config.window, total - start)
        # Drawn on the CPU, whole windows in order: the device and the end of the recording change nothing before it.
        noise = torch.randn(1, config.window, N_EXPRESSION + N_POSE, generator=generator)[:, :frames] * scale
        tokens = audio.tokens(start - config.context, config.context + frames)
        window = sample_window(model, tokens, previous, references, noise.to(device), **settings)
        previous = window[:, -config.context :]
        yield start, window[0]


def _strengths(base: float, curve: np.ndarray | None, frames: int) -> Tensor:
    return torch.full((frames,), base) if curve is None else torch.from_numpy(curve) * base


@torch.no_grad()
def generate_motion(
    model: MotionModel, samples: np.ndarray | Recording, fps: float = 25.0, *, seed: int = 0, steps: int = 6,
    guidance: float = 1.5, temperature: float = 1.0, energy: float = 0.0, expression_strength: float = 1.0,
    pose_strength: float = 1.0, strength_schedule: Schedule | None = None, pose_schedule: Schedule | None = None,
    blink_rate: float | None = None, driving_pose: MotionClip | None = None, driving_mode: str = "replace",
    driving_end: str = "generated", close_in_silence: bool = True, reference_expression: Tensor | None = None,
    reference_pose: Tensor | None = None, style: Tensor | None = None, sampler: str = "dpm++",
    features: Tensor | None = None, progress: Progress | None = None,
) -> MotionClip:  # fmt: skip
    """Motion for a recording; the same inputs and seed give the same motion, on any device up to rounding.

    Args:
        samples: float (N,) in about -1..1, 16 kHz mono (`to_mono_16k`), of any length; an offset is removed. Or what
            `open_mono_16k` gives, which keeps long recordings out of memory.
        fps: frame rate of the result, 1..240; motion is generated at 25 and interpolated.
        seed: of the noise and of added blinks, any integer.
        steps: diffusion steps per window of 4 s, 1..1000; 6 do nearly all.
        guidance: classifier-free guidance scale of audio on expression, 0..10; 1 = none, 0 = ignore the audio.
        temperature: scale of the initial noise, 0..1.5, times a base per region (see `noise_scale`). Low: the
            likeliest motion; 0: the same one for every seed.
        energy: liveliness, -2..2 standard deviations of the talkers in the training data, added to the style of all
            but the eyelids.
        expression_strength: scale of expression around its rest, 0..10; 0 = still face. See `scale_expression` for
            its soft limits.
        pose_strength: scale of generated head motion, 0..10, softly limited to about 30 degrees; 0 = still head.
        strength_schedule, pose_schedule: factors 0..10 on these two over time: pairs (seconds, value), or one value
            per frame at `fps` (see `strength_curve`).
        blink_rate: blinks per minute, 0..60. None: as generated, but at most 30 and never 5 s without one.
        driving_pose, driving_mode, driving_end: head pose from another clip (see `drive_pose`), applied last and as
            it is.
        close_in_silence: close the mouth in pauses, within three frames (see `silence_weight`, `closed_mouth`).
        reference_expression: (64,) coefficients of the portrait's own expression; default the training mean.
        reference_pose: (6,) absolute pose of the portrait; default the training mean.
        style: (11,) z-scored liveliness (see MotionModel); default the model's own.
        sampler: "dpm++" or "ddim".
        features: (T, F) at 25 Hz, for models on speech-model features instead of log-mel (`speech_features`).
        progress: called with (done, total) after every step; what it raises is passed on.

    Blinks, soft limits and closing know the shipped face model; for weights of another one they are left out.

    Returns a MotionClip of frame_count(N / 16000, fps) frames. Raises UserError for unusable input.
    """
    samples = _checked_samples(samples)
    _between(fps, MIN_FPS, MAX_FPS, "frame rate")
    _between(steps, 1, MAX_STEPS, "number of motion steps")
    _between(guidance, 0, MAX_GUIDANCE, "guidance scale")
    _between(temperature, 0, MAX_TEMPERATURE, "temperature")
    _between(energy, -MAX_ENERGY, MAX_ENERGY, "energy")
    expression_strength = check_strength(expression_strength, "expression strength")
    pose_strength = check_strength(pose_strength, "pose strength")
    blink_rate = None if blink_rate is None else check_rate(blink_rate)
    total = feature_frames(len(samples))
    features = _checked_features(model, features, total)
    strength = _strengths(
        expression_strength, strength_curve(strength_schedule, total, FPS, fps, "strength schedule"), total
    )
    head_strength = _strengths(pose_strength, strength_curve(pose_schedule, total, FPS, fps, "pose schedule"), total)
    if driving_pose is not None:
        check_driving(driving_pose, driving_mode, driving_end)
    device, seed = model.expression_mean.device, int(seed) % 2**63
    rest = _vector(reference_expression, model.expression_mean, "reference expression")
    own_pose = _vector(reference_pose, model.reference_pose_mean, "reference pose")
    livelier = torch.full((N_EXPRESSION_STYLE + N_POSE_STYLE,), float(energy), device=device)
    livelier[REGIONS.index("eyelids")] = 0
    style = (_vector(style, model.default_style, "style") + livelier).clamp(-MAX_STYLE, MAX_STYLE)
    references = (
        torch.cat([_usual(model.normalise(rest, "expression")), style[:N_EXPRESSION_STYLE]])[None],
        torch.cat([_usual(model.normalise(own_pose, "reference_pose")), style[N_EXPRESSION_STYLE:]])[None],
    )
    audio = _Audio(model, samples, features, device)
    face_model = FaceModel.load()
    done, in_all = 0, steps * -(-total // model.config.window)

    def on_step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, in_all)

    expression, pose = torch.empty(total, N_EXPRESSION), torch.empty(total, N_POSE)
    for start, window in _windows(
        model, audio, total, references, noise_scale(face_model.slices, temperature),
        torch.Generator("cpu").manual_seed(seed), steps=steps, guidance=guidance, sampler=sampler, on_step=on_step,
    ):  # fmt: skip
        frames = slice(start, start + len(window))
        expression[frames] = model.denormalise(window[:, :N_EXPRESSION], "expression").cpu()
        pose[frames] = model.denormalise(window[:, N_EXPRESSION:], "pose").cpu()
    clip = MotionClip(expression, pose, FPS, model.face_model_hash)
    rest, std = rest.cpu(), model.expression_std.cpu()
    if face_model.hash == model.face_model_hash:
        if blink_rate is None:
            clip = natural_blinks(clip, face_model, rest, seed)
        else:
            clip = set_blink_rate(clip, face_model, blink_rate, rest, seed)
        scale_expression(clip.expression, rest, std, strength, face_model)
        scale_pose_softly(clip.pose, head_strength)
        if close_in_silence:
            weight = torch.from_numpy(silence_weight(silent_frames(samples, audio.loudness)))
            # A face that is held still keeps its mouth as well.
            weight *= (4 * strength).clamp(max=1)
            close_mouth(clip.expression, weight, face_model, std)
    else:
        clip = clip.with_changes(
            expression=rest + strength[:, None] * (expression - rest), pose=pose * head_strength[:, None]
        )
    clip = clip.resampled(fps)
    frames = frame_count(len(samples) / SAMPLE_RATE, fps)
    clip = clip.with_changes(expression=clip.expression[:frames], pose=clip.pose[:frames], valid=clip.valid[:frames])
    return clip if driving_pose is None else drive_pose(clip, driving_pose, driving_mode, driving_end)
