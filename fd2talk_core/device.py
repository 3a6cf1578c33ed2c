"""Where and in which precision networks run."""

from __future__ import annotations

import contextlib

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


def fast_dtype(device: torch.device) -> torch.dtype:
    """The precision that is fast and safe there: fp16 on CUDA, bf16 on CPUs with bf16 instructions, else fp32."""
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - no public query exists
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype | None = None) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`, or to what is fast there when None; nothing to do for float32."""
    dtype = dtype or fast_dtype(device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
