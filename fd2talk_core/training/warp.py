"""`fd2talk train warp`: the correction of the analytic warp, by pixels alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..checkpoint import load_checkpoint, load_state, save_checkpoint
from ..face.geometry import FLOW_GRID, around, warp
from ..face.landmarks import eye_opening
from ..face.model import FaceModel
from ..frames.refine import WarpRefiner, add_light
from ..frames.unet import UNetConfig
from .frames_data import SIZE, build_pairs, take
from .loop import TrainSettings
from .losses import gradient_loss
from .regions import pixel_regions

log = logging.getLogger(__name__)

SETTINGS = TrainSettings(lr=1.5e-3, minutes=15, weight_decay=0.01, ema=0.998, warmup=200, validate_minutes=3)
MASK_WEIGHTS = (4.0, 3.0, 2.0)  # around the mouth, around the eyes, face; on top of 1 everywhere
SMOOTHNESS = 0.02
FLOW_NOISE = 0.004  # of the crop's side: how wrong the tracker of a user's picture may be
FIELDS = ("pixels", "portrait", "flow", "guide", "expression", "offset", "beta", "pose")


def smooth_noise(count: int, grid: int, cells: int, strength: torch.Tensor) -> torch.Tensor:
    """Random displacement fields (N, 2, grid, grid) without detail below 1/cells of the picture."""
    noise = torch.randn(count, 2, cells, cells) * strength[:, None, None, None]
    return F.interpolate(noise, size=(grid, grid), mode="bicubic", align_corners=False)


class WarpTask:
    """The warped portrait should agree with the real frame wherever the portrait shows what is there."""

    name = "warp"

    def __init__(self, folders: list[Path], cache: Path, batch_size: int, pairs: int, start: Path | None):
        self.face = FaceModel.load()
        radius = UNetConfig().motion_radius
        pairs_to_learn = build_pairs(folders, cache / "train", False, pairs, self.face, radius)
        self.data, self.rows = self._fields(pairs_to_learn), self._real(pairs_to_learn)
        self.held = self._fields(build_pairs(folders, cache / "valid", True, 240, self.face, radius))
        self.model = load_refiner(start, self.face.exp_std) if start else WarpRefiner(self.face.exp_std)
        self.batch_size = batch_size
        log.info("%d pairs, %d parameters", len(self.rows), sum(p.numel() for p in self.model.parameters()))

    @staticmethod
    def _fields(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: source[name] for name in FIELDS}

    @staticmethod
    def _real(source: dict[str, np.ndarray]) -> np.ndarray:
        """Rows of pairs that were not made of one picture by the very flow that is to be corrected."""
        return np.flatnonzero(source["made"] == 0)

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng()
        while True:
            batch = take(self.data, rng.choice(self.rows, self.batch_size))
            strength = torch.from_numpy(rng.exponential(FLOW_NOISE / 3, self.batch_size)).float()
            batch["flow"] = batch["flow"] + smooth_noise(self.batch_size, FLOW_GRID, 8, strength)
            batch["weight"] = self._weight(batch)
            yield batch

    def _refined(self, model: nn.Module, batch: dict[str, torch.Tensor]):
        portrait = batch["portrait"].float() / 255
        motion = (batch["expression"], batch["offset"], batch["beta"], batch["pose"])
        with torch.no_grad():
            bare = warp(portrait, batch["flow"])
        flow, light, _ = (part.float() for part in model(bare, portrait, batch["flow"], batch["guide"], *motion))
        return bare, add_light(warp(portrait, flow), light), flow - batch["flow"]

    def _weight(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Where pixels count (N, 1, h, w): not where something opens or closes, for there it is painted."""
        lips, mouth, eyes, face = batch["guide"][:, :4].split(1, 1)
        middle = batch["expression"].shape[1] // 2
        now, rest = (
            eye_opening(self.face.vertices(torch.zeros(len(beta), 80), beta))
            for beta in (batch["expression"][:, middle], batch["beta"])
        )
        closing = (now < 0.7 * rest).float()[:, None, None, None]
        weight = 1 + MASK_WEIGHTS[0] * around(lips + mouth, 3).clamp(0, 1) + MASK_WEIGHTS[2] * face
        weight = weight + MASK_WEIGHTS[1] * around(eyes, 2).clamp(0, 1)
        return weight * (1 - mouth) * (1 - closing * around(eyes, 1).clamp(0, 1))

    def loss(self, model, batch):
        real = batch["pixels"].float() / 255
        _, made, flow = self._refined(model, batch)
        weight = F.interpolate(batch["weight"], size=(SIZE, SIZE), mode="bilinear")
        pixel = (weight * (made - real).abs()).mean()
        edges = gradient_loss(F.avg_pool2d(made, 2), F.avg_pool2d(real, 2))
        smooth = sum(flow.diff(dim=axis).abs().mean() for axis in (2, 3)) * FLOW_GRID
        loss = pixel + edges + SMOOTHNESS * smooth
        return loss, {"pixel": pixel.item(), "edges": edges.item(), "smooth": smooth.item()}

    @torch.no_grad()
    def validate(self, model):
        """Error around mouth and eyes and in the face, over that of the analytic warp, on held-back people."""
        device = next(model.parameters()).device
        sums = {name: np.zeros(2) for name in ("mouth", "eyes", "face", "all")}
        for start in range(0, len(self.held["pose"]), self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, len(self.held["pose"])))
            batch = {key: value.to(device) for key, value in take(self.held, rows).items()}
            real = batch["pixels"].float() / 255
            bare, made, _ = self._refined(model, batch)
            regions = pixel_regions(batch["guide"], SIZE, 2)
            for name, mask in (regions | {"all": torch.ones_like(regions["face"])}).items():
                sums[name] += [float(((picture - real).abs() * mask).sum()) for picture in (made, bare)]
        numbers = {name: ours / bare for name, (ours, bare) in sums.items()}
        return numbers["mouth"] + 0.5 * numbers["face"] + 0.25 * numbers["eyes"], numbers

    def export(self, model, path, provenance):
        face_model = self.face.hash
        save_checkpoint(path, "warp", model.state_dict(), {}, provenance, face_model)


def load_refiner(path: Path, expression_std: torch.Tensor) -> WarpRefiner:
    """The network that `fd2talk train warp` exported; it becomes part of the frames' weights."""
    refiner = WarpRefiner(expression_std)
    load_state(refiner, load_checkpoint(path, "warp").state, path)
    return refiner.eval()


def make_task(
    data: list[Path], cache: Path = Path("data/cache/pairs"), batch_size: int = 24, pairs: int = 9600,
    start: Path | None = None,
) -> WarpTask:  # fmt: skip
    """`cache`: where pairs are kept, the same as for `frames`; `pairs`: how many to make; `start`: weights to go on
    from."""
    return WarpTask(data, Path(cache), batch_size, pairs, Path(start) if start else None)
