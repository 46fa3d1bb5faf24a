"""The trainable part of a reward classifier: trunk features of each camera in, one number out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilserl.networks import Dense, ImageHead, Tanh
from hilserl.noise import Noise

HIDDEN = 64
"""Width of the layer between the cameras' heads and the answer."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a configuration may choose of the network.

    num_spatial_embeddings: weights over the picture per channel. latent_dim: numbers each camera is reduced
    to. dropout: share of the pooled and of the latent numbers left out in training.
    """

    num_spatial_embeddings: int
    latent_dim: int
    dropout: float


class SuccessNetwork(nn.Module):
    """One ImageHead per camera, in the order of their names, then a small dense layer and one logit.

    shape: (C, h, w) of one camera's features.
    """

    def __init__(self, cameras: Collection[str], shape: tuple[int, int, int], sizes: Sizes) -> None:
        super().__init__()
        embeddings, latent, self.drop = sizes.num_spatial_embeddings, sizes.latent_dim, sizes.dropout
        self.heads = nn.ModuleDict(
            {camera: ImageHead(shape, embeddings, latent, self.drop) for camera in sorted(cameras)}
        )
        self.body = nn.Sequential(Dense(latent * len(self.heads), HIDDEN), nn.LayerNorm(HIDDEN), Tanh())
        self.out = Dense(HIDDEN, 1)

    def forward(self, features: Mapping[str, Tensor], noise: Noise | None = None) -> Tensor:
        """Logits (B,) of features {camera: float (B, C, h, w)}. noise: draws what is left out, if any."""
        parts = []
        for camera, head in self.heads.items():
            assert isinstance(head, ImageHead)
            batch = len(features[camera])
            keep = None if noise is None else noise.keep(self.drop, head.pooled, batch)
            parts.append(head(features[camera], keep))
        latent = torch.cat(parts, 1)
        if noise is not None:
            latent = latent * noise.keep(self.drop, latent.shape[1], len(latent)).t()
        logits: Tensor = self.out(self.body(latent))
        return logits.squeeze(1)
