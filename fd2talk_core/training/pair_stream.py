"""Pairs that processes make anew while stage 2 trains, kept on the device that trains.

A GPU sees a stored set of pairs hundreds of times, and learns its people by heart. Here every pair has a crop, shape,
light and choice of frames of its own.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import UserError
from ..face.model import FaceModel
from ..frames.autoencoder import LATENT_FACTOR, Autoencoder
from ..frames.refine import WarpRefiner
from ..frames.sampling import encode_pictures, make_reference
from .data import Clip, list_clips
from .frames_data import REFERENCES_PER_CLIP, Moves, chances, clip_pairs, warped_pair_pictures

log = logging.getLogger(__name__)

IN_A_ROW = 4  # pairs of one reference that follow each other
PAIRS_PER_CLIP = IN_A_ROW * REFERENCES_PER_CLIP
STILLS_AT_ONCE = 8
SEQUENCES = 0.5  # share of references whose targets follow each other in time
MANY_CLIPS = 2  # how much more often a talker with many clips comes than others
MOST_MOVES = 4000
ENOUGH = 1024  # pairs with which training begins
KEPT = ("guide", "expression", "offset", "beta", "pose", "centres", "chance", "blink", "sequence")


def _as_is(item):
    return item


class FreshPairs(IterableDataset):
    """Endless chunks of pairs of random clips and stills, as dictionaries of arrays; for DataLoader's processes."""

    def __init__(
        self, folders: list[Path], face: FaceModel, refiner: WarpRefiner | None, radius: int, side: int, stills: float
    ):
        clips = [clip for folder in folders for clip in list_clips(folder) if not clip.held_back]
        self.stills = [clip for clip in clips if clip.still]
        self.talkers: dict[str, list[Clip]] = {}
        for clip in clips:
            if not clip.still and int(clip.meta["frames"]) >= PAIRS_PER_CLIP:
                self.talkers.setdefault(clip.identity, []).append(clip)
        if not self.talkers:
            raise UserError(
                f"None of the training clips has {PAIRS_PER_CLIP} frames. Prepare longer ones, or set fresh=0."
            )
        self.face, self.refiner, self.radius, self.side = face, refiner, radius, side
        self.share = stills if self.stills else 0.0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        torch.set_num_threads(1)
        info = get_worker_info()
        rng, moves = np.random.default_rng(info.seed if info else torch.initial_seed()), Moves()
        names = sorted(self.talkers)
        weight = np.array([MANY_CLIPS if len(self.talkers[name]) >= 50 else 1 for name in names], float)
        weight /= weight.sum()
        while True:
            if moves.beta and rng.random() < self.share:
                chosen = [self.stills[i] for i in rng.integers(0, len(self.stills), STILLS_AT_ONCE)]
                parts = [self._pairs(clip, IN_A_ROW, rng, moves) for clip in chosen]
            else:
                own = self.talkers[names[rng.choice(len(names), p=weight)]]
                parts = [self._pairs(own[rng.integers(len(own))], PAIRS_PER_CLIP, rng, moves)]
            del moves.beta[:-MOST_MOVES], moves.pose[:-MOST_MOVES]
            for part in parts:
                # With too few usable frames, references have fewer targets.
                if part and len(part["pose"]) % IN_A_ROW == 0:
                    yield self._finished(part)

    def _pairs(self, clip: Clip, count: int, rng: np.random.Generator, moves: Moves):
        return clip_pairs(clip, count, self.face, self.radius, rng, True, self.side, moves, SEQUENCES)

    @torch.no_grad()
    def _finished(self, pairs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """With warped pictures, everything that the appearance encoder sees but the latent, and chances."""
        batch = {name: torch.from_numpy(value) for name, value in pairs.items()}
        batch = {name: value if value.dtype == torch.uint8 else value.float() for name, value in batch.items()}
        warped, bare = warped_pair_pictures(batch, self.face, self.refiner)
        # Targets of a clip share references; a still's references are its moved selves.
        every = (
            IN_A_ROW if torch.equal(batch["portrait"][::IN_A_ROW], batch["portrait"][IN_A_ROW - 1 :: IN_A_ROW]) else 1
        )
        first = range(0, len(batch["pose"]), every)
        nothing = torch.zeros(1, 16, *[self.side // LATENT_FACTOR] * 2)
        looks = [make_reference(self.face, nothing, *(batch[n][i] for n in ("alpha", "beta", "pose"))) for i in first]
        chance, blink = chances(self.face, pairs["expression"], pairs["beta"])
        made = {name: pairs[name] for name in KEPT[:-3]}
        return made | {
            "chance": chance.astype(np.float32),
            "blink": blink,
            "sequence": _in_time(pairs["expression"]),
            "pixels": pairs["pixels"],
            "warped": (warped.clamp(0, 1) * 255 + 0.5).byte().numpy(),
            "bare": (bare.clamp(0, 1) * 255 + 0.5).byte().numpy(),
            "portrait": pairs["portrait"][::every],
            "looks": torch.cat(looks)[:, 16:].half().numpy(),
        }


def _in_time(expression: np.ndarray) -> np.ndarray:
    """Of windows (N, 2r+1, 64), which are in groups of IN_A_ROW neighbours in time, (N,) bool."""
    rows = expression.reshape(-1, IN_A_ROW, *expression.shape[1:])
    moves = np.abs(rows[:, 0, 1:] - rows[:, 0, :-1]).max((1, 2)) > 0
    return (moves & (rows[:, 1:, :-1] == rows[:, :-1, 1:]).all((1, 2, 3))).repeat(IN_A_ROW)


class PairStream:
    """The last `capacity` pairs that `processes` processes have made, encoded, on `device`.

    Filled in the background until `close`, which also ends the processes; the first draw waits until there are enough.
    """

    def __init__(
        self, source: FreshPairs, processes: int, autoencoder: Autoencoder, device: torch.device, capacity: int
    ):
        self.autoencoder, self.device, self.side = autoencoder.to(device), device, source.side
        self.capacity = capacity // IN_A_ROW * IN_A_ROW
        self.made, self.parts = 0, {}
        self.loader = DataLoader(
            source, batch_size=None, num_workers=processes, collate_fn=_as_is, multiprocessing_context="spawn",
            prefetch_factor=2,
        )  # fmt: skip
        self.failure: BaseException | None = None
        self.enough, self.closed = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._fill, daemon=True)
        self.thread.start()
        atexit.register(self.close)

    def __len__(self) -> int:
        return min(self.made, self.capacity)

    def _fill(self) -> None:
        try:
            for chunk in self.loader:  # dropping the iterator at the end of this function ends the processes
                self._add(self._encoded(chunk))
                if self.made >= min(ENOUGH, self.capacity // 32):
                    self.enough.set()
                if self.closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the training thread, which raises it
            self.failure = error
            self.enough.set()

    @torch.no_grad()
    def _encoded(self, chunk: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        values = {name: torch.from_numpy(value).to(self.device) for name, value in chunk.items()}
        target, warped, bare, portrait = (
            encode_pictures(self.autoencoder, values[name].float() / 255).half()
            for name in ("pixels", "warped", "bare", "portrait")
        )
        reference = torch.cat([portrait, values["looks"]], 1).repeat_interleave(len(target) // len(portrait), 0)
        made = {name: values[name] for name in (*KEPT, "pixels")}
        return made | {"target": target, "warped": warped, "bare": bare, "reference": reference}

    def _add(self, values: dict[str, torch.Tensor]) -> None:
        rows = torch.arange(self.made, self.made + len(values["pose"]), device=self.device) % self.capacity
        for name, value in values.items():
            if name not in self.parts:
                self.parts[name] = torch.zeros(self.capacity, *value.shape[1:], dtype=value.dtype, device=self.device)
            self.parts[name][rows] = value
        self.made += len(rows)

    def close(self) -> None:
        """End the processes; what they have made stays."""
        self.closed.set()
        self.thread.join()
        self.loader = None

    def draw(self, count: int, in_a_row: int = 1) -> dict[str, torch.Tensor]:
        """`count` pairs by chance; or frames that follow each other, in groups of `in_a_row` = IN_A_ROW."""
        self.enough.wait()
        if self.failure:
            raise self.failure
        filled = len(self)
        if in_a_row == 1:
            rows = torch.multinomial(self.parts["chance"][:filled], count, replacement=True)
        else:
            chance = self.parts["chance"][:filled].view(-1, IN_A_ROW).amax(1)
            chance = chance * self.parts["sequence"][:filled:IN_A_ROW]
            groups = torch.multinomial(chance, count // IN_A_ROW, replacement=True)
            rows = (groups[:, None] * IN_A_ROW + torch.arange(IN_A_ROW, device=self.device)).flatten()
        batch = {name: values[rows] for name, values in self.parts.items()}
        return {name: value.float() if value.is_floating_point() else value for name, value in batch.items()}

    def residuals(self, geometry: bool) -> torch.Tensor:
        """Latent residuals of the first pairs, to tell their size."""
        batch = self.draw(min(ENOUGH, len(self) or ENOUGH))
        return batch["target"] - batch["warped"] if geometry else batch["target"]
