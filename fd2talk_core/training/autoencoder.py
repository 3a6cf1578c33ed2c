"""`fd2talk train autoencoder`: distil TAEF1 into the small face autoencoder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from ..errors import UserError
from ..frames.autoencoder import LATENT_FACTOR, Autoencoder
from .data import Clip, list_clips
from .loop import TrainSettings
from .losses import gradient_loss, laplacian, sharpness_loss

log = logging.getLogger(__name__)

SETTINGS = TrainSettings(lr=1.5e-3, minutes=30, weight_decay=1e-4, ema=0.998, warmup=300, validate_minutes=4)
SIZE, CROP = 256, 128
LABELLED = 400  # pictures whose teacher latents are cached; TAEF1 is slow on a CPU


def load_taef1(folder: Path) -> AutoencoderTiny:
    """TAEF1 from `taef1_encoder.safetensors` and `taef1_decoder.safetensors` (madebyollin's layout, MIT)."""
    files = [folder / f"taef1_{part}.safetensors" for part in ("encoder", "decoder")]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise UserError(f"The teacher autoencoder {missing[0]} is missing. Pass --teacher with the folder it lies in.")
    encoder, decoder = (load_file(file) for file in files)
    state = {f"encoder.layers.{key}": value.float() for key, value in encoder.items()}
    for key, value in decoder.items():
        number, rest = key.split(".", 1)
        state[f"decoder.layers.{int(number) - 1}.{rest}"] = value.float()
    teacher = AutoencoderTiny(latent_channels=16)
    teacher.load_state_dict(state)
    return teacher.eval()


def _variants(clip: Clip, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Training pictures of one clip, uint8 (256, 256, 3): whole and zoomed, and flipped."""
    frames = clip.frames()
    if not clip.still:
        wanted = 1 if clip.name.startswith("grid_") else 12
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, wanted).astype(int)]
    for frame in frames:
        zooms = (1.0, rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9)) if clip.still else (rng.choice([1.0, 0.8]),)
        for zoom in zooms:
            side = max(int(frame.shape[0] * zoom), min(SIZE, frame.shape[0]))
            x, y = rng.integers(0, frame.shape[0] - side + 1, 2)
            picture = Image.fromarray(frame[y : y + side, x : x + side]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            picture = np.asarray(picture)
            yield picture[:, ::-1] if rng.random() < 0.5 else picture


def _load_pictures(folders: list[Path], held_back: bool, grid: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    clips = [c for folder in folders for c in list_clips(folder) if c.held_back == held_back]
    talker = [c for c in clips if c.name.startswith("grid_")]
    clips = [c for c in clips if not c.name.startswith("grid_")] + talker[:: max(1, len(talker) // grid)]
    return np.stack([picture for clip in clips for picture in _variants(clip, rng)])


def _started(path: Path) -> Autoencoder:
    """A new autoencoder with the weights of another, which may have more blocks than the present configuration."""
    model, other = Autoencoder(), Autoencoder.load(path)
    own = model.state_dict()
    model.load_state_dict({key: value for key, value in other.state_dict().items() if key in own})
    return model


def _to_float(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


class AutoencoderTask:
    """Reconstruction through the student's own and through the teacher's latents, latents pulled to the teacher's."""

    name = "autoencoder"

    def __init__(self, folders: list[Path], teacher: Path, cache: Path, batch_size: int, start: Path | None,
                 sharpness: float, train_encoder: bool, latent_weight: float):  # fmt: skip
        self.model = (_started(start) if start else Autoencoder()).to(memory_format=torch.channels_last)
        self.model.encoder.requires_grad_(train_encoder)
        self.sharpness, self.latent_weight = sharpness, latent_weight
        self.batch_size = batch_size
        cache.mkdir(parents=True, exist_ok=True)
        taef1 = load_taef1(teacher).to(memory_format=torch.channels_last)
        self.pictures, self.latents = self._cached(cache / "train", taef1, folders, False)
        self.valid_pictures, self.valid_latents = self._cached(cache / "valid", taef1, folders, True)
        log.info("%d training pictures, %d for validation", len(self.pictures), len(self.valid_pictures))

    @staticmethod
    @torch.no_grad()
    def _cached(path: Path, teacher: AutoencoderTiny, folders: list[Path], held_back: bool):
        """Shuffled pictures (N, 256, 256, 3) and the teacher's latents of the first LABELLED of them."""
        pictures_file, latents_file = path.with_suffix(".pictures.npy"), path.with_suffix(".latents.npy")
        if not latents_file.is_file():
            pictures = _load_pictures(folders, held_back, 40 if held_back else 250)
            pictures = pictures[np.random.default_rng(1).permutation(len(pictures))[: 96 if held_back else None]]
            latents = []
            for start in range(0, min(LABELLED, len(pictures)), 8):
                with torch.autocast("cpu", torch.bfloat16):
                    part = _to_float(pictures[start : start + 8]).contiguous(memory_format=torch.channels_last)
                    # TAEF1 takes -1..1; shown 0..1 it gives the latents of half the contrast that our space is made of.
                    latents.append(teacher.encoder(part).half().numpy())
            np.save(pictures_file, pictures)
            np.save(latents_file, np.concatenate(latents))
        return np.load(pictures_file, mmap_mode="r"), np.load(latents_file, mmap_mode="r")

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng()
        places = (SIZE - CROP) // LATENT_FACTOR + 1
        cells = CROP // LATENT_FACTOR
        labelled = self.batch_size // 3
        while True:
            chosen = rng.integers(0, len(self.pictures), self.batch_size)
            chosen[:labelled] = rng.integers(0, len(self.latents), labelled)
            corners = rng.integers(0, places, (self.batch_size, 2))
            pictures, latents = [], []
            for index, (y, x) in zip(chosen, corners, strict=True):
                top, left = y * LATENT_FACTOR, x * LATENT_FACTOR
                pictures.append(self.pictures[index, top : top + CROP, left : left + CROP])
                if len(latents) < labelled:
                    latents.append(self.latents[index, :, y : y + cells, x : x + cells])
            yield {
                "pictures": _to_float(np.stack(pictures)).contiguous(memory_format=torch.channels_last),
                "latents": torch.from_numpy(np.stack(latents)).float(),
            }

    def loss(self, model, batch):
        pictures, target = batch["pictures"], batch["latents"]
        latents, decoded = model(pictures, target)
        decoded = decoded.float()
        # Context beyond the crop is missing at its edges, so the outermost cells are not compared.
        latent = F.mse_loss(latents.float()[: len(target), :, 1:-1, 1:-1], target[..., 1:-1, 1:-1])
        pixel = (decoded - pictures).abs().mean()
        square = F.mse_loss(decoded, pictures)
        loss = pixel + 4 * square + 0.5 * gradient_loss(decoded, pictures) + self.latent_weight * latent
        if self.sharpness:
            loss = loss + self.sharpness * sharpness_loss(decoded, pictures)
        return loss, {"l1": pixel.item(), "latent": latent.item(), "psnr": -10 * square.log10().item()}

    def validate(self, model):
        own, teacher, latent, energy = [], [], [], np.zeros(2)
        for i in range(0, len(self.valid_pictures), 8):
            pictures = _to_float(self.valid_pictures[i : i + 8]).contiguous(memory_format=torch.channels_last)
            target = torch.from_numpy(self.valid_latents[i : i + 8].astype(np.float32))
            with torch.autocast("cpu", torch.bfloat16):
                latents = model.encode(pictures)
                outputs = model.decode(latents), model.decode(target)
            for store, output in zip((own, teacher), outputs, strict=True):
                error = ((output.float().clamp(0, 1) - pictures) ** 2).mean((1, 2, 3))
                store += (-10 * error.log10()).tolist()
            latent.append(F.mse_loss(latents.float(), target).item())
            energy += [float((laplacian(picture.float()) ** 2).sum()) for picture in (outputs[0], pictures)]
        numbers = {"psnr": np.mean(own), "psnr_teacher_latents": np.mean(teacher), "latent_mse": np.mean(latent)}
        numbers["sharpness"] = energy[0] / energy[1]
        # With the sharpness term, a decibel is worth a fifth of the real pictures' fine detail.
        lacking = 5 * max(0.0, 0.9 - numbers["sharpness"]) if self.sharpness else 0.0
        return float(lacking - numbers["psnr"]), numbers

    def export(self, model, path, provenance):
        model.save(path, provenance)


def make_task(
    data: list[Path], teacher: Path = Path("../shared/models"), cache: Path = Path("data/cache/autoencoder"),
    batch_size: int = 24, start: Path | None = None, sharpness: float = 0.0, train_encoder: int = 1,
    latent_weight: float = 0.1,
) -> AutoencoderTask:  # fmt: skip
    """`teacher`: folder with the two TAEF1 files; `cache`: where pictures and teacher latents are kept.

    `start`: weights to go on from; `sharpness`: weight of the sharpness loss; `train_encoder=0`: train the decoder
    alone, so that the latents stay what they are; `latent_weight`: pull of the latents towards the teacher's.
    """
    start = Path(start) if start else None
    return AutoencoderTask(
        data, Path(teacher), Path(cache), batch_size, start, sharpness, bool(train_encoder), latent_weight
    )
