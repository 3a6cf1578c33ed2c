"""Where and in which precision networks run."""

from __future__ import annotations

import contextlib
import platform
from functools import lru_cache
from pathlib import Path

import torch

from .errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """'auto' takes CUDA, then Apple's MPS, then the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device '{name}' is not available here. Use cpu, or auto to have one chosen.") from error
    return device


@lru_cache(maxsize=1)
def _intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return "GenuineIntel" in platform.processor()


def fast_dtype(device: torch.device) -> torch.dtype:
    """The precision that is fast and safe there: fp16 on CUDA, bf16 on CPUs that gain by it, else fp32.

    AMX tiles gain, and so do AMD's bf16 instructions (twice fp32). Intel's AVX-512 ones without AMX do not: a Xeon
    measured 170 GFLOP/s in bf16 convolutions and 330 in fp32. Decided by the processor's kind rather than by timing,
    so that a resumed render has the precision it began with.
    """
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu":
        # Private, because no public query exists.
        if torch.cpu._is_amx_tile_supported():  # noqa: SLF001
            return torch.bfloat16
        if torch.cpu._is_avx512_bf16_supported() and not _intel():  # noqa: SLF001
            return torch.bfloat16
    return torch.float32


def usual_batch(device: torch.device) -> int:
    """How many frames to make at once: on a GPU enough to fill it, on a CPU so few that one stays quick to cancel."""
    return 8 if device.type == "cpu" else 32


def autocast(device: torch.device, dtype: torch.dtype | None = None) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`, or to what is fast there when None; nothing to do for float32."""
    dtype = dtype or fast_dtype(device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
