"""Building blocks that the face detector and the landmark regressor share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm and (optionally) ReLU. Plain 3x3: depthwise ones are slower on CPUs."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.03),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, width: int):
        super().__init__()
        self.first = conv_norm(width, width)
        self.second = conv_norm(width, width, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Merge every batch norm into the convolution before it, in place; for inference only."""
    for child in module.modules():
        if isinstance(child, nn.Sequential) and len(child) > 1 and isinstance(child[1], nn.BatchNorm2d):
            child[0] = fuse_conv_bn_eval(child[0].eval(), child[1].eval())
            child[1] = nn.Identity()
    return module
