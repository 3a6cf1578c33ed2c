"""Time of the usual alternative to stage 2: networks of Stable Diffusion 1.5's size, with random weights.

Most diffusion talking-head systems are built on that UNet and that autoencoder. Random weights take the same time as
trained ones, so nothing is downloaded. One UNet step and one decoding are timed and multiplied. What such systems
add (classifier-free guidance, reference and temporal networks) is left out, in their favour.

`python -m fd2talk_core.evaluation.bench_alternative JSON` is the process that measures, with `measure`'s arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch

from ..device import pick_device
from .apart import median_seconds, run_apart
from .bench_frames import PRECISIONS, peak_vram_mb

STEPS = 20
REPEATS = 3
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "layers_per_block": 2,
    "attention_head_dim": 8,
}
AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
TEXT_TOKENS, LATENT_FACTOR = 77, 8


def random_network(kind, config: dict, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """A network of a diffusers class with small random weights, made in its precision without a copy in another."""
    with torch.device("meta"):
        network = kind(**config)
    torch.nn.Module.to(network, dtype)  # diffusers' own `to` warns of layers that trained weights would keep in float32
    network = network.to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for weights in network.parameters():
        weights.normal_(0, 0.02, generator=generator)
    return network


@torch.inference_mode()
def measure(
    size: int, precision: str, device: str, steps: int = STEPS, unet: dict | None = None,
    autoencoder: dict | None = None,
) -> dict:  # fmt: skip
    """One UNet step and one decoding at `size`² px, a frame at a time.

    unet, autoencoder: configurations, by default Stable Diffusion 1.5's. Returns size, precision, device, steps,
    unet_parameters, step_seconds, decode_seconds, frames_per_second = 1 / (steps step + decode), peak_memory_mb and
    peak_vram_mb.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from ..pipeline import peak_memory_mb

    place, dtype = pick_device(device), PRECISIONS[precision]
    config = unet or UNET
    network = random_network(UNet2DConditionModel, config, place, dtype)
    latent = torch.randn(1, 4, size // LATENT_FACTOR, size // LATENT_FACTOR, device=place, dtype=dtype)
    text = torch.randn(1, TEXT_TOKENS, config["cross_attention_dim"], device=place, dtype=dtype)
    step = median_seconds(lambda: network(latent, 500, text).sample, place, REPEATS)
    coder = random_network(AutoencoderKL, autoencoder or AUTOENCODER, place, dtype)
    decode = median_seconds(lambda: coder.decode(latent).sample, place, REPEATS)
    return {
        "size": size,
        "precision": precision,
        "device": str(place),
        "steps": steps,
        "unet_parameters": sum(weights.numel() for weights in network.parameters()),
        "step_seconds": step,
        "decode_seconds": decode,
        "frames_per_second": 1 / (steps * step + decode),
        "peak_memory_mb": peak_memory_mb(),
        "peak_vram_mb": peak_vram_mb(place),
    }


def bench_alternative(ours: Sequence[dict], device: str) -> list[dict]:
    """The alternative at the size and precision of each of our measurements (rows of `bench_matrix`).

    Rows are `measure`'s, with our_steps, our_frames_per_second and times_faster, ours over theirs.
    """
    rows = []
    for own in ours:
        row = run_apart(
            __name__, f"the alternative at {own['size']} px", size=own["size"], precision=own["precision"],
            device=device,
        )  # fmt: skip
        speed = own["frames_per_second"]
        row |= {"our_steps": own["steps"], "our_frames_per_second": speed}
        rows.append(row | {"times_faster": speed / row["frames_per_second"]})
    return rows


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
