"""`fd2talk average`: the mean of several weights files."""

import pytest
import torch
from safetensors import safe_open

from fd2talk_core.checkpoint import default_weights, load_checkpoint, save_checkpoint
from fd2talk_core.errors import UserError
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.training.average import average


def weights(path, value, **changes):
    state = {"layer": torch.full((2, 3), value), "count": torch.tensor([7])} | changes.pop("state", {})
    given = {"kind": "frames", "config": {"width": 3}, "face_model": "0123"} | changes
    save_checkpoint(path, given["kind"], state, given["config"], {"steps": value}, given["face_model"])
    return path


def test_means_of_the_tensors_and_where_they_come_from(tmp_path):
    paths = [weights(tmp_path / f"{value}.safetensors", value) for value in (1.0, 2.0, 6.0)]
    average(paths, tmp_path / "mean.safetensors")
    made = load_checkpoint(tmp_path / "mean.safetensors", "frames")
    assert torch.equal(made.state["layer"], torch.full((2, 3), 3.0)) and made.state["count"] == 7
    assert made.config == {"width": 3} and made.face_model == "0123"
    assert [source["steps"] for source in made.provenance["average_of"]] == [1.0, 2.0, 6.0]


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"width": 4}},
        {"face_model": "4567"},
        {"state": {"layer": torch.zeros(3)}},
        {"state": {"more": torch.zeros(1)}},
    ],
)
def test_other_networks_are_refused(tmp_path, change):
    paths = [weights(tmp_path / "a.safetensors", 1.0), weights(tmp_path / "b.safetensors", 1.0, **change)]
    with pytest.raises(UserError, match="b.safetensors is another one than that in a.safetensors. Average only"):
        average(paths, tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_other_kinds_strangers_and_single_files_are_refused(tmp_path):
    one, other = weights(tmp_path / "a.safetensors", 1.0), weights(tmp_path / "b.safetensors", 1.0, kind="motion")
    with pytest.raises(UserError, match="nothing to average"):
        average([one], tmp_path / "mean.safetensors")
    with pytest.raises(UserError, match="holds FD2Talk's motion model, not the frame model"):
        average([one, other], tmp_path / "mean.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="missing or damaged"):
        average([tmp_path / "c.safetensors", one], tmp_path / "mean.safetensors")


def test_the_mean_of_the_shipped_network_with_itself_is_that_network(tmp_path):
    shipped = default_weights("frames")
    average([shipped, shipped], tmp_path / "mean.safetensors")
    made, own = FrameModel.load(tmp_path / "mean.safetensors"), FrameModel.load()
    assert all(torch.equal(made.state_dict()[name], value) for name, value in own.state_dict().items())
    with safe_open(tmp_path / "mean.safetensors", framework="pt") as file:
        assert file.get_tensor("unet.out.weight").dtype == torch.float16
