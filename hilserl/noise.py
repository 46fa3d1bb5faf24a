"""The randomness of an update, drawn beforehand as tensors, so that the losses are pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Normal draws, dropout masks and pairs of critics, the same for the same seed.

    With several processes (`world`) each draws for the whole batch and keeps every world-th row, from the
    `rank`-th on: together they use what one process alone would have used.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self._device, self._rank, self._world = device, rank, world
        self._bytes = np.random.default_rng(seed)
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, batch: int, size: int) -> Tensor:
        """Standard normal float32 (batch, size)."""
        drawn = torch.randn(batch * self._world, size, generator=self._generator, device=self._device)
        return drawn[self._rank :: self._world]

    def keep(self, drop: float, rows: int, batch: int, frames: int = 1) -> Tensor:
        """Dropout mask float32 (rows, batch * frames): about `drop` of it 0, the rest what keeps the mean."""
        shape = (rows, batch * self._world * frames)
        if self._device.type == "cpu":  # torch's own mask takes a quarter of an update's time there
            level = round(drop * 256)
            drawn = np.frombuffer(self._bytes.bytes(shape[0] * shape[1]), np.uint8).reshape(shape)
            kept = torch.from_numpy((drawn >= level).astype(np.float32)).mul_(256.0 / (256.0 - level))
        else:
            uniform = torch.rand(shape, generator=self._generator, device=self._device)
            kept = (uniform >= drop).float().div_(1.0 - drop)
        if self._world == 1:
            return kept
        return kept.view(rows, -1, frames)[:, self._rank :: self._world].flatten(1)

    def pair(self, members: int) -> Tensor:
        """Two different members of `members`, int64 (2,)."""
        drawn = torch.from_numpy(self._bytes.permutation(members)[:2])
        return drawn.to(self._device, non_blocking=True)

    def state(self) -> tuple[Tensor, dict[str, Any]]:
        """What `restore` takes: a tensor (for safetensors) and plain values (for JSON)."""
        return self._generator.get_state(), dict(self._bytes.bit_generator.state)

    def restore(self, generator: Tensor, plain: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._generator.set_state(generator.cpu())
        self._bytes.bit_generator.state = plain
