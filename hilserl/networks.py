"""The trainable networks of SAC on cached trunk features: image heads, state branch, actor, critic ensemble.

B is the batch, n the number of stacked observations (n_obs_steps), K the cameras, (C, h, w) one feature map.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from robot.types import F32

log = logging.getLogger(__name__)

STD_MIN, STD_MAX = 1e-5, 5.0
"""Bounds of the policy's standard deviation before squashing."""
DEGENERATE_STD = 1e-4
"""State components that vary less than this [rad, m, 1/s of them] in the data carry no signal, only noise."""
_LOG_2PI = math.log(2 * math.pi)


def dropout(x: Tensor, share: float, noise: np.random.Generator | None) -> Tensor:
    """`x` with about `share` of it zeroed and the rest scaled up; unchanged without a `noise` source.

    The mask comes from random bytes: torch's own takes a quarter of an update's time on a CPU.
    """
    if noise is None or share == 0.0:
        return x
    level = round(share * 256)
    drawn = np.frombuffer(noise.bytes(x.numel()), np.uint8).reshape(x.shape)
    keep = torch.from_numpy((drawn >= level).astype(np.float32)).to(x.device)
    return x * keep.mul_(256.0 / (256.0 - level))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and no initial bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ImageHead(nn.Module):
    """One camera's features (B, C, h, w) -> (B, latent): pooled by learned spatial weights, then squashed."""

    def __init__(self, shape: tuple[int, int, int], embeddings: int, latent: int, drop: float) -> None:
        super().__init__()
        channels, height, width = shape
        kernel = torch.empty(channels, height * width, embeddings)
        self.kernel = nn.Parameter(nn.init.trunc_normal_(kernel, std=math.sqrt(1.0 / kernel[..., 0].numel())))
        self.out = linear(channels * embeddings, latent)
        self.norm = nn.LayerNorm(latent)
        self.drop = drop

    def forward(self, features: Tensor, noise: np.random.Generator | None) -> Tensor:
        maps = features.flatten(2).transpose(0, 1)  # (C, B, h * w)
        pooled = torch.bmm(maps, self.kernel).transpose(0, 1).flatten(1)
        return torch.tanh(self.norm(self.out(dropout(pooled, self.drop, noise))))


class ImageHeads(nn.Module):
    """Features (B, n, K, C, h, w) -> (B, n * K * latent); a camera's head is shared by its stacked frames."""

    def __init__(
        self, cameras: int, shape: tuple[int, int, int], embeddings: int, latent: int, drop: float
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ImageHead(shape, embeddings, latent, drop) for _ in range(cameras))

    def forward(self, features: Tensor, noise: np.random.Generator | None = None) -> Tensor:
        batch, frames = features.shape[:2]
        features = features.float()
        parts = [
            head(features[:, :, k].flatten(0, 1), noise).view(batch, -1) for k, head in enumerate(self.heads)
        ]
        return parts[0].view(batch, -1) if len(parts) == 1 else torch.cat(parts, 1)


class Normalise(nn.Module):
    """States in physical units -> zero mean and unit variance of the data; degenerate components become 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: F32, std: F32) -> None:
        super().__init__()
        scale = np.where(std < DEGENERATE_STD, 0.0, 1.0 / np.maximum(std, DEGENERATE_STD))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, state: Tensor) -> Tensor:
        return (state - self.mean) * self.scale


class StateBranch(nn.Module):
    """Normalised states (B, n, S) -> (B, latent)."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.out = linear(inputs, latent)
        self.norm = nn.LayerNorm(latent)

    def forward(self, state: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.out(state.flatten(1))))


class Actor(nn.Module):
    """Image embedding (B, E) and normalised states (B, n, S) -> mean and std (B, A) before squashing."""

    def __init__(self, embedding: int, state: int, latent: int, hidden: Sequence[int], actions: int) -> None:
        super().__init__()
        self.branch = StateBranch(state, latent)
        sizes = [embedding + latent, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [linear(inputs, outputs), nn.LayerNorm(outputs), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        self.out = linear(sizes[-1], 2 * actions)

    def forward(self, image: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(torch.cat([image, self.branch(state)], 1))
        mean, log_std = self.out(hidden).chunk(2, 1)
        return mean, log_std.clamp(math.log(STD_MIN), math.log(STD_MAX))


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Action tanh(mean + std * noise) (B, A) and its log density (B,); `noise` is standard normal."""
    raw = mean + log_std.exp() * noise
    gauss = -0.5 * noise.square() - log_std - 0.5 * _LOG_2PI
    squash = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
    return torch.tanh(raw), (gauss - squash).sum(1)


class EnsembleLinear(nn.Module):
    """E linear layers: (E, B, in) -> (E, B, out), or (B, in) shared by all members -> (E, B, out).

    Plain products, because batched ones with transposed operands (the gradients) are 4 times slower on a CPU.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.members = members
        bound = math.sqrt(6.0 / (inputs + outputs))
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            wide = F.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
            return wide.view(len(x), self.members, -1).transpose(0, 1)
        parts = zip(x.unbind(), self.weight.unbind(), self.bias.unbind(), strict=True)
        return torch.stack([F.linear(*part) for part in parts])


class EnsembleNorm(nn.Module):
    """LayerNorm over the last axis of (E, B, size), each member with its own gain and offset."""

    def __init__(self, members: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, size))
        self.bias = nn.Parameter(torch.zeros(members, 1, size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.weight)


FIRST_VALUES = 0.1
"""Scale of the critics' last layer at the start."""


class Critic(nn.Module):
    """E value estimates of an action: embedding (B, D), states (B, n, S), action (B, A) -> (E, B)."""

    def __init__(
        self, members: int, embedding: int, state: int, latent: int, hidden: Sequence[int], actions: int
    ) -> None:
        super().__init__()
        self.branch = StateBranch(state, latent)
        sizes = [embedding + latent + actions, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [EnsembleLinear(members, inputs, outputs), EnsembleNorm(members, outputs), nn.Tanh()]
        last = EnsembleLinear(members, sizes[-1], 1)
        with torch.no_grad():  # first values near nothing: large random ones would pull at a cloned actor
            last.weight.mul_(FIRST_VALUES)
            last.bias.zero_()
        layers.append(last)
        self.body = nn.Sequential(*layers)

    def forward(self, image: Tensor, state: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([image, self.branch(state), action], 1)
        values: Tensor = self.body(inputs)
        return values.squeeze(2)
