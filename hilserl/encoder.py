"""Pictures to features: a trunk, and a fixed projection to fewer channels where asked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from hilserl.vision import F16, PASS_SIZE, STRIDE, Trunk, VisionError, frozen, tensors_hash
from robot.types import U8


class EncoderModule(nn.Module):
    """Trunk, then the fixed 1x1 projection where there is one: uint8 (B, H, W, 3) -> float (B, C, h, w)."""

    projection: Tensor | None

    def __init__(self, trunk: Trunk, projection: Tensor | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("projection", projection)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.trunk(images)
        if self.projection is not None:
            features = F.conv2d(features, self.projection[:, :, None, None])
        return features


class FeatureEncoder:
    """A trunk, and a fixed 1x1 projection to fewer channels where asked.

    projection: float32 (channels, trunk.channels) with orthonormal rows. Drawn from `seed` unless given;
    with seed None it must be given by `project` before the first picture. It belongs in the checkpoint.
    """

    def __init__(
        self,
        trunk: Trunk,
        channels: int,
        *,
        seed: int | None = 0,
        projection: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        if not 1 <= channels <= trunk.channels:
            raise VisionError(
                f"feature_channels must be 1 to {trunk.channels} (trunk width {trunk.width}), got {channels}"
            )
        self.device = torch.device(device)
        self.channels = channels
        self.module = EncoderModule(frozen(trunk), None).to(self.device)
        self._hash: str | None = None
        if projection is None and channels < trunk.channels and seed is not None:
            noise = torch.randn(trunk.channels, channels, generator=torch.Generator().manual_seed(seed))
            projection = torch.linalg.qr(noise).Q.T.contiguous()
        if projection is not None:
            self.project(projection)

    @property
    def trunk(self) -> Trunk:
        """The network before the projection."""
        return self.module.trunk

    @property
    def projection(self) -> Tensor | None:
        """float32 (channels, trunk.channels), None where all channels are kept."""
        return self.module.projection

    @property
    def complete(self) -> bool:
        """Whether it can encode: a projection to fewer channels is known."""
        return self.projection is not None or self.channels == self.trunk.channels

    def project(self, projection: Tensor) -> None:
        """Use this projection from now on; features encoded before are of another encoder."""
        if tuple(projection.shape) != (self.channels, self.trunk.channels):
            raise VisionError(
                f"the projection must be ({self.channels}, {self.trunk.channels}), "
                f"got {tuple(projection.shape)}"
            )
        self.module.projection = projection.to(self.device)
        self._hash = None

    def feature_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the features of a picture (H, W, 3)."""
        return self.channels, -(-image_shape[0] // STRIDE), -(-image_shape[1] // STRIDE)

    def hash(self) -> str:
        """sha256 of the weights and of the projection."""
        if any(parameter.requires_grad for parameter in self.trunk.parameters()):
            return tensors_hash(self._tensors())  # it learns: another one after each update
        if self._hash is None:
            self._hash = tensors_hash(self._tensors())
        return self._hash

    def _tensors(self) -> dict[str, Tensor]:
        tensors = dict(self.trunk.state_dict())
        if self.projection is not None:
            tensors["projection"] = self.projection
        return tensors

    @torch.inference_mode()
    def encode(self, images: U8) -> F16:
        """Features float16 (B, C, h, w) of pictures uint8 (B, H, W, 3)."""
        if not self.complete:
            raise VisionError(
                f"the projection of {self.trunk.channels} to {self.channels} channels is not known yet: the "
                "learner computes it from the first demonstrations"
            )
        features = self.module(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        half: F16 = features.contiguous().half().cpu().numpy()
        return half


@torch.inference_mode()
def principal_projection(trunk: Trunk, images: U8, channels: int) -> Tensor:
    """The `channels` directions, float32 (channels, trunk.channels), that hold most of the features' energy.

    images: uint8 (N, H, W, 3), of demonstrations. Not centred: the projection has no offset, and the mean is
    a direction like any other.
    """
    if not len(images):
        raise VisionError("the principal channels need pictures; none were given")
    energy = torch.zeros(trunk.channels, trunk.channels, dtype=torch.float64)
    device = next(trunk.parameters()).device
    for at in range(0, len(images), PASS_SIZE):
        maps = trunk(torch.from_numpy(np.ascontiguousarray(images[at : at + PASS_SIZE])).to(device))
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2).cpu().double()
        energy += rows.T @ rows
    _, directions = torch.linalg.eigh(energy)  # ascending
    best = directions[:, -channels:].flip(1).T
    # The sign of a direction is free: its largest part is made positive, so that the same data give one file.
    largest = best.gather(1, best.abs().argmax(1, keepdim=True))
    projection: Tensor = (best * largest.sign()).float().contiguous()
    return projection
