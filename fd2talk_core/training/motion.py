"""Training of stage 1: audio encoder, expression DiT and pose DiT together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..audio.encoder import HALO
from ..audio.features import normalise
from ..checkpoint import default_weights
from ..errors import UserError
from ..face.landmarks import mouth_opening
from ..face.model import REGIONS, FaceModel
from ..motion.clip import N_EXPRESSION, N_POSE
from ..motion.lip_expert import LIPS, LipExpert
from ..motion.model import N_EXPRESSION_STYLE, MotionConfig, MotionModel
from ..motion.sampling import make_scheduler, noise_scale, sample_window
from ..motion.speech_features import SpeechFeatures
from .audio_encoder import PhoneHead, PhoneWindows, load_pretrained, phone_corpus
from .augment import augment
from .loop import TrainSettings
from .speech_data import SpeechClip, WindowSampler, load_speech
from .speech_model import add_features

SETTINGS = TrainSettings(
    steps=200_000, minutes=15.0, lr=1e-3, warmup=150, weight_decay=0.02, ema=0.998, bf16=True, validate_minutes=4.0,
    log_steps=50, compile=True,
)  # fmt: skip
MOUTH_WEIGHT, VELOCITY, SMOOTHNESS, LIP, ENCODER = 2.0, 1.0, 0.1, 0.05, 0.3
# Phones of other voices keep the audio encoder from learning the one talker who was recorded for hours.
PHONES, PHONE_LENGTH = 0.1, 60
# Somewhat livelier lids than the average clip's bring 10 to 20 blinks a minute.
EYELID_STYLE = 0.7
DROP_AUDIO, DROP_CONTEXT, DROP_REFERENCE = 0.1, 0.15, 0.3


def clip_style(clip: SpeechClip, slices: dict[str, slice]) -> np.ndarray:
    """Log standard deviation over time of each expression region and each pose coefficient, float32 (11,)."""
    regions = [np.sqrt(clip.expression[:, slices[name]].var(0).sum()) for name in REGIONS]
    return np.log(np.concatenate([regions, clip.pose.std(0)]) + 1e-4).astype(np.float32)


def opening(face_model: FaceModel, expression: Tensor) -> Tensor:
    """Inner-lip gap over inter-ocular distance of the mean head, (..., 64) -> (...)."""
    return mouth_opening(face_model.vertices(torch.zeros(80), expression))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation, 0 where one of them does not move."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-9))


class MotionTraining(nn.Module):
    """The model, with heads that make the audio encoder learn mouths and phones directly; the heads are not kept."""

    def __init__(self, motion: MotionModel, phones: bool):
        super().__init__()
        self.motion = motion
        self.head = nn.Linear(motion.config.audio_width, N_EXPRESSION)
        self.phone_head = PhoneHead(motion.config.audio_width) if phones else None

    def forward(
        self, mel: Tensor, noisy: Tensor, t: Tensor, previous: Tensor, references: tuple[Tensor, Tensor],
        has_previous: Tensor, has_audio: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        motion, context = self.motion, self.motion.config.context
        audio = motion.encode_audio(mel)[:, HALO:-HALO]  # (B, context + L, A)
        x, x_pose = noisy.split([N_EXPRESSION, N_POSE], -1)
        p, p_pose = previous.split([N_EXPRESSION, N_POSE], -1)
        expression = motion.expression_dit(x, t, audio, p, references[0], has_previous, has_audio)
        # Heads move too little in most clips to shape the audio encoder.
        pose = motion.pose_dit(x_pose, t, audio.detach(), p_pose, references[1], has_previous, has_audio)
        return expression, pose, self.head(audio[:, context:])


class MotionTask:
    name = "motion"

    def __init__(
        self, clips: list[SpeechClip], expert: LipExpert, config: MotionConfig, batch_size: int, seed: int = 0,
        phones: PhoneWindows | None = None, audio_encoder: Path | None = None, lip_weight: float = LIP,
        dominant_share: float = 0.5, augmented: bool = True, start: Path | None = None,
    ):  # fmt: skip
        self.face_model = FaceModel.load()
        if expert.face_model_hash != self.face_model.hash:
            raise UserError("The lip expert was trained for another face model. Run `fd2talk train lip-expert` again.")
        self.config, self.batch_size, self.expert = config, batch_size, expert.requires_grad_(False)
        training = [clip for clip in clips if not clip.held_back]
        self.phones, self.lip_weight, self.augmented = phones, lip_weight, augmented
        self.sampler = WindowSampler(training, config.context + config.window + 2 * HALO, seed, dominant_share)
        self.scheduler = make_scheduler(config, "ddim")
        model = MotionModel(config, self.face_model.hash)
        self.styles = np.stack([clip_style(clip, self.face_model.slices) for clip in training])
        self._set_statistics(model, training)
        self.model = MotionTraining(model, phones is not None)
        if audio_encoder:
            load_pretrained(model.audio_encoder, self.model.phone_head, audio_encoder)
        if start:
            model.load_state_dict(MotionModel.load(start).state_dict())
        self.styles = model.normalise(torch.from_numpy(self.styles), "style")
        self.weights = self._channel_weights()
        self.dominant, self.others = self.sampler.held_back_groups(clips, 32)

    def _set_statistics(self, model: MotionModel, clips: list[SpeechClip]) -> None:
        frames = self.sampler.weights / [len(clip) for clip in clips]
        weights = np.concatenate([np.full(len(c), w) for c, w in zip(clips, frames, strict=True)])
        for name, values, w in (
            ("expression", np.concatenate([c.expression for c in clips]), weights),
            ("pose", np.concatenate([c.pose for c in clips]), weights),
            ("reference_pose", np.stack([c.rest_pose for c in clips]), self.sampler.weights),
            ("style", self.styles, self.sampler.weights),
        ):
            mean = np.average(values, axis=0, weights=w)
            std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=w)) + 1e-4
            getattr(model, f"{name}_mean").copy_(torch.from_numpy(mean if name != "pose" else np.zeros(N_POSE)))
            getattr(model, f"{name}_std").copy_(torch.from_numpy(std))
        # A talker who was recorded hundreds of times sat still for it: heads move as the other clips' do.
        few = [i for i, clip in enumerate(clips) if not self.sampler.is_dominant(clip)]
        if few:
            lively = model.normalise(torch.from_numpy(np.median(self.styles[few], axis=0)), "style")
            model.default_style[N_EXPRESSION_STYLE:] = lively[N_EXPRESSION_STYLE:]
        model.default_style[REGIONS.index("eyelids")] = EYELID_STYLE

    def _channel_weights(self) -> Tensor:
        """Loss weight of each coefficient: z-scored ones count by their share of visible motion, mouth double."""
        std = self.model.motion.expression_std
        weights = torch.ones(N_EXPRESSION + N_POSE)
        for name, part in self.face_model.slices.items():
            share = std[part] / std[part].max()
            weights[part] = share / share.mean() * (MOUTH_WEIGHT if name == "mouth" else 1.0)
        return weights

    def batches(self) -> Iterator[dict[str, Tensor]]:
        rng, model = self.sampler.rng, self.model.motion
        while True:
            drawn = [self.sampler.window() for _ in range(self.batch_size)]
            vary = (lambda power: augment(power, rng)) if self.augmented else (lambda power: normalise(power, 1.0))
            mel = torch.from_numpy(np.stack([vary(arrays[2]) for _, arrays in drawn])).float()
            index = torch.tensor([index for index, _ in drawn])
            expression = torch.from_numpy(np.stack([arrays[0] for _, arrays in drawn])).float()
            pose = torch.from_numpy(np.stack([arrays[1] for _, arrays in drawn])).float()
            reference = torch.stack([self._reference(int(i)) for i in index])
            own_pose = torch.from_numpy(np.stack([self.sampler.clips[i].rest_pose for i in index]))
            keep = (torch.rand(len(index), 1) > DROP_REFERENCE).float()
            style = self.styles[index] * (torch.rand(len(index), 1) > DROP_AUDIO).float()
            own_pose = model.normalise(own_pose, "reference_pose") * (torch.rand(len(index), 1) > 0.5).float()
            batch = {
                "mel": mel,
                "motion": torch.cat([model.normalise(expression, "expression"), model.normalise(pose, "pose")], -1)[
                    :, HALO:-HALO
                ],
                "reference": torch.cat([reference * keep, style[:, :N_EXPRESSION_STYLE]], -1),
                "reference_pose": torch.cat([own_pose, style[:, N_EXPRESSION_STYLE:]], -1),
            }
            if self.config.audio_features:
                batch["features"] = torch.from_numpy(np.stack([arrays[3] for _, arrays in drawn]))
            yield batch | (self.phones.batch(self.batch_size // 2) if self.phones else {})

    def _reference(self, index: int) -> Tensor:
        """z-scored coefficients of some frame of the clip; quiet frames where there are some, as portraits are."""
        clip, rng = self.sampler.clips[index], self.sampler.rng
        quiet = np.flatnonzero(clip.quiet)
        frame = rng.choice(quiet) if len(quiet) and rng.random() < 0.5 else rng.integers(len(clip))
        return self.model.motion.normalise(torch.from_numpy(clip.expression[frame]), "expression")

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        motion, context = batch["motion"], self.config.context
        device, size = motion.device, len(motion)
        previous, clean = motion[:, :context], motion[:, context:]
        t = torch.randint(0, self.config.train_steps, (size,), device=device)
        noisy = self.scheduler.add_noise(clean, torch.randn_like(clean), t)
        has_previous = torch.rand(size, device=device) > DROP_CONTEXT
        has_audio = torch.rand(size, device=device) > DROP_AUDIO
        # Generated context is never quite clean; training on slightly wrong context keeps errors from piling up.
        shaky = previous + 0.1 * torch.randn(size, 1, previous.shape[-1], device=device)
        expression, pose, direct = model(
            batch["features" if self.config.audio_features else "mel"], noisy, t, shaky,
            (batch["reference"], batch["reference_pose"]), has_previous, has_audio,
        )  # fmt: skip
        predicted = torch.cat([expression, pose], -1).float()
        weights = self.weights.to(device)
        error = (predicted - clean) ** 2 * weights
        # Velocity reaches over the border to the frames before, where these are known.
        border = torch.where(has_previous[:, None, None], previous[:, -1:], predicted[:, :1])
        true_border = torch.where(has_previous[:, None, None], previous[:, -1:], clean[:, :1])
        velocity = torch.cat([border, predicted], 1).diff(dim=1) - torch.cat([true_border, clean], 1).diff(dim=1)
        velocity = velocity**2 * weights
        smoothness = predicted.diff(n=2, dim=1) ** 2 * weights
        direct = (direct.float() - clean[..., :N_EXPRESSION]) ** 2 * weights[:N_EXPRESSION]
        alpha_bar = self.scheduler.alphas_cumprod.to(device)[t]
        coefficients = self.model.motion.denormalise(expression.float(), "expression")
        self.expert.to(device)
        lips = self.expert.sync_loss(coefficients, batch["mel"][:, HALO + context : -HALO])
        lips = (lips * alpha_bar * has_audio).mean()
        loss = error.mean() + VELOCITY * velocity.mean() + SMOOTHNESS * smoothness.mean()
        loss = loss + self.lip_weight * lips + ENCODER * direct.mean()
        if self.phones:
            tokens = self.model.motion.encode_audio(batch["phone_mel"])[:, HALO:-HALO]
            phones = self.model.phone_head.loss(tokens, batch["phones"][:, HALO:-HALO])
            loss = loss + PHONES * phones
        mouth = self.face_model.slices["mouth"]
        return loss, {
            "mouth": error[..., mouth].mean().item(),
            "expression": error[..., :N_EXPRESSION].mean().item(),
            "pose": error[..., N_EXPRESSION:].mean().item(),
            "velocity": velocity.mean().item(),
            "lips": lips.item(),
            "direct": direct[..., mouth].mean().item(),
        }

    def _generate(
        self, model: MotionModel, segments: list[tuple[SpeechClip, int]], frames: int
    ) -> tuple[Tensor, Tensor]:
        """(generated, real) expression (B, frames, 64) of stretches of clips, each from its first frame on."""
        device, margin = model.expression_mean.device, self.config.context + HALO
        mels = []
        for clip, start in segments:
            if self.config.audio_features:
                frames_heard = np.arange(start - margin, start + frames + HALO).clip(0, len(clip) - 1)
                mels.append(clip.features[frames_heard].astype(np.float32))
                continue
            power = np.zeros((frames + margin + HALO, *clip.power.shape[1:]), np.float32)
            first, last = max(0, start - margin), min(len(clip), start + frames + HALO)
            power[first - start + margin : last - start + margin] = clip.power[first:last]
            mels.append(normalise(power, 1.0))
        audio = model.encode_audio(torch.from_numpy(np.stack(mels)).to(device))[:, HALO:-HALO]
        style = model.default_style.expand(len(segments), -1)
        expression_style, pose_style = style.split([N_EXPRESSION_STYLE, style.shape[-1] - N_EXPRESSION_STYLE], -1)
        # As in use, the portrait is some frame of the person: the clip's first.
        own = torch.from_numpy(np.stack([clip.expression[0] for clip, _ in segments])).to(device)
        references = (
            torch.cat([model.normalise(own, "expression").clamp(-2.5, 2.5), expression_style], -1),
            torch.cat([style.new_zeros(len(segments), N_POSE), pose_style], -1),
        )
        noise = torch.randn(len(segments), frames, N_EXPRESSION + N_POSE, generator=torch.Generator().manual_seed(0))
        noise = noise * noise_scale(self.face_model.slices)
        motion = sample_window(model, audio, None, references, noise.to(device), steps=6)
        generated = model.denormalise(motion[..., :N_EXPRESSION], "expression").cpu()
        real = torch.from_numpy(np.stack([clip.expression[start : start + frames] for clip, start in segments]))
        return generated, real

    def validate(self, model: MotionTraining) -> tuple[float, dict[str, float]]:
        """On held-back clips: correlation of mouth opening, its spread, distance of the lips over that of a mouth that
        keeps the clip's mean shape, and jitter (mean third difference of the opening, generated over real)."""
        numbers = {}
        lips = list(LIPS)
        for name, clips in (("dominant", self.dominant), ("others", self.others)):
            if not clips:
                continue
            frames = min(self.config.window, *(len(clip) for clip in clips))
            segments = [(c, start) for c in clips for start in range(0, len(c) - frames + 1, frames)]
            generated, real = self._generate(model.motion, segments, frames)
            points = [self.face_model.vertices(torch.zeros(80), x)[..., lips, :] for x in (generated, real)]
            still = points[1].mean(1, keepdim=True)
            distance = [(x - points[1]).norm(dim=-1).mean((1, 2)) for x in (points[0], still)]
            openings = [opening(self.face_model, x).numpy() for x in (generated, real)]
            jitter = [np.abs(np.diff(x, 3, axis=1)).mean() for x in openings]
            numbers[f"{name}_correlation"] = float(np.mean([correlation(a, b) for a, b in zip(*openings, strict=True)]))
            numbers[f"{name}_spread"] = float(openings[0].std(1).mean() / openings[1].std(1).mean())
            numbers[f"{name}_lip_distance"] = float((distance[0] / distance[1]).mean())
            numbers[f"{name}_jitter"] = float(jitter[0] / jitter[1])
        found = [v for k, v in numbers.items() if k.endswith("correlation")]
        return 1 - float(np.mean(found)), numbers

    def export(self, model: MotionTraining, path: Path, provenance: dict) -> None:
        model.motion.save(path, provenance)


