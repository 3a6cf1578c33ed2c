"""`fd2talk train frames`: the frame UNet with its appearance and motion encoders."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..device import autocast, pick_device
from ..face.geometry import around
from ..face.model import FaceModel
from ..frames.autoencoder import LATENT_FACTOR, Autoencoder
from ..frames.model import FrameModel
from ..frames.sampling import TEMPERATURE, make_scheduler
from ..frames.unet import UNetConfig
from .critic import Adversary
from .frames_data import SIZE, StoredPairs, build_latents, build_pairs
from .loop import TrainSettings
from .losses import gradient_loss, laplacian, sharpness_loss
from .pair_stream import IN_A_ROW, FreshPairs, PairStream
from .regions import pixel_regions
from .warp import load_refiner

log = logging.getLogger(__name__)

SETTINGS = TrainSettings(lr=4e-4, minutes=60, weight_decay=0.01, ema=0.999, warmup=200, validate_minutes=5)
PATCH = 12  # latent cells of the patch that is decoded for the pixel loss
MARGIN = 8  # pixels at the patch's edge that lack context and do not count
MASK_WEIGHTS = (3.0, 4.0, 3.0, 1.0)  # lips, mouth opening, eyes, face; on top of 1 everywhere
DROP = 0.05
MOVING_WEIGHT = 2.0  # of changes of the error over time, where frames follow each other
VALID_BATCH = 16
LARGE = 512
# Share of warps that are blurred at the mouth, the eyes or in the whole face, so that what they should show has to be
# looked up in the portrait.
VEILED, VEIL = 0.1, 7  # the latter in latent cells
# Shares of batches: a second step after the network's own first one, any noise level; the rest starts at pure noise.
SECOND_STEP, ANY_LEVEL = 0.3, 0.2
TRAINED_ON = (
    "target", "warped", "bare", "guide", "reference", "expression", "offset", "beta", "pose", "centres", "pixels",
)  # fmt: skip


def _patches(maps: torch.Tensor, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Cut (N, C, side, side) at per-sample corners (N, 2) = y, x."""
    rows, columns = (corners[:, axis, None] + torch.arange(side, device=maps.device) for axis in (0, 1))
    number = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps[number, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def predict(
    model: nn.Module, batch: dict[str, torch.Tensor], x: torch.Tensor, level: torch.Tensor, frames: int = 1
) -> torch.Tensor:
    """The clean residual (N, 16, h, w) that a `FrameModel` sees in a noisy one at noise levels (N,); each `frames`
    samples follow each other in time."""
    motion = (batch["expression"], batch["offset"], batch["beta"], batch["pose"])
    return model(
        x, level, batch["warped"], batch["seen_guide"], batch["reference"], motion,
        batch["drop_motion"], batch["drop_appearance"], frames,
    ).float()  # fmt: skip


@torch.no_grad()
def sampled(model: nn.Module, batch: dict[str, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
    """Residuals (N, 16, h, w) as sampling makes them by default, in two steps from noise (N or 1, 16, h, w)."""
    count, device = len(batch["pose"]), batch["pose"].device
    nothing = torch.zeros(count, dtype=torch.bool, device=device)
    batch = batch | {"drop_motion": nothing, "drop_appearance": nothing}
    x = TEMPERATURE * noise.to(device).expand(count, -1, -1, -1)
    sigmas = make_scheduler(2).sigmas.to(device)
    for level, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        clean = predict(model, batch, x, level.expand(count))
        x = clean + (x - clean) / level * following
    return x


class FramesTask:
    """Flow matching on the residual between the frame's latent and the encoded warp, plus pixels of mouth and eyes.

    Few steps are trained as they are used: from pure noise of any temperature, and from where the network's own first
    step leads. Batches of 512-px pairs are cut to the same number of cells, around mouth or eyes.
    """

    name = "frames"

    def __init__(
        self,
        folders: list[Path],
        cache: Path,
        pairs_cache: Path,
        autoencoder: Path | None,
        warp: Path | None,
        batch_size: int,
        pairs: int,
        large: float,
        weights: dict[str, float],
        start: Path | None,
        config: dict,
        fresh: int,
        capacity: int,
        stills: float,
        valid: int,
    ):
        self.face = face = FaceModel.load()
        frozen = Autoencoder.load(autoencoder).requires_grad_(False).to(memory_format=torch.channels_last)
        started = FrameModel.load(start, autoencoder) if start else None
        config = UNetConfig(**config, refine=bool(warp) or bool(started and started.refiner))
        refiner = load_refiner(warp, face.exp_std) if warp else started.refiner if started else None

        def source(held: bool, name: str, count: int, side: int = SIZE) -> StoredPairs | PairStream:
            if fresh and not held:
                made = FreshPairs(folders, face, refiner, config.motion_radius, side, stills)
                share = large if side == LARGE else 1 - large
                return PairStream(
                    made, max(1, round(fresh * share)), frozen, pick_device(), round(capacity * share)
                )  # fmt: skip
            pairs = build_pairs(folders, pairs_cache / name, held, count, face, config.motion_radius, side)
            latents = build_latents(pairs, cache / name, face, frozen, refiner)
            return StoredPairs({name: (pairs | latents)[name] for name in TRAINED_ON}, face)

        self.data = source(False, "train", pairs)
        self.large, self.large_data = large, source(False, "large", pairs // 10, LARGE) if large else None
        self.held = source(True, "valid", valid)
        self.scale = started.residual_scale if started else float(self.data.residuals(config.geometry).std())
        self.model = FrameModel(config, frozen, face.exp_std, self.scale, face.hash)
        if started:
            own = self.model.state_dict()
            self.model.load_state_dict({**own, **{k: v for k, v in started.state_dict().items() if k in own}})
        if refiner is not None:
            self.model.refiner.load_state_dict(refiner.state_dict())
            self.model.refiner.requires_grad_(False)
        self.model = self.model.to(memory_format=torch.channels_last)
        # Layers over time are added to a network that is trained already, which they leave as it is.
        self.frames = IN_A_ROW if config.temporal else 1
        if config.temporal and started:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_("temporal" in name)
        self.batch_size, self.weights = batch_size, weights
        self.decode = frozen.decode
        self.adversary: Adversary | None = None
        own = sum(p.numel() for p in self.model.parameters()) - sum(p.numel() for p in frozen.parameters())
        log.info("%d pairs, residual scale %.3f, %.2f M parameters", len(self.data), self.scale, own / 1e6)

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng()
        cells, count = SIZE // LATENT_FACTOR, self.batch_size
        while True:
            source = self.large_data if self.large and rng.random() < self.large else self.data
            batch = self._given(source.draw(count, self.frames))
            device = batch["pose"].device
            noise = torch.randn(count // self.frames, 16, cells, cells, device=device)
            batch["noise"] = noise.repeat_interleave(self.frames, 0)  # the same over time, as in sampling
            kind, level, strength = rng.random(), np.ones(count), np.ones(count)
            if kind < SECOND_STEP:
                level[:], strength[:] = float(make_scheduler(2).sigmas[1]), TEMPERATURE
            elif kind < SECOND_STEP + ANY_LEVEL:
                level[:] = rng.uniform(0.02, 1, count // self.frames).repeat(self.frames)
            else:
                strength[:] = rng.uniform(0, 1, count // self.frames).repeat(self.frames)
            drop = rng.random(count // self.frames).repeat(self.frames)
            batch["second"] = kind < SECOND_STEP
            batch["level"] = torch.from_numpy(level).float().to(device)
            batch["noise"] *= torch.from_numpy(strength).float().to(device)[:, None, None, None]
            batch["drop_motion"] = torch.from_numpy(drop < 2 * DROP).to(device)
            batch["drop_appearance"] = torch.from_numpy((drop > DROP) & (drop < 3 * DROP)).to(device)
            if self.model.config.geometry:
                self._veil(batch)
            self._cut(batch, cells)
            yield batch

    @staticmethod
    def _veil(batch: dict[str, torch.Tensor]) -> None:
        """Blur some samples' warps where masks say."""
        count, device = len(batch["guide"]), batch["guide"].device
        lips, mouth, eyes, face = batch["guide"][:, :4].split(1, 1)
        choices = torch.stack([around(lips + mouth, 1), around(eyes, 1), face])
        mask = choices[torch.randint(3, (count,), device=device), torch.arange(count, device=device)].clamp(0, 1)
        mask = mask * (torch.rand(count, 1, 1, 1, device=device) < VEILED)
        warped = batch["warped"]
        blurred = F.avg_pool2d(warped, VEIL, 1, VEIL // 2, count_include_pad=False)
        batch["warped"] = warped + mask * (blurred - warped)

    def _cut(self, batch: dict[str, torch.Tensor], cells: int) -> None:
        """Cut large pairs to `cells`, and the pixels to the patch that is decoded: around the mouth in two of three,
        else around an eye; of blinks, mostly around an eye."""
        blink, device = batch.pop("blink"), batch["pose"].device
        count, whole = len(blink), batch["guide"].shape[-1]
        # The same places in frames that follow each other.
        groups = count // self.frames
        eye, left = torch.rand(2, groups, device=device).repeat_interleave(self.frames, 1)
        place = (eye < torch.where(blink, 0.8, 0.34)).long() * (1 + (left < 0.5).long())
        centre = batch.pop("centres")[torch.arange(count, device=device), place] * whole  # (N, 2) as x, y
        jitter = torch.randint(-1, 2, (count, 2), device=device)
        corners = ((centre - PATCH / 2).round().long() + jitter).clamp(0, whole - PATCH).flip(1)
        patch = _patches(batch.pop("pixels"), corners * LATENT_FACTOR, PATCH * LATENT_FACTOR).float() / 255
        if whole > cells:
            shift = torch.randint(0, cells - PATCH + 1, (groups, 2), device=device).repeat_interleave(self.frames, 0)
            window = (corners - shift).clamp(0, whole - cells)
            for name in ("target", "warped", "bare", "guide", "seen_guide"):
                batch[name] = _patches(batch[name], window, cells)
            corners = corners - window
        batch["corners"], batch["patch"] = corners, patch
        for name in ("target", "warped", "noise", "seen_guide", "reference", "patch"):
            batch[name] = batch[name].contiguous(memory_format=torch.channels_last)

    def _given(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the network may see; in the pure form neither the warp nor its guide."""
        batch["seen_guide"] = batch["guide"]
        if not self.model.config.geometry:
            batch["warped"] = torch.zeros_like(batch["warped"])
            batch["seen_guide"] = torch.zeros_like(batch["guide"])
        return batch

    def loss(self, model, batch):
        residual = (batch["target"] - batch["warped"]) / self.scale
        level = batch["level"][:, None, None, None]
        first = residual
        if batch["second"]:
            with torch.no_grad():
                first = predict(model, batch, batch["noise"], torch.ones_like(batch["level"]), self.frames)
        clean = predict(model, batch, (1 - level) * first + level * batch["noise"], batch["level"], self.frames)
        masks = batch["guide"][:, :4]
        weight = 1 + sum(w * masks[:, i : i + 1] for i, w in enumerate(MASK_WEIGHTS))
        latent = (weight * (clean - residual).abs()).mean()
        predicted = batch["warped"] + self.scale * clean
        decoded = self.decode(_patches(predicted, batch["corners"], PATCH)).float()
        inner = slice(MARGIN, -MARGIN)
        decoded, real = decoded[..., inner, inner], batch["patch"][..., inner, inner]
        pixel = (decoded - real).abs().mean()
        edges, sharp = gradient_loss(decoded, real), sharpness_loss(decoded, real)
        loss = latent + self.weights["pixel"] * (pixel + edges + self.weights["sharp"] * sharp)
        numbers = {"latent": latent.detach(), "pixel": pixel.detach(), "edges": edges.detach(), "sharp": sharp.detach()}
        if self.frames > 1:
            error = (predicted - batch["target"]).unflatten(0, (-1, self.frames)) / self.scale
            moving = error.diff(dim=1).abs().mean()
            loss, numbers["moving"] = loss + MOVING_WEIGHT * moving, moving.detach()
        if self.weights["adversary"]:
            if self.adversary is None:
                self.adversary = Adversary(decoded.device)
            with torch.no_grad():
                warped = self.decode(_patches(batch["bare"], batch["corners"], PATCH)).float()[..., inner, inner]
            fooled, numbers["critic"] = self.adversary(decoded, real, warped)
            loss = loss + self.weights["adversary"] * fooled
            numbers["fooled"] = fooled.detach()
        return loss, numbers

    @torch.no_grad()
    def validate(self, model):
        """Mouth error against that of the bare warp (both through the autoencoder), on held-back people."""
        model.eval()
        device = next(model.parameters()).device
        names = ("mouth", "mouth_warp", "eyes", "eyes_warp", "face", "face_warp", "sharp", "sharp_warp", "sharp_real")
        sums = dict.fromkeys(names, 0.0)
        cells = SIZE // LATENT_FACTOR
        noise = torch.randn(1, 16, cells, cells, generator=torch.Generator().manual_seed(0))
        rows = np.arange(len(self.held))
        for start in range(0, len(rows), VALID_BATCH):
            batch = self._given(self.held.take(rows[start : start + VALID_BATCH]))
            batch = {key: value.to(device) for key, value in batch.items()}
            with autocast(device):
                x = sampled(model, batch, noise)
                pictures = self.decode(batch["warped"] + self.scale * x).float().clamp(0, 1)
                warped = self.decode(batch["bare"]).float().clamp(0, 1)
            real = batch["pixels"].float() / 255
            regions = pixel_regions(batch["guide"], SIZE, 1)
            for name, mask in regions.items():
                sums[name] += float(((pictures - real).abs() * mask).sum())
                sums[f"{name}_warp"] += float(((warped - real).abs() * mask).sum())
            for name, picture in (("sharp", pictures), ("sharp_warp", warped), ("sharp_real", real)):
                sums[name] += float((laplacian(picture) ** 2 * regions["mouth"][..., 1:-1, 1:-1]).sum())
        numbers = {f"{name}_ratio": sums[name] / sums[f"{name}_warp"] for name in ("mouth", "eyes", "face")}
        numbers["sharpness"] = sums["sharp"] / sums["sharp_real"]
        numbers["sharpness_warp"] = sums["sharp_warp"] / sums["sharp_real"]
        score = numbers["mouth_ratio"] + 0.5 * numbers["face_ratio"] + 0.25 * numbers["eyes_ratio"]
        return score + 0.3 * max(0.0, 0.8 - numbers["sharpness"]), numbers

    def export(self, model, path, provenance):
        model.save(path, provenance)


def make_task(
    data: list[Path], cache: Path = Path("data/cache/frames"), pairs_cache: Path = Path("data/cache/pairs"),
    autoencoder: Path | None = None, warp: Path | None = None, batch_size: int = 24, pairs: int = 9600,
    large: float = 0.0, pixel_weight: float = 6.0, sharp_weight: float = 0.5, adversary_weight: float = 0.0,
    start: Path | None = None, geometry: int = 1, joint_attention: int = 0, temporal: int = 0, fresh: int = 0,
    capacity: int = 60_000, stills: float = 0.25, valid: int = 240,
) -> FramesTask:  # fmt: skip
    """`pairs_cache`: where pairs are kept, `cache`: their latents; `pairs`: how many to make; `warp`: weights of
    `fd2talk train warp`; `large`: share of batches from 512-px pairs; `pixel_weight`, `sharp_weight`,
    `adversary_weight`: of decoded patches, of their fine detail within that, and of the critic; `start`: weights to
    begin with instead of none; `geometry=0`, `joint_attention=1`, `temporal=1`: variants of the network (of the last,
    with `start`, only the layers over time are trained). `fresh`: number of processes that make pairs anew while a GPU
    trains, instead of stored ones; `capacity`: how many of them are kept, at 0.4 MB each on the GPU; `stills`: share of
    chunks that are made of stills; `valid`: number of held-back pairs.
    """
    weights = {"pixel": pixel_weight, "sharp": sharp_weight, "adversary": adversary_weight}
    variant = {"geometry": bool(geometry), "joint_attention": bool(joint_attention), "temporal": bool(temporal)}
    paths = [Path(path) if path else None for path in (autoencoder, warp, start)]
    return FramesTask(
        data, Path(cache), Path(pairs_cache), paths[0], paths[1], batch_size, pairs, large, weights, paths[2], variant,
        fresh, capacity, stills, valid,
    )  # fmt: skip
