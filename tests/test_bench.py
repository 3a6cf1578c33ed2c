import io
import json

import pytest
import torch
import typer
from rich.console import Console

from fd2talk_core import cli_training
from fd2talk_core.errors import UserError
from fd2talk_core.evaluation import apart, bench, bench_alternative, bench_frames, bench_video

typer_testing = pytest.importorskip("typer.testing", reason="the extra 'cli' is not installed")

TINY_UNET = {"block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 16, "layers_per_block": 1}
TINY_CODER = bench_alternative.AUTOENCODER | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}


def cell(**changes):
    row = {"size": 256, "steps": 2, "precision": "fp32", "device": "cpu", "frames_per_second": 7.0,
           "seconds_to_first_frame": 1.4, "peak_memory_mb": 640.0, "peak_vram_mb": None}  # fmt: skip
    return row | changes


def test_the_alternative_has_the_size_of_stable_diffusion():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel(**bench_alternative.UNET)
    assert sum(p.numel() for p in network.parameters()) == 859_520_964


def test_one_step_and_one_decoding_are_multiplied():
    row = bench_alternative.measure(128, "fp32", "cpu", steps=20, unet=TINY_UNET, autoencoder=TINY_CODER)
    assert row["step_seconds"] > 0 and row["decode_seconds"] > 0
    assert row["frames_per_second"] == pytest.approx(1 / (20 * row["step_seconds"] + row["decode_seconds"]))
    assert row["peak_memory_mb"] > 100 and row["peak_vram_mb"] is None


