"""The shared training loop, on a network small enough to train in a second."""

import math

import pytest
import torch

from fd2talk_core.checkpoint import load_checkpoint, save_checkpoint
from fd2talk_core.errors import UserError
from fd2talk_core.training.loop import TrainSettings, train
from fd2talk_core.training.run import train as train_part


class LineTask:
    """Learns y = 2x + 1."""

    name = "line"

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(1, 1)
        self.exports = []

    def batches(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            x = torch.randn(32, 1, generator=generator)
            yield {"x": x, "y": 2 * x + 1}

    def loss(self, model, batch):
        loss = ((model(batch["x"]).float() - batch["y"]) ** 2).mean()
        return loss, {"mse": loss.item()}

    def validate(self, model):
        x = torch.linspace(-1, 1, 9)[:, None]
        error = ((model(x) - (2 * x + 1)) ** 2).mean().item()
        return error, {"mse": error}

    def export(self, model, path, provenance):
        self.exports.append(provenance)
        save_checkpoint(path, "line", model.state_dict(), {}, provenance)


def settings(**changes):
    values = {"steps": 400, "minutes": 5, "lr": 0.05, "warmup": 10, "ema": 0.95, "bf16": False, "weight_decay": 0.0}
    return TrainSettings(**(values | changes))


def test_training_learns_and_exports_with_provenance(tmp_path):
    task = LineTask()
    best = train(task, settings(), tmp_path)
    file = load_checkpoint(tmp_path / "line.safetensors", "line")
    assert best < 0.01
    assert abs(file.state["weight"].item() - 2) < 0.1
    assert file.provenance["steps"] == 400 and file.provenance["score"] == pytest.approx(best)
    assert {"commit", "machine", "settings", "validation"} <= set(file.provenance)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    train(LineTask(), settings(steps=50), tmp_path)
    task = LineTask()
    train(task, settings(steps=60), tmp_path)
    assert task.exports[-1]["steps"] == 60
    fresh = LineTask()
    train(fresh, settings(steps=10, resume=False), tmp_path)
    assert fresh.exports[-1]["steps"] == 10


def test_a_worse_model_does_not_replace_a_better_one(tmp_path):
    train(LineTask(), settings(), tmp_path)
    before = (tmp_path / "line.safetensors").read_bytes()
    task = LineTask()
    task.validate = lambda model: (math.inf, {})
    train(task, settings(steps=420), tmp_path)
    assert (tmp_path / "line.safetensors").read_bytes() == before


def test_one_broken_batch_does_not_spoil_the_weights(tmp_path):
    task = LineTask()
    good = task.batches()

    def batches():
        for number, batch in enumerate(good):
            if number == 100:
                batch = {"x": batch["x"] * float("nan"), "y": batch["y"]}
            yield batch

    task.batches = batches
    assert train(task, settings(), tmp_path) < 0.01


def test_an_error_while_making_batches_reaches_the_user(tmp_path):
    task = LineTask()

    def batches():
        yield next(LineTask().batches())
        raise UserError("The clip x.mp4 is broken. Prepare it again.")

    task.batches = batches
    with pytest.raises(UserError, match="x.mp4 is broken"):
        train(task, settings(), tmp_path)


def test_unknown_part_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="autoencoder, audio-encoder, lip-expert"):
        train_part("voice", [tmp_path], tmp_path)
