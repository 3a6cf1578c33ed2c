import torch
from torch.nn import functional as F

from fd2talk_core.training.losses import gradient_loss, laplacian, sharpness_loss


def test_laplacian_of_a_plane_is_zero_and_of_a_dot_is_not():
    plane = torch.linspace(0, 1, 10).expand(1, 1, 10, 10).contiguous()
    assert laplacian(plane).abs().max() < 1e-6
    dot = torch.zeros(1, 1, 5, 5)
    dot[..., 2, 2] = 1
    assert laplacian(dot)[0, 0, 1, 1] == -4


def test_sharpness_loss_sees_blur_but_not_where_the_detail_is():
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(1, 3, 64, 64, generator=generator)
    other = torch.rand(1, 3, 64, 64, generator=generator)
    blurred = F.avg_pool2d(real, 3, 1, 1)
    assert sharpness_loss(real, real) == 0
    assert sharpness_loss(other, real) < 0.3 * sharpness_loss(blurred, real)
    assert gradient_loss(other, real) > gradient_loss(blurred, real)
