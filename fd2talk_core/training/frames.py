"""`fd2talk train frames`: the frame UNet with its appearance and motion encoders."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..device import autocast
from ..face.landmarks import eye_opening, mouth_opening
from ..face.model import FaceModel
from ..frames.autoencoder import LATENT_FACTOR, Autoencoder
from ..frames.model import FrameModel
from ..frames.sampling import TEMPERATURE, make_scheduler
from ..frames.unet import UNetConfig
from .frames_data import CELLS, build_pairs
from .loop import TrainSettings
from .losses import gradient_loss, sharpness_loss

log = logging.getLogger(__name__)

SETTINGS = TrainSettings(lr=4e-4, minutes=60, weight_decay=0.01, ema=0.999, warmup=200, validate_minutes=5)
PATCH = 12  # latent cells of the patch that is decoded for the pixel loss
MARGIN = 8  # pixels at the patch's edge that lack context and do not count
MASK_WEIGHTS = (3.0, 4.0, 3.0, 1.0)  # lips, mouth opening, eyes, face; on top of 1 everywhere
PURE_NOISE_SHARE = 0.4  # few-step sampling starts there, so it is trained more than its share
DROP = 0.1
# Closing eyes and opening mouths are rare in video, and what the warp does worst: such pairs come more often.
BLINK_FACTOR, SPEECH_FACTOR = 6.0, 2.0


def _patches(maps: torch.Tensor, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Cut (N, C, side, side) at per-sample corners (N, 2) = y, x."""
    return torch.stack([m[:, y : y + side, x : x + side] for m, (y, x) in zip(maps, corners.tolist(), strict=True)])


