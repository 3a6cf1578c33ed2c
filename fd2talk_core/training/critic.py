"""A patch discriminator on decoded mouths and eyes, so that blur does not win."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class PatchCritic(nn.Module):
    """(N, 6, S, S) picture beside the bare warp of the same place -> (N, 1, s, s) scores, high = real.

    It sees the warp too, so it asks whether a mouth is a real one of this very person, not of anyone.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        sizes = (6, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for inner, outer in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [spectral_norm(nn.Conv2d(inner, outer, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(sizes[-1], 1, 3, padding=1)))

    def forward(self, pictures: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([pictures, warped], 1) * 2 - 1)


class Adversary:
    """The critic with its optimiser; each call trains it once and says what the generator should pay.

    Hinge losses. It is not part of a run's checkpoint: a resumed run begins with a new critic.
    """

    def __init__(self, device: torch.device, lr: float = 4e-4):
        self.critic = PatchCritic().to(device)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=lr, betas=(0.0, 0.99))

    def __call__(
        self, made: torch.Tensor, real: torch.Tensor, warped: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 patches (N, 3, S, S) -> (generator's loss, critic's loss)."""
        with torch.autocast(made.device.type, enabled=False):
            scores = self.critic(torch.cat([real, made.detach()]), torch.cat([warped, warped]))
            good, bad = scores.chunk(2)
            loss = F.relu(1 - good).mean() + F.relu(1 + bad).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            for parameter in self.critic.parameters():
                parameter.requires_grad_(False)
            generator = -self.critic(made, warped).mean()
            for parameter in self.critic.parameters():
                parameter.requires_grad_(True)
        return generator, loss.detach()
