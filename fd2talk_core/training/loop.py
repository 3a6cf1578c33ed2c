"""The one training loop that every part shares."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from ..ahead import ahead
from ..device import autocast, fast_dtype

log = logging.getLogger(__name__)


@dataclass
class TrainSettings:
    """How long and how to train. Training ends at `steps` or `minutes`, whichever comes first."""

    steps: int = 100_000
    minutes: float = 60.0
    lr: float = 1e-3
    final_lr: float = 0.05  # as a share of lr, reached by a cosine at the end
    warmup: int = 200  # steps
    weight_decay: float = 0.01
    ema: float = 0.999
    clip_norm: float = 1.0
    bf16: bool = True  # where the processor gains by it
    compile: bool = False
    validate_minutes: float = 4.0
    log_steps: int = 50
    seed: int = 0
    resume: bool = True


class Task(Protocol):
    """What a trained part has to say for itself."""

    name: str
    model: nn.Module

    def batches(self) -> Iterator[dict[str, Any]]:
        """Endless training batches; tensors are moved to where the model is."""

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Scalar loss and named numbers or scalar tensors for the log; runs under autocast, `model` may be compiled."""

    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Score on held-back data, lower is better, and named numbers."""

    def export(self, model: nn.Module, path: Path, provenance: dict) -> None:
        """Write the weights that ship."""


def provenance(settings: TrainSettings, step: int, seconds: float, extra: dict) -> dict:
    """Where weights come from: machine, commit, settings, and what the task adds."""
    commit = subprocess.run(  # noqa: S603
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True, text=True, cwd=Path(__file__).parent, check=False,
    ).stdout.strip()  # fmt: skip
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return {
        "commit": commit,
        "machine": f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "steps": step,
        "training_minutes": round(seconds / 60, 1),
        "settings": asdict(settings),
    } | extra


class _State:
    """Model, optimiser, EMA and counters, saved as safetensors so that a run can go on where it stopped."""

    def __init__(self, model: nn.Module, settings: TrainSettings):
        decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
        self.model = model
        self.parameters = decayed + plain
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.lr, betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self.ema = EMAModel(self.parameters, decay=settings.ema, use_ema_warmup=True, power=0.75)
        self.step, self.seconds, self.best = 0, 0.0, math.inf

    def save(self, path: Path) -> None:
        tensors = {f"model.{k}": v.detach().clone() for k, v in self.model.state_dict().items()}
        for index, shadow in enumerate(self.ema.shadow_params):
            tensors[f"ema.{index}"] = shadow
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
        counters = {"step": self.step, "seconds": self.seconds, "best": self.best}
        counters["ema_step"] = self.ema.optimization_step
        partial = path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"counters": json.dumps(counters)})
        partial.replace(path)

    def load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            counters = json.loads(file.metadata()["counters"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for index in range(len(self.ema.shadow_params)):
            self.ema.shadow_params[index].copy_(tensors[f"ema.{index}"])
        state: dict[int, dict] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step, self.seconds, self.best = counters["step"], counters["seconds"], counters["best"]
        self.ema.optimization_step = counters["ema_step"]

    @contextlib.contextmanager
    def averaged(self):
        """The model with its averaged weights, in evaluation mode."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.train()
            self.ema.restore(self.parameters)


def _gains_by_bf16() -> bool:
    return torch.cuda.is_available() or fast_dtype(torch.device("cpu")) == torch.bfloat16


def train(task: Task, settings: TrainSettings, run: Path, export_to: Path | None = None) -> float:
    """Train, validate every few minutes, keep a resumable checkpoint in `run`, export the best weights.

    Args:
        task: the part to train.
        settings: length and optimiser settings; the time already spent in a resumed run counts.
        run: folder for checkpoint, tensorboard and log.
        export_to: weights file, written each time validation improves; default `run/<name>.safetensors`.

    Returns the best validation score (lower is better).
    """
    run.mkdir(parents=True, exist_ok=True)
    export_to = export_to or run / f"{task.name}.safetensors"
    torch.manual_seed(settings.seed)
    # Accelerate keeps one precision for a whole process, and a process may train more than one network.
    accelerator = Accelerator(mixed_precision="no")
    dtype = torch.bfloat16 if settings.bf16 and _gains_by_bf16() else torch.float32
    model = task.model.to(accelerator.device).train()
    state = _State(model, settings)
    state.ema.to(accelerator.device)
    state.optimizer = accelerator.prepare(state.optimizer)
    checkpoint = run / "checkpoint.safetensors"
    if settings.resume and checkpoint.is_file():
        state.load(checkpoint)
        log.info("resumed %s at step %d, best %.5f", task.name, state.step, state.best)
    forward = torch.compile(model) if settings.compile else model
    board = SummaryWriter(str(run / "tensorboard"))
    spent, started = state.seconds, time.monotonic()
    validated = state.seconds

    def check() -> None:
        with state.averaged() as averaged, torch.no_grad():
            score, numbers = task.validate(averaged)
            for name, value in numbers.items():
                board.add_scalar(f"valid/{name}", value, state.step)
            text = " ".join(f"{k} {v:.4g}" for k, v in numbers.items())
            log.info("%s step %d %.1f min: valid %.5f %s", task.name, state.step, state.seconds / 60, score, text)
            if score < state.best:
                state.best = score
                facts = {"score": score, "validation": {k: round(float(v), 5) for k, v in numbers.items()}}
                task.export(averaged, export_to, provenance(settings, state.step, state.seconds, facts))
        state.save(checkpoint)

    # Decoding and augmenting overlap with training.
    for batch in ahead(task.batches(), depth=3):
        progress = max(state.step / settings.steps, state.seconds / (settings.minutes * 60))
        if progress >= 1:
            break
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        rate = settings.lr * min(1.0, (state.step + 1) / settings.warmup)
        rate *= settings.final_lr + (1 - settings.final_lr) * cosine
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        batch = {
            key: value.to(accelerator.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        with autocast(accelerator.device, dtype):
            loss, numbers = task.loss(forward, batch)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(state.parameters, settings.clip_norm)
        if torch.isfinite(norm):
            state.optimizer.step()
            state.ema.step(state.parameters)
        else:
            log.warning("%s step %d: gradient is not finite, step skipped", task.name, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.seconds = spent + time.monotonic() - started
        if state.step % settings.log_steps == 0:
            text = " ".join(f"{k} {float(v):.4g}" for k, v in numbers.items())
            log.info("%s step %d %.1f min: loss %.5f %s", task.name, state.step, state.seconds / 60, loss.item(), text)
            board.add_scalar("train/loss", loss.item(), state.step)
            for name, value in numbers.items():
                board.add_scalar(f"train/{name}", float(value), state.step)
        if state.seconds - validated > settings.validate_minutes * 60:
            validated = state.seconds
            check()
    check()
    board.close()
    return state.best
