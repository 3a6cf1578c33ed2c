import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.frames.appearance import square_crop
from fd2talk_core.frames.autoencoder import Autoencoder
from fd2talk_core.training.autoencoder import load_taef1
from fd2talk_core.video.reading import read_picture

ASSETS = __import__("pathlib").Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def shipped():
    return Autoencoder.load()


def test_shapes_at_any_multiple_of_eight(shipped):
    latents = shipped.encode(torch.rand(2, 3, 64, 96))
    assert latents.shape == (2, 16, 8, 12)
    assert shipped.decode(latents).shape == (2, 3, 64, 96)


def test_shipped_weights_reconstruct_the_demo_face(shipped):
    picture = read_picture(ASSETS / "portrait.png")
    crop = square_crop(picture, (0, 0, min(picture.shape[:2])), 256)[None]
    with torch.no_grad():
        again = shipped.decode(shipped.encode(crop)).clamp(0, 1)
    assert -10 * ((again - crop) ** 2).mean().log10() > 29.5


def test_missing_teacher_says_where_it_should_be(tmp_path):
    with pytest.raises(UserError, match="Pass --teacher"):
        load_taef1(tmp_path)