def test_random_networks_are_the_same_each_time_and_finite():
    options = (torch.nn.Linear, {"in_features": 3, "out_features": 2}, torch.device("cpu"), torch.bfloat16)
    first, second = (bench_alternative.random_network(*options) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and first.weight.dtype == torch.bfloat16
    assert first.weight.isfinite().all() and not first.weight.requires_grad


def test_the_ratio_is_ours_over_theirs(monkeypatch):
    monkeypatch.setattr(bench_alternative, "run_apart", lambda *_, **asked: asked | {"frames_per_second": 0.5})
    (row,) = bench_alternative.bench_alternative([cell()], "cpu")
    assert row["times_faster"] == 14 and row["our_steps"] == 2 and row["precision"] == "fp32"


@pytest.mark.weights
def test_a_cell_of_the_matrix():
    row = bench_frames.measure(str(cli_training.DEMO / "portrait.png"), 64, 1, "fp32", "cpu", frames=8)
    assert row["frames_per_second"] > 0 and row["seconds_to_first_frame"] > 0 and row["peak_vram_mb"] is None
    assert (row["size"], row["steps"], row["precision"]) == (64, 1, "fp32")


def test_every_cell_is_measured_in_its_own_process(monkeypatch):
    asked = []
    monkeypatch.setattr(bench_frames, "run_apart", lambda module, what, **values: asked.append(values) or values)
    done = []
    options = ((256, 512), (1, 2), ("fp32", "bf16"), "cpu")
    rows = bench_frames.bench_matrix("p.png", *options, progress=lambda *d: done.append(d))
    assert len(rows) == 8 and done[-1] == (8, 8)
    assert {(r["size"], r["steps"], r["precision"]) for r in asked} == {
        (size, steps, name) for size in (256, 512) for steps in (1, 2) for name in ("fp32", "bf16")
    }
    with pytest.raises(UserError, match="no precision 'int4'"):
        bench_frames.bench_matrix("p.png", precisions=("int4",))


def test_a_process_that_fails_is_told():
    with pytest.raises(UserError, match=r"Measuring nothing failed \(.*missing.*\). Free memory"):
        bench_frames.run_apart("fd2talk_core.evaluation.bench_frames", "nothing")


def test_usual_precisions_start_with_full():
    names = bench_frames.usual_precisions("cpu")
    assert names[0] == "fp32" and set(names) <= set(bench_frames.PRECISIONS)


def test_matrix_result_and_tables(tmp_path, monkeypatch):
    cells = [cell(steps=steps, size=size) for size in (256, 512) for steps in (1, 2)]
    monkeypatch.setattr(bench, "bench_matrix", lambda *_, **__: cells)
    asked = []

    def other(own, device):
        asked.extend(own)
        times = {"step_seconds": 2.0, "decode_seconds": 1.0, "frames_per_second": 1 / 41, "times_faster": 287.0}
        return [row | times | {"steps": 20, "our_steps": row["steps"], "our_frames_per_second": 7.0} for row in own]

    monkeypatch.setattr(bench, "bench_alternative", other)
    result = bench.matrix("p.png", alternative=True, out_json=tmp_path / "m.json")
    assert [(row["size"], row["steps"]) for row in asked] == [(256, 2), (512, 2)]
    assert json.loads((tmp_path / "m.json").read_text())["matrix"] == cells
    length = {"minutes": 10.0, "fps": 2.0, "frames": 1200, "seconds": 99.0, "peak_memory_mb": 700.0}
    result["video"] = {"lengths": [length], "memory_growth": None}
    text = io.StringIO()
    bench.show(result, Console(file=text, width=160))
    for wanted in ("287.0", "multiplied", "at only 2 frames per second", "7.00", "random weights"):
        assert wanted in text.getvalue()
    assert "VRAM" not in text.getvalue()
    assert "peak VRAM, MB" in [c.header for c in bench._matrix_table([cell(peak_vram_mb=900.0)]).columns]


def test_lengths_of_video_must_be_positive_and_growth_needs_two(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="lengths to measure"):
        bench_video.bench_video("p.png", "a.wav", (0.0,))
    voice = torch.zeros(16_000).numpy()
    apart.write_recording(voice, 0.02, tmp_path / "voice.wav")
    peaks = iter((700.0, 500.0, 550.0))
    monkeypatch.setattr(apart, "run_apart", lambda *_, **__: {"peak_memory_mb": next(peaks)})
    assert bench_video.bench_video("p.png", tmp_path / "voice.wav", (0.02,))["memory_growth"] is None
    growth = bench_video.bench_video("p.png", tmp_path / "voice.wav", (0.05, 0.02))["memory_growth"]
    assert growth == pytest.approx(0.1)


@pytest.fixture
def app():
    app = typer.Typer()
    app.command()(cli_training.evaluate)
    app.command()(cli_training.bench)
    return app


def test_commands_pass_their_options_on(app, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(bench, "matrix", lambda *values, **_: seen.update(matrix=values) or {"machine": {}})
    monkeypatch.setattr(bench, "bench", lambda *values: seen.update(bench=values) or {"machine": {}})
    runner = typer_testing.CliRunner()
    command = ["bench", "--matrix", "--sizes", "256", "--step-counts", "1,2", "--precisions", "bf16", "--alternative"]
    assert runner.invoke(app, command).exit_code == 0
    assert seen["matrix"][1:] == ([256], [1, 2], ["bf16"], "auto", True, None)
    assert runner.invoke(app, ["bench", "--minutes-video", "1,10"]).exit_code == 0
    assert seen["bench"][2:] == (256, 2, "auto", None, None, [], False, [1.0, 10.0])
    result = runner.invoke(app, ["bench", "--minutes", "many"])
    assert isinstance(result.exception, UserError) and "--minutes 1,2,4" in str(result.exception)
    from fd2talk_core.evaluation import report

    empty = {"parts": {}}
    monkeypatch.setattr(report, "evaluate", lambda *values, **options: seen.update(evaluate=options) or empty)
    assert runner.invoke(app, ["evaluate", str(tmp_path), "--sheets", "s", "--identity-model", "i.pt"]).exit_code == 0
    assert str(seen["evaluate"]["sheets"]) == "s" and str(seen["evaluate"]["identity_model"]) == "i.pt"
