import pytest
import torch

from fd2talk_core.motion.dit import ExpressionDiT, alignment_mask, attend, rotary_angles, rotate
from fd2talk_core.motion.model import MotionConfig, MotionModel


def small(mask_width=1, **changes) -> ExpressionDiT:
    torch.manual_seed(0)
    sizes = {"channels": 8, "reference": 9, "audio_width": 16, "width": 24, "depth": 2, "heads": 2, "context": 4}
    model = ExpressionDiT(mask_width=mask_width, **(sizes | changes)).eval()
    # adaLN-Zero starts as the identity; give it something to do.
    for name, parameter in model.named_parameters():
        if "adaLN" in name or "modulation" in name or "final_layer" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(batch=2, length=12, context=4):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    yes = torch.ones(batch, dtype=torch.bool)
    return {
        "x": draw(batch, length, 8), "t": torch.tensor([10, 900][:batch]), "audio": draw(batch, context + length, 16),
        "previous": draw(batch, context, 8), "reference": draw(batch, 9), "has_previous": yes, "has_audio": yes,
    }  # fmt: skip


def test_starts_as_zero():
    model = ExpressionDiT(8, 9, 16, width=24, depth=2, heads=2, context=4)
    assert torch.equal(model(**inputs()), torch.zeros(2, 12, 8))


def test_rotary_depends_on_distance_only():
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i, j):
        return (rotate(q, rotary_angles(torch.tensor([i]), 16)) * rotate(k, rotary_angles(torch.tensor([j]), 16))).sum()

    assert torch.allclose(product(3, 7), product(53, 57), atol=1e-4)
    assert not torch.allclose(product(3, 7), product(3, 9), atol=1e-4)


def test_alignment_mask():
    assert alignment_mask(4, None) is None
    assert torch.equal(alignment_mask(5, 0), torch.eye(5, dtype=torch.bool))
    assert alignment_mask(5, 1).sum() == 13


def test_attention_equals_the_library_s():
    q, k, v = torch.randn(3, 2, 4, 12, 8)
    for mask in (None, alignment_mask(12, 2)):
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert torch.allclose(attend(q, k, v, mask), wanted, atol=1e-5)


def test_cross_attention_sees_only_the_band():
    model = small(mask_width=1)
    arguments = inputs()
    attention = model.blocks[0].cross
    frames, audio = torch.randn(2, 16, 24), arguments["audio"]
    angles, mask = rotary_angles(torch.arange(16), 12), alignment_mask(16, 1)
    changed = audio.clone()
    changed[:, 8] += 3
    difference = attention(frames, audio, angles, mask) - attention(frames, changed, angles, mask)
    moved = difference.abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [7, 8, 9]


@pytest.mark.parametrize("name", ["x", "t", "audio", "previous", "reference"])
def test_every_input_matters(name):
    model, arguments = small(), inputs()
    before = model(**arguments)
    changed = arguments | {name: arguments[name] + 1}
    assert (model(**changed) - before).abs().max() > 1e-4


def test_flags_hide_audio_and_context():
    model, arguments = small(), inputs()
    for flag, hidden in (("has_audio", "audio"), ("has_previous", "previous")):
        off = arguments | {flag: torch.zeros(2, dtype=torch.bool)}
        assert torch.equal(model(**off), model(**(off | {hidden: arguments[hidden] * 2})))
        assert not torch.allclose(model(**off), model(**arguments))


def test_any_length():
    model = small(mask_width=None)
    for length in (1, 5, 40):
        assert model(**inputs(length=length)).shape == (2, length, 8)


def test_presets_build_and_survive_saving(tmp_path):
    shipped, paper = MotionConfig.shipped(), MotionConfig.paper_scale()
    assert (shipped.width, shipped.depth, shipped.audio_features) == (192, 4, 0)
    assert (paper.width, paper.depth, paper.heads, paper.audio_features) == (512, 8, 8, 768)
    config = MotionConfig(audio_width=32, width=48, depth=1, heads=2, pose_width=32, pose_depth=1, pose_heads=2)
    model = MotionModel(config, "somehash")
    model.save(tmp_path / "motion.safetensors", {"data": "none"})
    again = MotionModel.load(tmp_path / "motion.safetensors")
    assert again.config == config and again.face_model_hash == "somehash" and not again.training
    for name, value in model.state_dict().items():
        assert torch.allclose(value, again.state_dict()[name], atol=1e-3)
