"""Variants of stage 2 that share a model's weights."""

import torch
from test_frames import SIZE, appearance, face, model, motion, random_model, render  # noqa: F401 - fixtures

from fd2talk_core.evaluation.ablation import variants, without


def test_without_leaves_the_model_as_it_is(face):  # noqa: F811
    whole = random_model(face, refine=True)
    bare = without(whole, refiner=None)
    assert bare.refiner is None and whole.refiner is not None
    assert bare.unet is whole.unet


def test_each_variant_renders_and_differs_from_the_whole(face, appearance, motion):  # noqa: F811
    whole = random_model(face, refine=True)
    torch.nn.init.constant_(whole.refiner.flow.bias, 1.0)
    plain = render(whole, face, appearance, motion)
    names = []
    for name, other, options in variants(whole, {"other weights": random_model(face)}):
        frames = render(other, face, appearance, motion, **options)
        assert frames.shape == (7, SIZE, SIZE, 3)
        assert torch.allclose(frames, plain) == (name == "2 steps"), name
        names.append(name)
    assert "appearance path off" in names and "motion path off" in names and "other weights" in names
