import pytest
import torch

from fd2talk_core.checkpoint import load_checkpoint, load_state, save_checkpoint
from fd2talk_core.errors import UserError


def test_round_trip_keeps_values_config_and_provenance(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, "motion", {"w": torch.tensor([1.5, -2.0])}, {"width": 3}, {"steps": 7}, "abc")
    file = load_checkpoint(path, "motion")
    assert file.state["w"].tolist() == [1.5, -2.0] and file.state["w"].dtype == torch.float32
    assert (file.config, file.provenance, file.face_model) == ({"width": 3}, {"steps": 7}, "abc")


def test_missing_damaged_and_wrong_files_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="missing or damaged"):
        load_checkpoint(tmp_path / "none.safetensors", "motion")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not a safetensors file at all")
    with pytest.raises(UserError, match="missing or damaged"):
        load_checkpoint(damaged, "motion")
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, "frames", {"w": torch.zeros(1)}, {}, {})
    with pytest.raises(UserError, match="holds FD2Talk's frame model, not the motion model"):
        load_checkpoint(other, "motion")


def test_weights_that_do_not_fit_the_network(tmp_path):
    with pytest.raises(UserError, match="do not fit"):
        load_state(torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 3)}, tmp_path / "x.safetensors")