class FramesTask:
    """Flow matching on the residual between the frame's latent and the encoded warp, plus pixels of mouth and eyes."""

    name = "frames"

    def __init__(self, folders: list[Path], cache: Path, autoencoder: Path | None, batch_size: int, pairs: int,
                 pixel_weight: float, start: Path | None):  # fmt: skip
        face = FaceModel.load()
        frozen = Autoencoder.load(autoencoder).requires_grad_(False).to(memory_format=torch.channels_last)
        radius = UNetConfig().motion_radius
        self.data = build_pairs(folders, cache / "train", False, pairs, face, frozen, radius)
        self.held = build_pairs(folders, cache / "valid", True, 240, face, frozen, radius)
        started = FrameModel.load(start, autoencoder) if start else None
        residual = self.data["target"][::20].astype(np.float32) - self.data["warped"][::20].astype(np.float32)
        self.scale = started.residual_scale if started else float(residual.std())
        self.blinks, speaks = self._events(face)
        chance = 1 + (BLINK_FACTOR - 1) * self.blinks + (SPEECH_FACTOR - 1) * speaks
        self.chance = chance / chance.sum()
        self.model = FrameModel(UNetConfig(), frozen, face.exp_std, self.scale, face.hash)
        if started:
            self.model.load_state_dict(started.state_dict())
        self.model = self.model.to(memory_format=torch.channels_last)
        self.batch_size, self.pixel_weight = batch_size, pixel_weight
        self.decode = frozen.decode
        own = sum(p.numel() for p in self.model.parameters()) - sum(p.numel() for p in frozen.parameters())
        log.info("%d pairs, %d blinks, %d open mouths", len(speaks), self.blinks.sum(), speaks.sum())
        log.info("%d pairs, residual scale %.3f, %.2f M parameters", len(self.data["pose"]), self.scale, own / 1e6)

    def _events(self, face: FaceModel) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs (N,) close the eyes, and which open the mouth, from reference to target."""
        middle = self.data["expression"].shape[1] // 2
        openings = []
        for beta in (self.data["expression"][:, middle], self.data["beta"]):
            parts = torch.from_numpy(beta.astype(np.float32)).split(1024)
            shapes = [face.vertices(torch.zeros(len(part), 80), part) for part in parts]
            openings.append([torch.cat([measure(s) for s in shapes]) for measure in (eye_opening, mouth_opening)])
        (eyes, mouth), (reference_eyes, reference_mouth) = openings
        blinks = (eyes < 0.65 * reference_eyes) & (reference_eyes > 0.15)
        return blinks.numpy(), (mouth > reference_mouth + 0.08).numpy()

    def _batch(self, source: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, torch.Tensor]:
        batch = {name: torch.from_numpy(np.stack([values[i] for i in rows])) for name, values in source.items()}
        return {name: value if value.dtype == torch.uint8 else value.float() for name, value in batch.items()}

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng()
        while True:
            rows = rng.choice(len(self.chance), self.batch_size, p=self.chance)
            batch = self._batch(self.data, rows)
            count = len(batch["pose"])
            level = torch.from_numpy(rng.uniform(0.02, 1, count)).float()
            level[torch.from_numpy(rng.random(count) < PURE_NOISE_SHARE)] = 1.0
            batch["level"] = level
            batch["noise"] = torch.randn_like(batch["target"])
            drop = torch.from_numpy(rng.random(count))
            batch["drop_motion"] = drop < 2 * DROP
            batch["drop_appearance"] = (drop > DROP) & (drop < 3 * DROP)
            # Two of three patches look at the mouth, the others at an eye; of blinks, mostly at an eye.
            places = [rng.choice(3, p=(0.2, 0.4, 0.4) if blink else (0.66, 0.17, 0.17)) for blink in self.blinks[rows]]
            place = torch.tensor(places)
            centre = batch.pop("centres")[torch.arange(count), place] * CELLS  # (N, 2) as x, y
            jitter = torch.from_numpy(rng.integers(-1, 2, (count, 2)))
            corners = ((centre - PATCH / 2).round().long() + jitter).clamp(0, CELLS - PATCH).flip(1)
            batch["corners"] = corners
            pixels = batch.pop("pixels").float() / 255
            batch["patch"] = _patches(pixels, corners * LATENT_FACTOR, PATCH * LATENT_FACTOR)
            for name in ("target", "warped", "noise", "guide", "reference", "patch"):
                batch[name] = batch[name].contiguous(memory_format=torch.channels_last)
            yield batch

    def loss(self, model, batch):
        level = batch["level"][:, None, None, None]
        residual = (batch["target"] - batch["warped"]) / self.scale
        x = (1 - level) * residual + level * batch["noise"]
        motion = (batch["expression"], batch["offset"], batch["beta"], batch["pose"])
        clean = model(
            x, batch["level"], batch["warped"], batch["guide"], batch["reference"], motion,
            batch["drop_motion"], batch["drop_appearance"],
        ).float()  # fmt: skip
        masks = batch["guide"][:, :4]
        weight = 1 + sum(w * masks[:, i : i + 1] for i, w in enumerate(MASK_WEIGHTS))
        latent = (weight * (clean - residual).abs()).mean()
        predicted = batch["warped"] + self.scale * clean
        decoded = self.decode(_patches(predicted, batch["corners"], PATCH)).float()
        inner = slice(MARGIN, -MARGIN)
        decoded, real = decoded[..., inner, inner], batch["patch"][..., inner, inner]
        pixel = (decoded - real).abs().mean()
        edges, sharp = gradient_loss(decoded, real), sharpness_loss(decoded, real)
        loss = latent + self.pixel_weight * (pixel + edges + 0.5 * sharp)
        return loss, {"latent": latent.item(), "pixel": pixel.item(), "edges": edges.item(), "sharp": sharp.item()}

    @torch.no_grad()
    def validate(self, model):
        """Mouth error against that of the warp alone (both through the autoencoder), on held-back people."""
        model.eval()
        sums = dict.fromkeys(("mouth", "mouth_warp", "face", "face_warp", "sharp", "sharp_warp", "sharp_real"), 0.0)
        noise = TEMPERATURE * torch.randn(1, 16, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
        sigmas = make_scheduler(2).sigmas
        rows = np.arange(len(self.held["pose"]))
        for start in range(0, len(rows), 16):
            batch = self._batch(self.held, rows[start : start + 16])
            count = len(batch["pose"])
            keep = torch.zeros(count, dtype=torch.bool)
            motion = (batch["expression"], batch["offset"], batch["beta"], batch["pose"])
            with autocast(torch.device("cpu")):
                x = noise.expand(count, -1, -1, -1)
                for level, following in zip(sigmas[:-1], sigmas[1:], strict=True):
                    levels = level.expand(count)
                    inputs = (x, levels, batch["warped"], batch["guide"], batch["reference"], motion, keep, keep)
                    clean = model(*inputs).float()
                    x = clean + (x - clean) / level * following
                pictures = self.decode(batch["warped"] + self.scale * x).float().clamp(0, 1)
                warped = self.decode(batch["warped"]).float().clamp(0, 1)
            real = batch["pixels"].float() / 255
            masks = F.interpolate(batch["guide"][:, :4], scale_factor=float(LATENT_FACTOR), mode="bilinear")
            mouth = F.max_pool2d(masks[:, :1] + masks[:, 1:2], 17, 1, 8).clamp(0, 1)
            for name, mask in (("mouth", mouth), ("face", masks[:, 3:4].clamp(0, 1))):
                sums[name] += float(((pictures - real).abs() * mask).sum())
                sums[f"{name}_warp"] += float(((warped - real).abs() * mask).sum())
            kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)
            for name, picture in (("sharp", pictures), ("sharp_warp", warped), ("sharp_real", real)):
                energy = F.conv2d(picture, kernel, padding=1, groups=3) ** 2
                sums[name] += float((energy * mouth).sum())
        ratio = sums["mouth"] / sums["mouth_warp"]
        numbers = {
            "mouth_ratio": ratio,
            "face_ratio": sums["face"] / sums["face_warp"],
            "sharpness": sums["sharp"] / sums["sharp_real"],
            "sharpness_warp": sums["sharp_warp"] / sums["sharp_real"],
        }
        return ratio + 0.5 * numbers["face_ratio"], numbers

    def export(self, model, path, provenance):
        model.save(path, provenance)


def make_task(
    data: list[Path], cache: Path = Path("data/cache/frames"), autoencoder: Path | None = None,
    batch_size: int = 24, pairs: int = 9000, pixel_weight: float = 6.0,
    start: Path | None = None,
) -> FramesTask:  # fmt: skip
    """`cache`: where encoded pairs are kept; `pairs`: how many to make; `pixel_weight`: of the decoded patches;
    `start`: weights to begin with instead of none.
    """
    return FramesTask(data, Path(cache), autoencoder, batch_size, pairs, pixel_weight, Path(start) if start else None)
