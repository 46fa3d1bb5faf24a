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


def product_format(precision: str, device: torch.device) -> torch.dtype | None:
    """The format of `policy.precision` on `device`, None for that of the weights.

    "auto" is bfloat16 only where the processor multiplies it natively: elsewhere it is emulated, slowly.
    """
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            able = torch.cpu.get_capabilities()
            native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
        precision = "bfloat16" if native else "float32"
        log.info("matrix products in %s", precision)
    return {"float32": None, "bfloat16": torch.bfloat16}[precision]


def set_precision(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Let the image heads of `module` multiply in `dtype`; None: as their weights are.

    Nothing else does: with states and actions rounded to bfloat16 too, policies learned worse (devlog 004).
    """
    for part in module.modules():
        if isinstance(part, ImageHead):
            part.dtype = dtype


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent by way of the logistic function: 3 times faster than torch.tanh on a CPU."""
    return 2.0 * torch.sigmoid(2.0 * x) - 1.0


class Tanh(nn.Module):
    """`tanh` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return tanh(x)


class Dense(nn.Linear):
    """A linear layer with Xavier-uniform weights and no initial bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class ImageHead(nn.Module):
    """One camera's features (B, C, h, w) -> (B, latent): pooled by learned spatial weights, then squashed.

    Up to the output the batch is the last axis: each product, forward and backward, then runs over long
    contiguous rows (measured 3 times faster than batch first on a CPU).
    """

    dtype: torch.dtype | None = None

    def __init__(self, shape: tuple[int, int, int], embeddings: int, latent: int, drop: float) -> None:
        super().__init__()
        channels, height, width = shape
        kernel = torch.empty(channels, embeddings, height * width)
        self.kernel = nn.Parameter(nn.init.trunc_normal_(kernel, std=math.sqrt(1.0 / kernel[:, 0].numel())))
        self.out = Dense(channels * embeddings, latent)
        self.norm = nn.LayerNorm(latent)
        self.drop = drop

    @property
    def pooled(self) -> int:
        """Numbers a picture is pooled to: rows of the dropout mask."""
        return self.out.in_features

    def forward(self, features: Tensor, keep: Tensor | None) -> Tensor:
        """keep: dropout mask (pooled, B), None for none."""
        pooled = torch.bmm(self.kernel, features.flatten(2).permute(1, 2, 0)).flatten(0, 1)
        if keep is not None:
            pooled = pooled * keep
        weight: Tensor = self.out.weight
        if self.dtype is not None:
            weight, pooled = weight.to(self.dtype), pooled.to(self.dtype)
        hidden = torch.mm(weight, pooled).t().to(self.out.bias.dtype) + self.out.bias
        return tanh(self.norm(hidden))


class ImageHeads(nn.Module):
    """Features (B, n, K, C, h, w) -> (B, n * K * latent); a camera's head is shared by its stacked frames."""

    def __init__(
        self, cameras: int, shape: tuple[int, int, int], embeddings: int, latent: int, drop: float
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ImageHead(shape, embeddings, latent, drop) for _ in range(cameras))

    def each(self) -> list[ImageHead]:
        """The heads, in the order of the cameras."""
        return [head for head in self.heads if isinstance(head, ImageHead)]

    def forward(self, features: Tensor, keep: Sequence[Tensor] | None = None) -> Tensor:
        """keep: one dropout mask (pooled, B * n) for each camera."""
        batch = features.shape[0]
        masks: Sequence[Tensor | None] = keep or [None] * len(self.heads)
        parts = [
            head(features[:, :, k].flatten(0, 1), mask).view(batch, -1)
            for k, (head, mask) in enumerate(zip(self.heads, masks, strict=True))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


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
        self.out = Dense(inputs, latent)
        self.norm = nn.LayerNorm(latent)

    def forward(self, state: Tensor) -> Tensor:
        return tanh(self.norm(self.out(state.flatten(1))))


class Actor(nn.Module):
    """Image embedding (B, E) and normalised states (B, n, S) -> mean and std (B, A) before squashing."""

    def __init__(self, embedding: int, state: int, latent: int, hidden: Sequence[int], actions: int) -> None:
        super().__init__()
        self.branch = StateBranch(state, latent)
        sizes = [embedding + latent, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [Dense(inputs, outputs), nn.LayerNorm(outputs), Tanh()]
        self.body = nn.Sequential(*layers)
        self.out = Dense(sizes[-1], 2 * actions)

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

    `members` (int64) picks some of them; the result then has one entry for each. On a CPU plain products,
    because batched ones with transposed operands (the gradients) are 4 times slower there.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (inputs + outputs))
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if members is not None:
            weight, bias = weight[members], bias[members]
        if x.ndim == 2:
            wide = F.linear(x, weight.flatten(0, 1), bias.flatten())
            return wide.view(len(x), len(weight), -1).transpose(0, 1)
        if x.device.type == "cpu":
            parts = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
            return torch.stack([F.linear(*part) for part in parts])
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


class EnsembleNorm(nn.Module):
    """LayerNorm over the last axis of (E, B, size), each member with its own gain and offset."""

    def __init__(self, members: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, size))
        self.bias = nn.Parameter(torch.zeros(members, 1, size))

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if members is not None:
            weight, bias = weight[members], bias[members]
        return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), weight)


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
            layers += [EnsembleLinear(members, inputs, outputs), EnsembleNorm(members, outputs), Tanh()]
        last = EnsembleLinear(members, sizes[-1], 1)
        with torch.no_grad():  # first values near nothing: large random ones would pull at a cloned actor
            last.weight.mul_(FIRST_VALUES)
            last.bias.zero_()
        layers.append(last)
        self.body = nn.ModuleList(layers)

    def forward(self, image: Tensor, state: Tensor, action: Tensor, members: Tensor | None = None) -> Tensor:
        """members: the estimates wanted, int64; None: all."""
        x = torch.cat([image, self.branch(state), action], 1)
        for layer in self.body:
            x = layer(x) if isinstance(layer, Tanh) else layer(x, members)
        return x.squeeze(2)
