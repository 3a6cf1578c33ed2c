"""What the nodes share: socket types, progress with interruption, and reading of IMAGE and AUDIO values."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import comfy.model_management as mm
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..fd2talk_core.errors import UserError

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..fd2talk_core.face.model import FaceModel
    from ..fd2talk_core.face.tracker import FaceTracker

log = logging.getLogger(__name__)

CATEGORY = "FD2Talk"
MAX_SEED = 0xFFFFFFFFFFFFFFFF
PREVIEW_SIDE = 512
PREVIEW_SECONDS = 0.5

# Value: the ModelPatcher around a MotionModel.
MotionModelType = io.Custom("FD2TALK_MOTION_MODEL")
FrameModelType = io.Custom("FD2TALK_FRAME_MODEL")
MotionType = io.Custom("FD2TALK_MOTION")
AppearanceType = io.Custom("FD2TALK_APPEARANCE")


@dataclass(frozen=True)
class LoadedFrameModel:
    """Value of FD2TALK_FRAME_MODEL: stage 2, and the face tracker and face model that belong to it.

    dtype: precision of computation, None = what is fast on the device; the weights themselves stay fp32.
    The tracker looks at one picture for a few milliseconds; it stays on the CPU, outside ComfyUI's memory management.
    """

    patcher: ModelPatcher
    dtype: torch.dtype | None
    tracker: FaceTracker
    face_model: FaceModel


def explained(execute: Callable) -> Callable:
    """Raise UserError as ValueError: the page shows the type's full name first, which would be a file path."""

    @functools.wraps(execute)
    def run(*args, **kwargs):
        try:
            return execute(*args, **kwargs)
        except UserError as error:
            raise ValueError(str(error)) from error

    return run


def loaded(patcher: ModelPatcher, memory_required: int = 0) -> torch.nn.Module:
    """The network, on its device. Ours are a few MB, so they are never loaded by halves."""
    mm.load_models_gpu([patcher], memory_required=memory_required, force_full_load=True)
    return patcher.model


def seed_input(tooltip: str, id: str = "seed", advanced: bool | None = None) -> io.Int.Input:
    """A seed that stays as it is: a fresh one every run would re-render everything downstream."""
    return io.Int.Input(
        id,
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
        advanced=advanced,
    )


class Progress(Protocol):
    def __call__(self, done: int, total: int, frame: torch.Tensor | np.ndarray | None = None) -> None: ...


def cancel_check() -> Callable[..., None]:
    """A function of any arguments that raises when the user cancels, in every thread that calls it from then on.

    ComfyUI's own raises once: while one thread gives up, another would finish what it is at work on.
    """
    cancelled = threading.Event()

    def check(*_) -> None:
        if cancelled.is_set():
            raise mm.InterruptProcessingException
        try:
            mm.throw_exception_if_processing_interrupted()
        except mm.InterruptProcessingException:
            cancelled.set()
            raise

    return check


def progress_bar(check: Callable[..., None] | None = None) -> Progress:
    """A core progress callback (done, total) that moves the node's bar and raises when the user cancels.

    check: from `cancel_check`, where other threads have to stop, too.

    A third argument, a frame (H, W, 3) as uint8 array or tensor in 0..1, is shown on the node, at most twice a second.
    Only for nodes that show nothing else in the end: the page mixes up live frames and results.
    """
    bar, check = comfy.utils.ProgressBar(1), check or mm.throw_exception_if_processing_interrupted
    last = -math.inf

    def report(done: int, total: int, frame: torch.Tensor | np.ndarray | None = None) -> None:
        nonlocal last
        check()
        preview = None
        if frame is not None and time.monotonic() - last >= PREVIEW_SECONDS:
            last = time.monotonic()
            picture = frame if isinstance(frame, np.ndarray) else to_uint8(frame)
            preview = ("JPEG", Image.fromarray(picture), PREVIEW_SIDE)
        bar.update_absolute(done, total, preview)

    return report


@contextmanager
def cancellable(network: torch.nn.Module, check: Callable[..., None] | None = None) -> Iterator[None]:
    """See a cancel at every block of the network: a batch of many steps takes long on a CPU.

    check: from `cancel_check`, where the network runs in a thread of its own.
    """
    check = check or cancel_check()
    hooks = [
        block.register_forward_pre_hook(check)
        for block in network.modules()
        if isinstance(block, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def own_id(node: type[io.ComfyNode]) -> str | None:
    """The running node's id, for `tell`; None when another node or a script called `execute` directly."""
    return None if node.hidden is None else node.hidden.unique_id


def tell(node_id: str | None, text: str, level: int = logging.WARNING) -> None:
    """Show a remark under the node, in the place of an earlier one, and in the log."""
    log.log(level, "%s", text)
    if node_id is not None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, node_id)


def rgb(images: torch.Tensor | None, what: str = "picture") -> torch.Tensor:
    """IMAGE (B, H, W, C) or (H, W, C) as (B, H, W, 3): alpha is dropped, grey is repeated.

    Raises UserError for no or NaN pixels.
    """
    if images is not None and images.ndim == 3:  # some packs hand over one picture like this
        images = images[None]
    if images is None or images.ndim != 4 or 0 in images.shape:
        raise UserError(f"The {what} is empty. Connect a node that gives at least one image, such as Load Image.")
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1].expand(-1, -1, -1, 3)
    # Picture by picture: of all at once, isfinite would hold a copy.
    if not all(bool(torch.isfinite(image).all()) for image in images):
        raise UserError(
            f"The {what} contains pixels that are not numbers (NaN), usually from a failed decode. "
            "Make or load it again."
        )
    return images


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """One picture (H, W, 3) in 0..1 -> uint8 array."""
    return (image.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def audio_samples(audio: dict | None) -> tuple[np.ndarray, int]:
    """AUDIO -> samples float32 (C, N) and sample rate. Raises UserError when there is no sound at all."""
    if not audio or audio.get("waveform") is None:
        raise UserError(
            "There is no audio: the connected node gave none, as a video without a sound track does. "
            "Connect Load Audio, or a video that has sound."
        )
    waveform = audio["waveform"]
    if waveform.ndim == 3 and len(waveform):
        if len(waveform) > 1:
            log.warning("the AUDIO holds %d recordings; the first is used", len(waveform))
        waveform = waveform[0]
    samples = torch.atleast_2d(waveform).float().cpu().numpy()
    if samples.ndim != 2 or samples.size == 0:
        raise UserError("The audio has no samples. Load or record it again.")
    return samples, int(audio["sample_rate"])