def make_task(
    folders: list[Path], batch_size: int = 16, cache: Path | None = None, seed: int = 0,
    lip_expert: Path | None = None, scale: str = "shipped", mask_width: int | None = 2,
    audio_encoder: Path | None = None, phones: bool = True, lip_weight: float = LIP, dominant_share: float = 0.5,
    aligned: bool = True, augmented: bool = True, speech_model: Path | None = None, speech_layer: int | None = None,
    start: Path | None = None, audio_lead: float = 0.25,
) -> MotionTask:  # fmt: skip
    """Stage-1 training on prepared clips.

    Args:
        folders: prepared clips.
        scale: "shipped" or "paper".
        mask_width: half-width of the alignment mask in frames, -1 = off.
        audio_encoder: weights of `fd2talk train audio-encoder` to start from.
        phones: go on learning phones of synthesised voices beside the motion.
        lip_weight: of the lip expert's loss, 0 = without.
        dominant_share: share of windows from talkers with 50 clips and more.
        aligned: use the clips' offsets between sound and picture (`fd2talk align`).
        augmented: vary voice, room and noise.
        speech_model: folder of a wav2vec 2.0, HuBERT, ... model of transformers, whose features replace log-mel. They
            are not augmented, and nothing is pretrained on phones. scale=paper needs one.
        speech_layer: which of its layers, default the last.
        start: motion weights to go on from, with their statistics.
        audio_lead: written into the weights, see MotionConfig. The talker that all are aligned with may have a lag of
            his own; GRID's lips come about a frame after those of most other sources.
    """
    expert = LipExpert.load(lip_expert or default_weights("lip_expert"))
    presets = {"shipped": MotionConfig.shipped, "paper": MotionConfig.paper_scale}
    if scale not in presets:
        raise UserError(f"There is no motion model scale called '{scale}'. Choose one of: {', '.join(presets)}.")
    config = MotionConfig(**{**vars(presets[scale]()), "mask_width": None if mask_width == -1 else mask_width})
    config = replace(config, audio_lead=audio_lead)
    clips = load_speech(folders, cache, aligned)
    if speech_model:
        if audio_encoder:
            raise UserError("A speech model takes the place of the audio encoder. Give only one of the two.")
        speech = SpeechFeatures.load(speech_model, layer=speech_layer)
        add_features(clips, folders, speech, cache or Path(folders[0]).parent / "cache" / "motion")
        config = replace(config, audio_features=speech.width)
    elif config.audio_features:
        raise UserError(f"The scale '{scale}' reads features of a speech model. Add --set speech_model=FOLDER.")
    windows = None
    if phones and not speech_model:
        corpus = phone_corpus(cache or Path(folders[0]).parent / "cache")
        windows = PhoneWindows(corpus, PHONE_LENGTH + 2 * HALO, seed)
    return MotionTask(
        clips, expert, config, batch_size, seed, windows, audio_encoder, lip_weight,
        dominant_share, augmented, start,
    )  # fmt: skip
