"""Diffusion Transformers for motion: expression and head pose from audio.

adaLN-Zero blocks after Peebles and Xie (arXiv 2212.09748), with rotary positions over frames and cross-attention to
audio under an alignment mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

# Most talkers of the data are heard for seconds only.
DROPOUT = 0.1


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def rotary_angles(positions: Tensor, head_width: int) -> Tensor:
    """Rotation angles (L, head_width / 2) of positions (L,); wavelengths from 2π to about 1000 frames."""
    exponents = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    return positions.float()[:, None] * 160.0**-exponents


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Apply rotary positions. x: (B, H, L, d), angles: (L, d / 2)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)  # (B, H, L, d/2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def alignment_mask(length: int, width: int | None, device=None) -> Tensor | None:
    """Which audio frame each motion frame may look at: |i - j| <= width bool (L, L); None = everything."""
    if width is None:
        return None
    frames = torch.arange(length, device=device)
    return (frames[:, None] - frames[None, :]).abs() <= width


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / sqrt d) v over keys where mask (L, L) is True; q, k, v: (B, H, L, d)."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # On a hundred frames plain products beat the CPU's fused kernel: 1.4 times in sampling, twice in training.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B, H, L, d)
        x = attend(rotate(q, angles), rotate(k, angles), v)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, L, width)


class AudioCrossAttention(nn.Module):
    """Frames look at audio tokens of about their own moment."""

    def __init__(self, width: int, heads: int, audio_width: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(audio_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, audio: Tensor, angles: Tensor, mask: Tensor | None) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, d)
        k, v = self.kv(audio).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 2 x (B, H, L, d)
        x = attend(rotate(q, angles), rotate(k, angles), v, mask)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, L, width)


class DiTBlock(nn.Module):
    """Self-attention, audio cross-attention and MLP, each with adaLN-Zero conditioning.

    The modulation comes from one layer that all blocks share, plus the block's own table, as in PixArt-alpha
    (arXiv 2310.00426): a layer per block would be a third of all weights.
    """

    def __init__(self, width: int, heads: int, audio_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.cross = AudioCrossAttention(width, heads, audio_width)
        self.norm3 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Dropout(DROPOUT), nn.Linear(hidden, width)
        )
        self.modulation = nn.Parameter(torch.zeros(9, width))

    def forward(self, x: Tensor, shared: Tensor, audio: Tensor, angles: Tensor, mask: Tensor | None) -> Tensor:
        # x: (B, 1 + L, width), shared: (B, 9, width), audio: (B, L, audio_width)
        s1, b1, g1, s2, b2, g2, s3, b3, g3 = (shared + self.modulation).unbind(1)
        x = x + g1.unsqueeze(1) * self.attn(modulate(self.norm1(x), b1, s1), angles)
        frames = modulate(self.norm2(x[:, 1:]), b2, s2)  # the reference token has no moment in the audio
        x = x + F.pad(g2.unsqueeze(1) * self.cross(frames, audio, angles[1:], mask), (0, 0, 1, 0))
        return x + g3.unsqueeze(1) * self.mlp(modulate(self.norm3(x), b3, s3))


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm(x), shift, scale))  # (B, L, channels)


class MotionDiT(nn.Module):
    """Predicts clean coefficients x0 of a window from noisy ones, audio, the frames before and a reference.

    Args:
        channels: coefficients per frame.
        reference: width of the reference vector (reference coefficients and style).
        audio_width: width of audio tokens.
        width, depth, heads: transformer size.
        mask_width: half-width w of the alignment mask in frames, None = every frame sees all audio.
        context: frames before the window that condition it.
    """

    def __init__(
        self, channels: int, reference: int, audio_width: int, width: int, depth: int, heads: int,
        mask_width: int | None = 2, context: int = 10, mlp_ratio: float = 4.0,
    ):  # fmt: skip
        super().__init__()
        self.heads, self.mask_width, self.context = heads, mask_width, context
        self.x_embedder = nn.Linear(channels, width)
        self.reference_embedder = nn.Linear(reference, width)
        self.t_steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.t_embedder = TimestepEmbedding(width, width)
        self.is_context = nn.Parameter(torch.zeros(width))
        self.no_context = nn.Parameter(torch.zeros(width))
        self.null_audio = nn.Parameter(torch.zeros(audio_width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 9 * width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads, audio_width, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for parameter in (self.is_context, self.no_context, self.null_audio):
            nn.init.normal_(parameter, std=0.02)
        # adaLN-Zero: every block starts as the identity, and the model as zero, the mean motion.
        for module in (self.adaLN_modulation[-1], self.final_layer.adaLN_modulation[-1]):
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(
        self, x: Tensor, t: Tensor, audio: Tensor, previous: Tensor, reference: Tensor,
        has_previous: Tensor, has_audio: Tensor,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            x: (B, L, channels) noisy coefficients.
            t: (B,) diffusion time steps.
            audio: (B, context + L, audio_width) tokens, those of the context frames first.
            previous: (B, context, channels) clean coefficients of the frames before.
            reference: (B, reference).
            has_previous: (B,) bool, False where nothing came before.
            has_audio: (B,) bool, False for the unconditional branch of classifier-free guidance.

        Returns x0 (B, L, channels).
        """
        steps = self.context + x.shape[1]
        c = self.t_embedder(self.t_steps(t).to(x.dtype))  # (B, width)
        before = torch.where(has_previous[:, None, None], self.x_embedder(previous), self.no_context) + self.is_context
        token = self.reference_embedder(reference).unsqueeze(1) + c.unsqueeze(1)  # (B, 1, width)
        h = torch.cat([token, before, self.x_embedder(x)], dim=1)  # (B, 1 + context + L, width)
        audio = torch.where(has_audio[:, None, None], audio, self.null_audio)
        angles = rotary_angles(torch.arange(-1, steps, device=x.device), h.shape[-1] // self.heads)
        mask = alignment_mask(steps, self.mask_width, x.device)
        modulation = self.adaLN_modulation(c).unflatten(1, (9, -1))  # (B, 9, width)
        for block in self.blocks:
            h = block(h, modulation, audio, angles, mask)
        return self.final_layer(h[:, 1 + self.context :], c)


class ExpressionDiT(MotionDiT):
    """Ψ_exp: expression coefficients β."""


class PoseDiT(MotionDiT):
    """Ψ_pose: head pose, as a residual to the reference pose."""
